"""Selected entries of a weight's gradient in plain torch, as SaRA trains them (Hu et al., ICLR 2025, arXiv:2409.06633).

Forms the whole gradient and gathers from it. ``index``, or ``words`` and ``ranks``, encode the selected entries, see
:mod:`probkernels._core.formats.bitmap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .selection import selection_index


def _positions(index: Tensor | None, words: Tensor | None, ranks: Tensor | None, count: int) -> Tensor:
    if index is not None:
        return index.long()
    assert words is not None
    assert ranks is not None
    return selection_index(words, ranks, count).long()


def _accumulate(t: Tensor) -> Tensor:
    return t if t.dtype is torch.float64 else t.float()


def sampled_matmul(
    grad_y: Tensor, x: Tensor, index: Tensor | None, words: Tensor | None, ranks: Tensor | None, count: int
) -> Tensor:
    """grad_y (T, O), x (T, I) -> values (count) of grad_y^T x (O, I), float32 (float64 for float64)."""
    return (_accumulate(grad_y).t() @ _accumulate(x)).flatten()[_positions(index, words, ranks, count)]


def unfold(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """x (N, C, *in) -> (N, C, *out, *kernel): the input of each tap of a convolution's kernel."""
    x = torch.nn.functional.pad(x, [p for size in reversed(padding) for p in (size, size)])
    for d, (k, s, spread) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + d, (k - 1) * spread + 1, s)[..., ::spread]
    return x


def sampled_conv(
    grad_y: Tensor,
    x: Tensor,
    index: Tensor | None,
    words: Tensor | None,
    ranks: Tensor | None,
    count: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """grad_y (N, O, *out), x (N, C, *in) -> values (count) of the gradient (O, C / groups, *kernel)."""
    n, taps, places = x.shape[0], torch.Size(kernel).numel(), math.prod(grad_y.shape[2:])  # no -1: n may be 0
    seen = unfold(_accumulate(x), kernel, stride, padding, dilation)
    seen = seen.reshape(n, groups, x.shape[1] // groups, places, taps)
    grad_y = _accumulate(grad_y).reshape(n, groups, grad_y.shape[1] // groups, places)
    return torch.einsum("ngot,ngctk->gock", grad_y, seen).flatten()[_positions(index, words, ranks, count)]
