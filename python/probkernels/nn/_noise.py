"""Random numbers of stochastic units, as a function of a seed that a generator gives, and what units check."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.registry import HAVE_PRIVATE_NAMES, transforms_active
from ..ops.philox import philox_normal, philox_uniform

GOLDEN = 0x1E3779B97F4A7C15  # times the rank: seeds of ranks that drew the same number are far apart
SEEDS = 2**62


def known(*values: Tensor) -> bool:
    """Whether numbers can be looked at: not in torch.compile, torch.func and fake tensors."""
    traced = torch.compiler.is_compiling() or (HAVE_PRIVATE_NAMES and transforms_active())
    return not traced and checks.readable(*values)


def check_generator(op: str, generator: object) -> None:
    """Checks that ``generator`` is None or a torch.Generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        hint = "torch.Generator(device).manual_seed(0)"
        raise TypeError(message(op, "generator", "a torch.Generator or None", checks.describe(generator), hint))


def draw_seed(op: str, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(1,) int64 on ``device``: the next number of the generator, or of torch's own on that device.

    Processes of a distributed run are often seeded alike. Without a generator, the rank is mixed into the seed, so that
    their noise is independent.
    """
    check_generator(op, generator)
    source = device if generator is None else generator.device
    seed = torch.randint(SEEDS, (1,), generator=generator, device=source).to(device)
    if generator is None and dist.is_available() and dist.is_initialized():
        seed = (seed + dist.get_rank() * GOLDEN) & (2**63 - 1)
    return seed


def uniform(a: Tensor, seed: Tensor, step: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) of the shape of ``a``; float32 for half precision, whose steps are too coarse."""
    return philox_uniform(seed, (1, a.numel()), step=step, dtype=wide(a)).view(a.shape)


def normal(a: Tensor, seed: Tensor, step: int = 0) -> Tensor:
    """Standard normal numbers of the shape of ``a``; float32 for half precision."""
    return philox_normal(seed, (1, a.numel()), step=step, dtype=wide(a)).view(a.shape)


def wide(a: Tensor) -> torch.dtype:
    """The dtype to compute in: float32 for half precision."""
    return torch.float64 if a.dtype is torch.float64 else torch.float32


def check_rate(op: str, name: str, rate: float) -> None:
    """Checks that ``rate`` lies in (0, 1)."""
    checks.unit_interval(op, name, rate)
    if rate in (0, 1):
        raise ValueError(message(op, name, "a number in (0, 1)", repr(rate)))
