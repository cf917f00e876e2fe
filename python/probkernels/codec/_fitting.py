"""Preparations for training: checks that memory is sufficient, and fits a flow if one is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.errors import message
from ..circuits.tree_structures import MAX_STRUCTURE_ROWS, STRUCTURE_LEVELS
from .frozen_flow import FrozenFlow
from .integer_flow import IntegerFlow
from .layout import Layout

FLOW_STEPS = 4000  # of AdamW, about what photos need
VALIDATION = 0.1  # of the rows, at most 1,000


def memory_needed(layout: Layout, items: int, most_rows: int) -> int:
    """Lower bound on the bytes that the rows of codes and the search for their tree need.

    Example:
        >>> from probkernels.codec import Layout
        >>> from probkernels.codec._fitting import memory_needed
        >>> memory_needed(Layout((1000, 1000, 3)), 1, 10) > 10**14
        True
    """
    variables = layout.variables
    rows = min(items * layout.rows_per_item, max(most_rows, layout.rows_per_item))
    pairs = 3 * 8 * variables**2  # the matrix of mutual information, its transpose and their sum
    indicators = 4 * min(rows, MAX_STRUCTURE_ROWS) * variables * STRUCTURE_LEVELS
    return pairs + indicators + 8 * rows * variables


def check_size(sizes: Sequence[int], latents: int) -> None:
    """Raises ValueError if the circuit's parameters and flows alone would need more memory than there is."""
    needed, there = 2 * 4 * latents * (sum(sizes) + latents * max(len(sizes) - 1, 0)), memory_there()
    if needed > there:
        wanted = f"a model that fits into this machine's {there / 1e9:,.0f} GB"
        got = f"{latents:,}, which with {sum(sizes):,} categories need {needed / 1e9:,.0f} GB"
        raise ValueError(message("train", "latents", wanted, got))


def memory_there() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(layout: Layout, items: int, most_rows: int) -> None:
    """Raises ValueError if training would need more memory than the machine has."""
    needed, there = memory_needed(layout, items, most_rows), memory_there()
    if needed > there:
        got = f"{layout.variables:,}, which need {needed / 1e9:,.0f} GB: every pair of them is compared"
        hint = "cut images into tiles (tile=, --tile 8x8), or items into shorter ones"
        wanted = f"items of fewer variables, for this machine's {there / 1e9:,.0f} GB"
        raise ValueError(message("train", "items", wanted, got, hint))


def fit_flow(x: Tensor, categories: int | Sequence[int], seed: int, progress: bool) -> FrozenFlow:
    """Fits an integer flow to most rows of x (N, V). The remaining rows choose the best epoch.

    Raises:
        ValueError: there is only one variable, so no other variable predicts it.
    """
    sizes = [categories] * x.shape[1] if isinstance(categories, int) else list(categories)
    flow = IntegerFlow(sizes, seed=seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held = min(1000, int(len(x) * VALIDATION))
    training, validation = x[order[held:]], x[order[:held]] if held else None
    epochs = max(1, FLOW_STEPS // -(-len(training) // 128))
    flow.fit(training, validation=validation, epochs=min(epochs, 200), seed=seed, progress=progress)
    return flow.freeze()
