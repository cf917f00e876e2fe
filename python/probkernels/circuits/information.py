"""Pairwise mutual information of discrete columns, computed as one matrix product of indicators, and spanning trees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.checks import integer_tensor, non_negative
from .._core.errors import message

CELLS = 1 << 24  # of joint counts at once: 128 MiB in float64


def mutual_information(x: Tensor, categories: int | Sequence[int], pseudocount: float = 0.1) -> Tensor:
    """Mutual information of every pair of columns, in nats.

    Args:
        x: (N, D) integers. Column i has values 0 .. categories[i] - 1.
        categories: number of categories of each column, or one number for all.
        pseudocount: virtual observations, spread evenly over the cells of each joint histogram.

    Returns:
        (D, D) float64, symmetric. The diagonal is the entropy of each column, from its marginal with the same
        smoothing.

    Raises:
        TypeError: x is not an integer tensor.
        ValueError: x has the wrong shape, no rows or values outside the alphabet, or ``pseudocount`` is negative.

    Reference:
        Chow and Liu, Approximating discrete probability distributions with dependence trees, 1968.

    Example:
        >>> import torch
        >>> from probkernels.circuits import mutual_information
        >>> x = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> mutual_information(x, 2, pseudocount=0.0).round(decimals=4)
        tensor([[0.6931, 0.6931, 0.0000],
                [0.6931, 0.6931, 0.0000],
                [0.0000, 0.0000, 0.6931]], dtype=torch.float64)
    """
    sizes = check_columns(x, categories, pseudocount)
    n, d = x.shape
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    columns = (x.long() + offsets[:-1].to(x.device)).flatten()
    total = int(offsets[-1])
    indicators = torch.zeros(n, total, device=x.device)  # exact counts in float32 up to 2**24
    indicators.view(-1)[torch.arange(n, device=x.device).repeat_interleave(d) * total + columns] = 1
    size = torch.tensor(sizes, dtype=torch.float64, device=x.device)
    entry_size = size.repeat_interleave(torch.tensor(sizes, device=x.device))  # (total,)
    marginal = (indicators.double().sum(0) + pseudocount / entry_size) / (n + pseudocount)
    own = torch.arange(d, device=x.device).repeat_interleave(torch.tensor(sizes, device=x.device))
    information = torch.zeros(d, d, dtype=torch.float64, device=x.device)
    for first, last in _blocks(sizes, total):  # a pair of blocks is visited once
        rows, on = slice(int(offsets[first]), int(offsets[last])), slice(int(offsets[first]), total)
        with torch.autocast(x.device.type, enabled=False):  # half precision counts to 256
            joint = (indicators[:, rows].t() @ indicators[:, on]).double()
        joint = (joint + pseudocount / (entry_size[rows, None] * entry_size[on])) / (n + pseudocount)
        cells = torch.xlogy(joint, joint / (marginal[rows, None] * marginal[on])).nan_to_num(0.0)  # unused: 0 / 0
        by_column = cells.new_zeros(len(cells), d).index_add_(1, own[on], cells)
        found = cells.new_zeros(last - first, d).index_add_(0, own[rows] - first, by_column)
        information[first:last, first:] = found[:, first:]
    information = information.triu() + information.triu(1).t()  # symmetric to the last bit, whatever the blocks
    entropy = information.new_zeros(d).index_add_(0, own, -torch.xlogy(marginal, marginal))
    information.diagonal().copy_(entropy)
    return information


def check_columns(
    x: Tensor, categories: int | Sequence[int], pseudocount: float = 0.0, op: str = "mutual_information"
) -> list[int]:
    """The number of categories of each column of x (N, D). Raises the errors of :func:`mutual_information`."""
    integer_tensor(op, "x", x, "bin continuous columns first")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(message(op, "x", "shape (N, D) with rows and columns", f"shape {tuple(x.shape)}"))
    non_negative(op, "pseudocount", pseudocount)
    sizes = [categories] * x.shape[1] if isinstance(categories, int) else list(categories)
    if len(sizes) != x.shape[1]:
        raise ValueError(message(op, "categories", f"{x.shape[1]} numbers, one a column", f"{len(sizes)}"))
    wrong = (x < 0) | (x >= torch.tensor(sizes, device=x.device))
    if wrong.any():
        item, column = wrong.nonzero()[0].tolist()
        got = f"{int(x[item, column])} in row {item}, column {column}"
        raise ValueError(message(op, "x", f"values 0 .. {sizes[column] - 1}", got))
    return sizes


def _blocks(sizes: Sequence[int], total: int) -> list[tuple[int, int]]:
    """Ranges of columns. The joint counts of a range with all columns fit in memory."""
    blocks, first, rows = [], 0, 0
    for column, size in enumerate(sizes):
        if rows and (rows + size) * total > CELLS:
            blocks.append((first, column))
            first, rows = column, 0
        rows += size
    return [*blocks, (first, len(sizes))]


def spanning_tree(weight: Tensor) -> list[tuple[int, int]]:
    """Edges (i, j) of the maximum spanning tree of a symmetric (D, D) matrix, by Prim's algorithm.

    Example:
        >>> import torch
        >>> from probkernels.circuits.information import spanning_tree
        >>> spanning_tree(torch.tensor([[0.0, 3.0, 1.0], [3.0, 0.0, 2.0], [1.0, 2.0, 0.0]]))
        [(0, 1), (1, 2)]
    """
    weight = weight.cpu().double()
    inside = torch.zeros(len(weight), dtype=torch.bool)
    inside[0] = True
    best, via = weight[0].clone(), torch.zeros(len(weight), dtype=torch.int64)
    edges = []
    for _ in range(len(weight) - 1):
        new = int(best.masked_fill(inside, -float("inf")).argmax())
        edges.append((int(via[new]), new))
        inside[new] = True
        closer = weight[new] > best
        best, via = torch.where(closer, weight[new], best), via.masked_fill(closer, new)
    return edges


def rooted_at_center(edges: Sequence[tuple[int, int]], count: int) -> list[int]:
    """The parent of each of ``count`` vertices of a tree, -1 for the root. The root is the center: it minimizes the
    depth.

    Example:
        >>> from probkernels.circuits.information import rooted_at_center
        >>> rooted_at_center([(0, 1), (1, 2)], 3)
        [1, -1, 1]
    """
    near: list[list[int]] = [[] for _ in range(count)]
    for i, j in edges:
        near[i].append(j)
        near[j].append(i)
    longest = _walk(near, _walk(near, 0)[0][-1])
    end = longest[0][-1]
    path = [end]
    while longest[1][path[-1]] >= 0:
        path.append(longest[1][path[-1]])
    return _walk(near, path[len(path) // 2])[1]


def _walk(near: Sequence[Sequence[int]], start: int) -> tuple[list[int], list[int]]:
    """Breadth-first search from ``start``. Returns the vertices in order, and the parent of each."""
    parent = [-2] * len(near)
    parent[start] = -1
    order = [start]
    for vertex in order:
        for other in near[vertex]:
            if parent[other] == -2:
                parent[other] = vertex
                order.append(other)
    return order, parent
