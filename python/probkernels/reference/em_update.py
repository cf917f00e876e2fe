"""The M-step of expectation maximization in plain torch: distributions move towards normalized flows."""

from __future__ import annotations

import torch
from torch import Tensor


def em_update_(params: Tensor, flows: Tensor, kept: Tensor | None, step: float, pseudocount: float) -> None:
    """In place: params, flows (N, K, M) with distributions over axis 1; kept (N, M) or None.

    An entry of exactly 0 is no edge and stays 0. A distribution without flow does not change.
    """
    edges, old = params != 0, params.double()
    mass = torch.where(edges, flows, 0.0).double()
    total = mass.sum(1, keepdim=True) + pseudocount
    fresh = mass + pseudocount / edges.sum(1, keepdim=True, dtype=old.dtype)
    if kept is not None:  # observations that were missing leave the distribution as it was
        total = total + kept[:, None]
        fresh = fresh + kept[:, None] * old
    moved = (1 - step) * old + step * (fresh / total)
    params.copy_(torch.where(edges & (total != 0), moved, old))
