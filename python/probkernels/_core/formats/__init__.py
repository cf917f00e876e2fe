"""Formats that references, kernels and the code around them agree on: instructions, bitmaps, streams."""
