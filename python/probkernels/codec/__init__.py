"""Lossless compression with circuits: compile one to a :class:`Program`, then encode and decode."""

from __future__ import annotations

from .coder import decode, decode_each, encode
from .program import Program

__all__ = ["Program", "decode", "decode_each", "encode"]
