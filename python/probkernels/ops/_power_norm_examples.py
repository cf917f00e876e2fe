"""Example arguments of the PowerNorm ops, for ``probkernels.doctor`` and the composition tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _example(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    acc = torch.float64 if dtype is torch.float64 else torch.float32
    return {
        "x": normal(5, 2, 8),
        "grad_y": normal(5, 2, 8),
        "weight": 1 + 0.1 * normal(8),
        "bias": 0.1 * normal(8),
        "psi2": (0.5 + normal(8).square()).to(acc),
        "scale2": (0.5 + normal(8).square()).to(acc),
        "nu": 0.1 * normal(8).to(acc),
        "pad_mask": (torch.arange(10) % 5 == 3).reshape(5, 2).to(device),
    }


def examples(*names: str, rest: tuple[Any, ...] = ()) -> Any:
    """Argument tuples: first every option with group scaling and padding, then without any optional tensor."""

    def make(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
        full = _example(device, dtype)
        optional = {"weight", "bias", "nu", "pad_mask"}
        bare = {k: None if k in optional else v for k, v in full.items()}
        return [(*(full[n] for n in names), 2, 1e-5, *rest), (*(bare[n] for n in names), 0, 1e-5, *rest)]

    return make


def fwd_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """The tuples of :func:`examples`, and the full one without nu, which has derivatives."""
    full, bare = examples("x", "weight", "bias", "psi2", "nu", "pad_mask", rest=(False, False))(device, dtype)
    return [full, bare, (*full[:4], None, *full[5:])]
