"""Formats that references, kernels and the code around them share: instructions, bitmaps, streams."""
