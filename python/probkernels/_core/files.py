"""Safetensors files with a digest that detects any damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from . import digests, outputs
from .errors import CorruptStreamError

DIGEST = "digest"
ABSENT = {torch.complex128, torch.complex32}  # dtypes without a name in safetensors


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    described = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    rest = {key: value for key, value in metadata.items() if key != DIGEST}
    head = json.dumps([described, rest], sort_keys=True).encode()
    return digests.of_bytes(head, *(digests.raw(tensors[name]) for name in sorted(tensors))).hex()


def write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file. The write is atomic: after a crash the old file is still there.

    Raises:
        TypeError: the format cannot hold a tensor. The message names it.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.dtype in ABSENT or tensor.is_quantized:
            got = f"{tensor.dtype}, {tensor.layout}"
            raise TypeError(f"'{path}': '{name}': expected a dense tensor of a dtype that safetensors holds, got {got}")
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    outputs.write_bytes(path, save(tensors, {**metadata, DIGEST: _digest(tensors, metadata)}))


def read(path: str | Path, *, digest: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors and metadata of a safetensors file. ``digest=False`` reads files from other programs.

    Raises:
        CorruptStreamError: the file is damaged or is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise CorruptStreamError(f"'{path}': not a safetensors file, or a damaged one ({error})") from None
    if digest and _digest(tensors, metadata) != metadata.get(DIGEST):
        raise CorruptStreamError(f"'{path}': the content does not match its digest")
    return tensors, metadata


def are_sizes(value: Any) -> bool:
    """Whether a value read from JSON is a list of sizes."""
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)
