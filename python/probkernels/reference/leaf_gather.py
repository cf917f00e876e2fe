"""Looks up log probabilities by category, and sums values by category, in plain torch.

``codes`` (V, B) holds the category of each variable in each sample. A negative code means missing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def leaf_gather(table: Tensor, codes: Tensor) -> Tensor:
    """table (V, C, K), codes (V, B) -> (V, K, B): table[v, codes[v, b], k]; 0 if missing.

    On the CPU, codes >= C or below -1 raise. On a GPU, codes >= C give NaN, because a check would wait for the device.
    """
    categories, units = table.shape[1:]
    _check("leaf_gather", codes, categories)
    at = codes.long().clamp(0, categories - 1)[..., None].expand(-1, -1, units)
    rows = torch.where((codes >= 0)[..., None], table.gather(1, at), 0.0)
    rows = torch.where((codes >= categories)[..., None], math.nan, rows)
    return rows.transpose(1, 2).contiguous()


def leaf_histogram(values: Tensor, codes: Tensor, categories: int) -> Tensor:
    """values (V, K, B), codes (V, B) -> (V, C, K): the sum of values[v, k, b] over the b of category c."""
    _check("leaf_histogram", codes, categories)
    (variables, units), here = values.shape[:2], (codes >= 0) & (codes < categories)
    at = torch.where(here, codes, categories).long()[..., None].expand(-1, -1, units)  # the others: a row of their own
    sums = values.new_zeros(variables, categories + 1, units).scatter_add(1, at, values.transpose(1, 2))
    return sums[:, :categories].contiguous()


def _check(op: str, codes: Tensor, categories: int) -> None:
    if codes.device.type != "cpu":
        return
    wrong = (codes < -1) | (codes >= categories)
    if wrong.any():
        variable, sample = wrong.nonzero()[0].tolist()
        wanted = f"expected categories below {categories}, or -1 for missing"
        got = f"{int(codes[variable, sample])} for variable {variable}"
        raise ValueError(f"{op}: argument 'codes': {wanted}, got {got}.")
