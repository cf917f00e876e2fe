"""Proximal step of the negative entropy on groups of states: ops, their kernel calls, derivatives, ``prox_softmax``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import prox_softmax as reference

__all__ = ["prox_softmax"]

KINDS = ("cpu", "cuda")
DTYPES = (torch.float32, torch.float64)

# --- kernels ---


def _kernel(run: Backend, y: Tensor, alpha: float) -> Tensor:
    y = y.contiguous()
    p = torch.empty_like(y)
    run.launch("prox_softmax", DTYPE_CODE[y.dtype], y, p, y.numel() // y.shape[-1], y.shape[-1], alpha)
    return p


def _bwd_kernel(run: Backend, p: Tensor, grad: Tensor, alpha: float) -> Tensor:
    p, grad = p.contiguous(), grad.contiguous()
    found, n = torch.empty_like(p), p.shape[-1]
    run.launch("prox_softmax_bwd", DTYPE_CODE[p.dtype], p, grad, found, p.numel() // n, n, alpha)
    return found


# --- the ops ---


def _forward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return [(y.to(device, dtype), 0.125), (y[:, 0].to(device, dtype), 1.0)]


def _backward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for y, alpha in _forward_examples(torch.device("cpu"), torch.float64):
        grad = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        p = reference.prox_softmax(y, alpha)
        found.append((p.to(device, dtype), grad.to(device, dtype), alpha))
    return found


BWD = Op(
    "prox_softmax_bwd",
    "(Tensor p, Tensor grad, float alpha) -> Tensor",
    family="prox_softmax",
    reference=reference.prox_softmax_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=lambda p, *_: p.new_empty(p.shape),
    examples=_backward_examples,
    dtypes=DTYPES,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.alpha = inputs[1]
    ctx.save_for_backward(output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return BWD.call(*ctx.saved_tensors, grad, ctx.alpha), None


FWD = Op(
    "prox_softmax",
    "(Tensor y, float alpha) -> Tensor",
    reference=reference.prox_softmax,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda y, *_: y.new_empty(y.shape),
    setup=_setup,
    backward=_backward,
    examples=_forward_examples,
    dtypes=DTYPES,
)

# --- the public function ---


def prox_softmax(y: Tensor, alpha: float) -> Tensor:
    """The step of a damped mean-field iteration: the point of a simplex near y that has some entropy, for each group.

    ``argmin over p in the simplex of |p - y|^2 / 2 + alpha (sum p log p - |p|^2 / 2)``, so that
    ``(1 - alpha) p + alpha log p`` and y differ by the same number in all states. alpha = 1 is the softmax; as alpha
    goes to 0, it becomes the projection onto the simplex.

    Args:
        y: (..., n) a group of n >= 1 states in the last dimension, in any floating-point dtype; half precision is
            computed in float32. States of -inf have probability 0 and gradient 0: pad smaller groups with them.
        alpha: in (0, 1].

    Returns:
        (..., n) probabilities, float32, or float64 for float64 ``y``. Differentiable any number of times and in forward
        mode. NaN or +inf in a group, or -inf in all of it, makes the group NaN.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: ``y`` has no states, or ``alpha`` is out of range.

    Backends: C++ (CPU), CUDA, plain torch. Deterministic; a group's result does not depend on the other groups.

    Reference: Feng, Winston, Kolter, "Monotone deep Boltzmann machines", TMLR 2023.

    Example:
        >>> import torch, probkernels as pk
        >>> y = torch.tensor([0.5, -0.2, 1.0])
        >>> pk.ops.prox_softmax(y, 0.125)
        tensor([0.2782, 0.0069, 0.7149])
        >>> torch.allclose(pk.ops.prox_softmax(y - 3, 0.125), pk.ops.prox_softmax(y, 0.125))
        True
    """
    op = "prox_softmax"
    checks.float_tensor(op, "y", y)
    if y.dim() == 0 or y.shape[-1] == 0:
        expected = "shape (..., states) with at least one state"
        raise ValueError(message(op, "y", expected, f"shape {tuple(y.shape)}"))
    checks.positive_fraction(op, "alpha", alpha)
    return FWD.call(y if y.dtype in DTYPES else y.float(), float(alpha))
