"""Selected entries of a weight tensor in plain torch: reads and writes them through both encodings.

The encodings ``index``, or ``words`` and ``ranks``, are described in :mod:`probkernels._core.formats.bitmap`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.formats.bitmap import positions


def selection_index(words: Tensor, ranks: Tensor, count: int) -> Tensor:
    """The index list of a bitmap: words (W), ranks (ceil(W/8)) -> (count) int32."""
    return positions(None, words, count).to(torch.int32)


def selection_gather(w: Tensor, index: Tensor | None, words: Tensor | None, ranks: Tensor | None, count: int) -> Tensor:
    """The selected entries of w (...), in order -> (count)."""
    return w.reshape(-1).index_select(0, positions(index, words, count))


def selection_scatter_(
    w: Tensor, values: Tensor, index: Tensor | None, words: Tensor | None, ranks: Tensor | None
) -> None:
    """Writes values (count), cast to w's dtype, over the selected entries of w (...)."""
    w.put_(positions(index, words, values.numel()), values.to(w.dtype))
