"""Coding bytes with an adaptive model: bytes a second, beside general compressors of the standard library."""

from __future__ import annotations

import lzma
import zlib

import torch
from probkernels._core.formats.streams import packed
from probkernels.ops import adaptive_decode, adaptive_encode
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..machine import cores

ENCODE, DECODE = "encode", "decode"
BYTES, EACH = 1 << 20, 1 << 17


def grid(device: str) -> list[Params]:
    """Two orders, on one core and on all."""
    return [
        {"device": device, "dtype": "int32", "threads": threads, "order": order, "bytes": BYTES, "each": EACH}
        for order in (0, 2)
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Bytes (N) that walk a little up and down, with many repetitions."""
    steps = torch.randint(-2, 3, (params["bytes"],)) * (torch.rand(params["bytes"]) < 0.3)
    return {"data": (steps.cumsum(0) % 256).to(torch.uint8).to(device)}


def traffic(params: Params, mode: str) -> int:
    """The bytes, once."""
    return int(params["bytes"])


def _ours(inputs: Inputs, params: Params) -> Task:
    data, each, order = inputs["data"], params["each"], params["order"]

    def encode() -> tuple[Tensor, Tensor]:
        return adaptive_encode(data, each, order)

    joined, offsets = packed(*encode())
    starts = torch.arange(0, len(data) + 1, each, device=data.device)

    def decode() -> Tensor:
        return adaptive_decode(joined, offsets, starts, order, len(data))[0]

    return Task({ENCODE: Run(encode), DECODE: Run(decode)}, lambda: [decode()])


def _zlib(inputs: Inputs, params: Params) -> Task:
    plain = inputs["data"].numpy().tobytes()
    return _library(inputs, zlib.compress(plain, 9), lambda: zlib.compress(plain, 9), zlib.decompress)


def _xz(inputs: Inputs, params: Params) -> Task:
    plain = inputs["data"].numpy().tobytes()
    return _library(inputs, lzma.compress(plain), lambda: lzma.compress(plain), lzma.decompress)


def _library(inputs: Inputs, packed: bytes, encode, decode) -> Task:  # type: ignore[no-untyped-def]
    def found() -> list[Tensor]:
        return [torch.tensor(list(decode(packed)), dtype=torch.uint8)]

    return Task({ENCODE: Run(encode), DECODE: Run(lambda: decode(packed))}, found)


def _copied(inputs: Inputs, params: Params) -> Task:
    """What decoding must give."""
    data = inputs["data"]
    return Task({ENCODE: Run(data.clone), DECODE: Run(data.clone)}, lambda: [data.clone()])


CASE = Case(
    name="adaptive_code",
    modes=(ENCODE, DECODE),
    grid=grid,
    make=make,
    bytes=traffic,
    providers=(
        Provider("ours_cpu", _ours, _copied, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _copied, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("zlib -9", _zlib, _copied, devices=("cpu",)),
        Provider("xz -6", _xz, _copied, devices=("cpu",)),
        Provider("copy", _copied, _copied),
    ),
)
