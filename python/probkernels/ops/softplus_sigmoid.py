"""Softplus and its derivative from one exponential: the ops, kernels' glue, and ``softplus_sigmoid``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import softplus_sigmoid as reference

__all__ = ["softplus_sigmoid"]

KINDS = ("cpu", "cuda")
NAME = "softplus_sigmoid"


def _kernel(run: Backend, x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    value, slope = _fake(x, beta)
    run.launch(NAME, DTYPE_CODE[x.dtype], x.contiguous(), value, slope, x.numel(), beta)
    return value, slope


def _bwd_kernel(run: Backend, grad_value: Tensor, grad_slope: Tensor, x: Tensor, beta: float) -> Tensor:
    grad = x.new_empty(x.shape)
    given = (grad_value.contiguous(), grad_slope.contiguous(), x.contiguous())
    run.launch(f"{NAME}_bwd", DTYPE_CODE[x.dtype], *given, grad, x.numel(), beta)
    return grad


def _fake(x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.beta = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad_value: Tensor, grad_slope: Tensor) -> tuple[Any, ...]:
    (x,) = ctx.saved_tensors
    return BACKWARD.call(grad_value, grad_slope, x, ctx.beta), None


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    x = torch.linspace(-2, 2, 15, device=device, dtype=dtype).view(3, 5)
    return [(x, 10.0), (x[0], 1.0)]


def _bwd_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    x = torch.linspace(-2, 2, 15, device=device, dtype=dtype).view(3, 5)
    return [(x.flip(0), x.cos(), x, 3.0)]


OP = Op(
    NAME,
    "(Tensor x, float beta) -> (Tensor, Tensor)",
    reference=reference.softplus_sigmoid,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=_fake,
    setup=_setup,
    backward=_backward,
    examples=_examples,
)

BACKWARD = Op(
    f"{NAME}_bwd",
    "(Tensor grad_value, Tensor grad_slope, Tensor x, float beta) -> Tensor",
    family=NAME,
    reference=reference.softplus_sigmoid_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=lambda grad_value, grad_slope, x, beta: x.new_empty(x.shape),
    examples=_bwd_examples,
)


def softplus_sigmoid(x: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Softplus ``log(1 + exp(beta x)) / beta`` and its derivative ``sigmoid(beta x)``, one exponential in one pass.

    The gradient of a network of softplus units in closed form needs both, in every layer. Unlike torch's softplus it
    never switches to the identity, so that it is smooth everywhere.

    Args:
        x: any shape and strides; float32, float64, float16 or bfloat16. NaN gives NaN.
        beta: sharpness, positive. As it grows, softplus tends to max(x, 0).

    Returns:
        Softplus and sigmoid, of the shape and dtype of ``x``. Differentiable any number of times.

    Raises:
        TypeError: ``x`` is not a real floating-point tensor, or ``beta`` not a number.
        ValueError: ``beta`` is not positive and finite.

    Backends: C++ (CPU), CUDA, plain torch. Computes in float32 for half precision and rounds once.

    Reference: Fang, Buchanan and Sulam, "What's in a Prior? Learned Proximal Networks for Inverse Problems", ICLR 2024.

    Example:
        >>> import torch, probkernels as pk
        >>> value, slope = pk.ops.softplus_sigmoid(torch.tensor([-9.0, 0.0, 9.0]), beta=10.0)
        >>> [round(v, 4) for v in value.tolist()], slope.tolist()
        ([0.0, 0.0693, 9.0], [0.0, 0.5, 1.0])
    """
    checks.float_tensor(NAME, "x", x)
    checks.positive(NAME, "beta", beta)
    return OP.call(x, float(beta))
