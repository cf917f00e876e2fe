"""AdamW on the selected entries of many weights in plain torch, with moments in full precision or in 8-bit codes."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .._core.formats.bitmap import unpack

BLOCK = 256  # entries that share an absmax
DECADES = 7  # of magnitude that a codebook spans


def positions(index: Tensor, words: Tensor, size: int) -> Tensor:
    """Flat positions (count) int64 of a selection among ``size`` entries: index (count) or, if empty, words (W)."""
    return index.long() if index.numel() else unpack(words, size).nonzero()[:, 0]


def adamw(
    value: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The new value, m and v after step number ``step`` >= 1; all (count)."""
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad.square()
    root = v.sqrt() / (1 - beta2**step) ** 0.5 + eps
    return value * (1 - lr * weight_decay) - lr / (1 - beta1**step) * m / root, m, v


# --- 8-bit codes ---


@functools.cache
def codebook(signed: bool) -> Tensor:
    """The 256 values in [-1, 1] or [0, 1] that codes stand for, ascending, float32.

    Decade i, from 10^(i - 7) to 10^(i - 6), is cut into 2^i cells (unsigned: 2^(i + 1)), and the center of each is a
    value: fine near 1, where most of a block's sum lies, coarse six decades below. 0 and 1 are values too.
    """
    values = [0.0, 1.0]
    for i in range(DECADES):
        cells = 2**i if signed else 2 ** (i + 1)
        centers = [(0.1 + 0.9 * (k + 0.5) / cells) / 10 ** (DECADES - 1 - i) for k in range(cells)]
        values += centers + ([-c for c in centers] if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float64).float()


@functools.cache
def midpoints(signed: bool) -> Tensor:
    """The bounds (255), float32, between the values of neighboring codes: a value above midpoint i is nearer to code i
    + 1."""
    values = codebook(signed)
    return (values[1:] + values[:-1]) / 2


def _blocks(x: Tensor) -> Tensor:
    """x (count) as (blocks, 256), padded with zeros."""
    return torch.nn.functional.pad(x, (0, -x.numel() % BLOCK)).reshape(-1, BLOCK)


def quantize_blocks(x: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes (count) uint8 of x (count), each of the nearest value, and each block's absmax (ceil(count / 256)) in x's
    dtype."""
    blocks = _blocks(x)
    scale = blocks.abs().amax(1)
    ratio = blocks / torch.where(scale > 0, scale, 1.0)[:, None]
    codes = torch.bucketize(ratio, midpoints(signed).to(x.device, x.dtype))
    return codes.to(torch.uint8).flatten()[: x.numel()], scale


def dequantize_blocks(codes: Tensor, scale: Tensor, signed: bool) -> Tensor:
    """The values (count), in scale's dtype, of codes (count) in blocks with ``scale``."""
    values = codebook(signed).to(scale.device, scale.dtype)[_blocks(codes).long()]
    return (values * scale[:, None]).flatten()[: codes.numel()]


# --- the ops ---


def _start(weight: Tensor, values: Tensor | None, grad: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Current value and gradient (count) of the selected entries in the dtype of the update."""
    wide = torch.float64 if weight.dtype is torch.float64 else torch.float32
    value = weight.flatten()[at] if values is None else values
    if grad.shape != at.shape:
        grad = grad.flatten()[at]
    return value.to(wide), grad.to(wide)


def _finish(weight: Tensor, values: Tensor | None, at: Tensor, value: Tensor) -> None:
    weight.put_(at, value.to(weight.dtype))
    if values is not None:
        values.copy_(value)


def sparse_adamw_(
    weights: list[Tensor],
    values: list[Tensor],
    grads: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    index: list[Tensor],
    words: list[Tensor],
    ranks: list[Tensor],
    steps: list[int],
    *rule: float,
) -> None:
    """One step for every weight, in place; ``values`` is empty or has an empty tensor where there is no master copy.

    weights any shape, values, m, v (count), grads (count) or of the weight's shape, rule: lr, beta1, beta2, eps,
    weight_decay.
    """
    for k, weight in enumerate(weights):
        at = positions(index[k], words[k], weight.numel())
        master = values[k] if values and values[k].numel() else None
        value, m_new, v_new = adamw(*_start(weight, master, grads[k], at), m[k], v[k], steps[k], *rule)
        _finish(weight, master, at, value)
        m[k].copy_(m_new)
        v[k].copy_(v_new)


def sparse_adamw8_(
    weights: list[Tensor],
    values: list[Tensor],
    grads: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    m_scale: list[Tensor],
    v_scale: list[Tensor],
    index: list[Tensor],
    words: list[Tensor],
    ranks: list[Tensor],
    steps: list[int],
    *rule: float,
) -> None:
    """Like sparse_adamw_, with codes of m and of the square root of v: m, v (count) uint8, scales (ceil(count /
    256))."""
    for k, weight in enumerate(weights):
        at = positions(index[k], words[k], weight.numel())
        master = values[k] if values and values[k].numel() else None
        m_old = dequantize_blocks(m[k], m_scale[k], signed=True)
        v_old = dequantize_blocks(v[k], v_scale[k], signed=False).square()
        value, m_new, v_new = adamw(*_start(weight, master, grads[k], at), m_old, v_old, steps[k], *rule)
        _finish(weight, master, at, value)
        for state, new, signed in ((m, m_new, True), (v, v_new.sqrt(), False)):
            codes, scale = quantize_blocks(new, signed)
            state[k].copy_(codes)
            (m_scale if signed else v_scale)[k].copy_(scale)
