"""Lossless compression with circuits: compile one to a :class:`Program`, encode and decode, and keep it in files."""

from __future__ import annotations

from .coder import decode, decode_each, encode
from .layout import Layout
from .pc_codec import PCCodec, ProgramCoder, open
from .program import Program
from .reader import CodecReader, Damage
from .writer import CodecWriter

__all__ = [
    "CodecReader",
    "CodecWriter",
    "Damage",
    "Layout",
    "PCCodec",
    "Program",
    "ProgramCoder",
    "decode",
    "decode_each",
    "encode",
    "open",
]
