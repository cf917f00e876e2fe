"""Attention of queries over keys that they share and, each, one key of its own; two softmaxes merged into one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registry import transforms_active

MASKED = -1e30  # added to the scores of masked keys: exp(MASKED - anything) is 0, and MASKED - MASKED is not NaN
_FLASH: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: tuple[Tensor, Tensor] | None,
    bias: Tensor | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """Softmax attention (B, H, M, d) of ``query`` over N ``key``s (B, H, N, d) and over a key of its own.

    ``own`` holds the keys and values (B, H, M, d) that only their own query sees. ``bias``, float32, is added to the
    (M, N) scores; it broadcasts to them. Every query needs a key: one of its own, or N >= 1.
    """
    if query.numel() and key.numel() and _fast(query):
        if causal and scale <= 0:  # the kernel sets hidden scores to -inf before it scales them
            query, scale = (-query, -scale) if scale else (query * 0, 1.0)
        return _Flash.apply(query, key, value, *(own or (None, None)), bias, causal, scale)
    return attend_plain(query, key, value, own, bias, causal, scale)


def _fast(query: Tensor) -> bool:
    """Whether torch's flash kernel runs; it knows neither other devices nor transforms of functions."""
    known = _FLASH is not None and _FLASH_BACKWARD is not None
    return known and query.device.type == "cpu" and not transforms_active()


def attend_plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: tuple[Tensor, Tensor] | None,
    bias: Tensor | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """The same in differentiable torch, with all M N scores in memory."""
    wide = torch.float64 if query.dtype is torch.float64 else torch.float32
    q, k, v = query.to(wide), key.to(wide), value.to(wide)
    scores = q @ k.mT * scale
    if bias is not None:
        scores = scores + bias
    if causal:
        below = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~below, MASKED)
    if own is None:
        return (scores.softmax(-1) @ v).to(query.dtype)
    own_score = (q * own[0].to(wide)).sum(-1, keepdim=True) * scale
    weights = torch.cat([scores, own_score], -1).softmax(-1)
    return (weights[..., :-1] @ v + weights[..., -1:] * own[1].to(wide)).to(query.dtype)


def _rows(x: Tensor) -> Tensor:
    """The kernel reads a row as adjacent numbers."""
    return x if x.stride(-1) == 1 else x.contiguous()


class _Flash(torch.autograd.Function):
    """The log-sum-exp that the kernel returns has no derivative, so autograd through a merge of two attentions is
    wrong. The kernel's backward, however, needs of the forward only the output and the log-sum-exp of the whole
    softmax: given the merged ones it returns the exact gradients of its part."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        own_key: Tensor | None,
        own_value: Tensor | None,
        bias: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Tensor:
        q, k, v = _rows(query), _rows(key), _rows(value)
        out, lse = _FLASH(q, k, v, 0.0, causal, attn_mask=bias, scale=scale)
        if own_key is not None and own_value is not None:
            own_score = _own_score(q, own_key, scale, lse.dtype)
            merged = torch.logaddexp(lse, own_score)
            shared, own = (lse - merged).exp().unsqueeze(-1), (own_score - merged).exp().unsqueeze(-1)
            out, lse = (out * shared + own_value * own).to(query.dtype), merged
        ctx.save_for_backward(query, key, value, own_key, own_value, bias, out, lse)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, own_key, own_value, bias, out, lse = ctx.saved_tensors
        causal, scale = ctx.causal, ctx.scale
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # for a second derivative
            return _again(grad, (query, key, value, own_key, own_value), bias, causal, scale)
        q, k, v, grad = _rows(query), _rows(key), _rows(value), grad.contiguous()
        grads = _FLASH_BACKWARD(grad, q, k, v, out, lse, 0.0, causal, attn_mask=bias, scale=scale)
        if own_key is None:
            return *grads, None, None, None, None, None
        weight = (_own_score(q, own_key, scale, lse.dtype) - lse).exp().unsqueeze(-1)
        change = (grad * (own_value - out)).sum(-1, keepdim=True, dtype=lse.dtype) * weight * scale
        grad_query = (grads[0] + change * own_key).to(query.dtype)
        grad_own = (change * q).to(key.dtype), (weight * grad).to(value.dtype)
        return grad_query, grads[1], grads[2], *grad_own, None, None, None


def _own_score(query: Tensor, own_key: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return (query * own_key).sum(-1, dtype=dtype) * scale


def _again(
    grad: Tensor, given: tuple[Tensor | None, ...], bias: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor | None, ...]:
    """Gradients that have derivatives themselves. Views keep apart arguments that are one tensor."""
    with torch.enable_grad():
        views = [x.view_as(x) for x in given if x is not None]
        own = (views[3], views[4]) if len(views) == 5 else None
        out = attend_plain(views[0], views[1], views[2], own, bias, causal, scale)
    wanted = [x for x in views if x.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    grads = [next(found) if x.requires_grad else None for x in views]
    return *grads, *[None] * (8 - len(grads))
