"""Autograd: forward with the frozen weight, backward with the gradient of its selected entries only.

Backward functions are differentiable themselves. torch's ``once_differentiable`` does not suffice: it raises only if
the engine reaches it, so a gradient penalty or an inner step of meta-learning would silently lose its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import Selection
from ..ops.sampled_matmul import CONV, MATMUL
from ..ops.selection import GATHER, INDEX

Encoding = Sequence[Tensor | None]  # index, words, ranks of a selection


def _differentiable(weight: Tensor, values: Tensor, selection: Encoding) -> Tensor:
    """The weight; where the backward is to be differentiated, as a function of values (count)."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return weight
    chosen = Selection(weight.shape, values.numel(), *selection)
    return chosen.scatter(weight, chosen.gather(weight) + (values - values.detach()).to(weight.dtype))


class Selected(torch.autograd.Function):
    """Any other use of a weight: forms the dense gradient of one use, gathers the selected entries and frees it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, *selection: Tensor | None) -> Tensor:
        """``weight`` (...) itself; ``values`` (count) are where its gradient goes."""
        ctx.save_for_backward(*selection)
        ctx.count, ctx.dtype = values.numel(), values.dtype
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (...) -> (count)."""
        dense = grad.to_dense() if grad.is_sparse else grad.contiguous()
        return GATHER.call(dense, *ctx.saved_tensors, ctx.count).to(ctx.dtype), None, None, None, None


class Linear(torch.autograd.Function):
    """x (..., I), weight (O, I), bias (O) or None -> (..., O)."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, x: Tensor, bias: Tensor | None, *selection: Tensor | None
    ) -> Tensor:
        """As F.linear."""
        ctx.save_for_backward(x, weight, values, *selection)
        ctx.count, ctx.dtype = values.numel(), values.dtype
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (..., O) -> gradients of values (count), x (..., I) and bias (O)."""
        x, weight, held, *selection = ctx.saved_tensors
        wants_values, _, wants_x, wants_bias, *_ = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])  # (T, O)
        values = grad_x = bias = None
        if wants_values:
            values = MATMUL.call(rows, x.reshape(-1, x.shape[-1]), *selection, ctx.count).to(ctx.dtype)
        if wants_x:
            grad_x = grad.matmul(_differentiable(weight, held, selection).to(grad.dtype))
        if wants_bias:
            bias = rows.sum(0, dtype=ctx.dtype)
        return values, None, grad_x, bias, None, None, None


class Conv(torch.autograd.Function):
    """x (N, I, *in), weight (O, I / groups, *kernel), bias (O) or None -> (N, O, *out)."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        x: Tensor,
        bias: Tensor | None,
        index: Tensor | None,
        words: Tensor | None,
        ranks: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        """As F.conv1d, F.conv2d or F.conv3d."""
        ctx.save_for_backward(x, weight, values, index, words, ranks)
        ctx.count, ctx.dtype = values.numel(), values.dtype
        ctx.settings = stride, padding, dilation, groups
        convolve = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
        return convolve(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (N, O, *out) -> gradients of values (count), x (N, I, *in) and bias (O)."""
        x, weight, held, *selection = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        wants_values, _, wants_x, wants_bias, *_ = ctx.needs_input_grad
        values = grad_x = bias = None
        if wants_values:
            kernel = weight.shape[2:]
            sampled = CONV.call(grad, x, *selection, ctx.count, kernel, stride, padding, dilation, groups)
            values = sampled.to(ctx.dtype)
        if wants_x:
            out_padding = [0] * len(stride)
            dense = _differentiable(weight, held, selection).to(grad.dtype)
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, dense, None, stride, padding, dilation, False, out_padding, groups, [True, False, False]
            )[0]
        if wants_bias:
            bias = grad.sum([0, *range(2, grad.dim())], dtype=ctx.dtype)
        return (values, None, grad_x, bias, *[None] * 7)


class Embedding(torch.autograd.Function):
    """ids (...) int, weight (V, D) -> (..., D)."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, ids: Tensor, padding_idx: int, *selection: Tensor | None
    ) -> Tensor:
        """As F.embedding; ``padding_idx`` is -1 where there is none."""
        ctx.save_for_backward(ids, *selection)
        ctx.count, ctx.dtype, ctx.rows, ctx.padding_idx = values.numel(), values.dtype, weight.shape[0], padding_idx
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (..., D) -> (count): sums over the looked-up rows only."""
        ids, *selection = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).to(ctx.dtype)  # (T, D)
        sums = _embedding_sums(rows, ids.reshape(-1), ctx.rows, ctx.padding_idx, selection, ctx.count)
        return sums, None, None, None, None, None, None


def _embedding_sums(grad: Tensor, ids: Tensor, table: int, padding_idx: int, selection: Encoding, count: int) -> Tensor:
    """Selected entries (count) of the (table, D) sum of grad (T, D) at ids (T), of which min(T, table) rows exist."""
    add = torch.ops.aten.embedding_dense_backward  # deterministic on a GPU too
    if ids.numel() >= table:
        return GATHER.call(add(grad, ids, table, padding_idx, False), *selection, count)
    ordered, order = ids.sort()
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    place = fresh.cumsum(0) - 1  # (T) the row of `sums` that each id adds to
    sums = add(grad[order], place, ids.numel(), -1, False)  # (T, D), the rows after the last id stay 0
    rows = torch.full((table,), ids.numel(), dtype=torch.int32, device=ids.device)
    rows[ordered] = place.int()
    if padding_idx >= 0:
        rows[padding_idx] = ids.numel()
    index = selection[0]
    if index is None:
        index = INDEX.call(selection[1], selection[2], count)
    d = grad.shape[1]
    row = rows[torch.div(index, d, rounding_mode="floor").long()].long()  # (count)
    return torch.cat([sums, sums.new_zeros(1, d)])[row, (index % d).long()]
