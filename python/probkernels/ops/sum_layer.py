"""Layers of sum units over log values: ops, their kernel calls, derivatives, ``sum_layer`` and ``sum_layer_bwd``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import sum_layer as reference

__all__ = ["sum_layer", "sum_layer_bwd"]

KINDS = ("cpu", "triton")
DTYPES = (torch.float32, torch.float64)

# --- kernels ---


def _launch(run: Backend, name: str, tensors: list[Tensor], outs: int) -> None:
    """Runs kernel ``name`` on x (G, I, B), weights (G, O, I) and the other tensors, inputs before outputs."""
    if run.kind == "triton":
        from ..triton_kernels import sum_layer as kernels  # imports triton, which a CPU machine may not have

        getattr(kernels, name)(*tensors)
    else:
        groups, ins, batch = tensors[0].shape
        run.launch(name, DTYPE_CODE[tensors[0].dtype], *tensors, groups, outs, ins, batch)


def _kernel(run: Backend, x: Tensor, weights: Tensor) -> Tensor:
    y = x.new_empty(x.shape[0], weights.shape[1], x.shape[2])
    if y.numel():
        _launch(run, "sum_layer", [x.contiguous(), weights.contiguous(), y], y.shape[1])
    return y


def _bwd_kernel(run: Backend, x: Tensor, weights: Tensor, y: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    grads = x.new_empty(x.shape), weights.new_empty(weights.shape)
    if y.numel() == 0:
        return grads[0].zero_(), grads[1]
    inputs = [t.contiguous() for t in (x, weights, y, grad_y)]
    _launch(run, "sum_layer_bwd", [*inputs, *grads], y.shape[1])
    return grads


# --- examples: what doctor and the composition tests run every op on ---


def _example(device: torch.device, dtype: torch.dtype, groups: int, outs: int, ins: int, batch: int) -> list[Tensor]:
    """Example x, weights with some zeros, y and grad_y."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weights = 3 * normal(groups, ins, batch), normal(groups, outs, ins).abs()
    weights[:, :, 1:] *= weights[:, :, 1:] > 0.3
    y, grad_y = reference.sum_layer(x, weights), normal(groups, outs, batch)
    return [t.to(device, dtype) for t in (x, weights, y, grad_y)]


