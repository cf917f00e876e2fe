"""Lossless compression with circuits: compile a circuit to a :class:`Program`, encode and decode data, read and write
files."""

from __future__ import annotations

from .adaptive import AdaptiveCoder
from .coder import decode, decode_each, encode
from .frozen_flow import FrozenFlow
from .integer_flow import IntegerFlow
from .layout import Layout
from .paper_order import PaperOrder, paper_conditionals
from .pc_codec import FlowCoder, PCCodec, ProgramCoder, open
from .program import Program
from .reader import CodecReader, Damage
from .training import train
from .vocabulary import Vocabulary
from .writer import CodecWriter

__all__ = [
    "AdaptiveCoder",
    "CodecReader",
    "CodecWriter",
    "Damage",
    "FlowCoder",
    "FrozenFlow",
    "IntegerFlow",
    "Layout",
    "PCCodec",
    "PaperOrder",
    "Program",
    "ProgramCoder",
    "Vocabulary",
    "decode",
    "decode_each",
    "encode",
    "open",
    "paper_conditionals",
    "train",
]