def _examples(count: int) -> Any:
    """Example arguments: the first ``count`` arguments of a small layer."""

    def make(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
        return [tuple(_example(device, dtype, 2, 4, 3, 5)[:count])]

    return make


# --- the ops ---


def _bwd_fake(x: Tensor, weights: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weights.new_empty(weights.shape)


BWD = Op(
    "sum_layer_bwd",
    "(Tensor x, Tensor weights, Tensor y, Tensor grad_y) -> (Tensor, Tensor)",
    family="sum_layer",
    reference=reference.sum_layer_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=_bwd_fake,
    examples=_examples(4),
    dtypes=DTYPES,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    return BWD.call(*ctx.saved_tensors, grad_y)


FWD = Op(
    "sum_layer",
    "(Tensor x, Tensor weights) -> Tensor",
    reference=reference.sum_layer,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda x, weights: x.new_empty(x.shape[0], weights.shape[1], x.shape[2]),
    setup=_setup,
    backward=_backward,
    examples=_examples(2),
    dtypes=DTYPES,
)

# --- public functions ---


def _check(op: str, x: Tensor, weights: Tensor) -> None:
    checks.wide_float_tensor(op, "x", x)
    checks.wide_float_tensor(op, "weights", weights)
    if x.dim() != 3 or x.shape[1] == 0:
        expected = "shape (groups, in-units, batch) with at least one in-unit"
        raise ValueError(message(op, "x", expected, f"shape {tuple(x.shape)}", "the batch is the last axis"))
    outs = weights.shape[1] if weights.dim() == 3 else "out-units"
    if weights.dim() != 3 or (weights.shape[0], weights.shape[2]) != tuple(x.shape[:2]):
        expected = f"shape ({x.shape[0]}, {outs}, {x.shape[1]}), (groups, out-units, in-units) for this 'x'"
        raise ValueError(message(op, "weights", expected, f"shape {tuple(weights.shape)}"))
    _same_kind(op, "weights", weights, x)


def _same_kind(op: str, name: str, value: Tensor, x: Tensor) -> None:
    checks.same_device(op, name, value, x, "x")
    if value.dtype is not x.dtype:
        raise TypeError(message(op, name, f"the dtype of 'x' ({x.dtype})", str(value.dtype), "cast one of them"))


def sum_layer(x: Tensor, weights: Tensor) -> Tensor:
    """A layer of sum units over log values: ``y[g, o, b] = log sum_i weights[g, o, i] exp(x[g, i, b])``.

    There are G groups of O sum units. A sum unit mixes the I input units of its group. The sum is stable: a term is not
    lost because another is much larger or because its weight is tiny. Inputs of -inf (probability 0) and zero weights
    are allowed, and the gradients are exact.

    Args:
        x: (G, I, B) float32 or float64 log values, I >= 1; any strides.
        weights: (G, O, I) of the same dtype, >= 0 (not checked). They need not sum to 1.

    Returns:
        y (G, O, B). -inf where all inputs with a nonzero weight are -inf; the gradient there is 0. +inf and NaN reach
        the outputs with a nonzero weight for them. Differentiable any number of times and in forward mode, also in a
        weight that is 0.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or device is wrong.

    Backends: C++ (CPU), Triton (GPU), plain torch. Deterministic.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> x = torch.tensor([[[0.1, 0.5], [0.3, 0.0]]]).log()
        >>> weights = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
        >>> pk.ops.sum_layer(x, weights).exp()
        tensor([[[0.2000, 0.2500],
                 [0.1000, 0.5000]]])
    """
    _check("sum_layer", x, weights)
    return FWD.call(x, weights)


def sum_layer_bwd(x: Tensor, weights: Tensor, y: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """The backward pass of :func:`sum_layer`. If ``grad_y`` is the flow of the outputs, it is a circuit's backward
    flow.

    For every group, ``grad_x[i, b] = sum_o weights[o, i] grad_y[o, b] exp(x[i, b] - y[o, b])`` and ``grad_weights[o, i]
    = sum_b grad_y[o, b] exp(x[i, b] - y[o, b])``. So ``weights * grad_weights`` is the flow through each edge, summed
    over the batch.

    Args:
        x: (G, I, B) float32 or float64 log values.
        weights: (G, O, I) of the same dtype.
        y: (G, O, B), the output of :func:`sum_layer` for x and weights.
        grad_y: (G, O, B) gradient or flow of y.

    Returns:
        grad_x (G, I, B) and grad_weights (G, O, I). Outputs of -inf add nothing to them. In grad_weights, exp(x - y) is
        clamped to the largest finite power of e; only inputs whose weight is zero or subnormal reach this.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or device is wrong.

    Backends: as :func:`sum_layer`. Deterministic.

    Reference: as :func:`sum_layer`, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> x, weights = torch.tensor([[[0.1], [0.3]]]).log(), torch.tensor([[[0.75, 0.25]]])
        >>> y = pk.ops.sum_layer(x, weights)
        >>> flow, grad_weights = pk.ops.sum_layer_bwd(x, weights, y, torch.ones(1, 1, 1))
        >>> flow.flatten(), (weights * grad_weights).flatten()
        (tensor([0.5000, 0.5000]), tensor([0.5000, 0.5000]))
    """
    _check("sum_layer_bwd", x, weights)
    for name, value in (("y", y), ("grad_y", grad_y)):
        checks.wide_float_tensor("sum_layer_bwd", name, value)
        expected = (x.shape[0], weights.shape[1], x.shape[2])
        checks.shape("sum_layer_bwd", name, value, expected, "(groups, out-units, batch)")
        _same_kind("sum_layer_bwd", name, value, x)
    return BWD.call(x, weights, y, grad_y)
