"""Mutual information against two other programs, and trees of it against networkx and scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels.circuits import hclt, information, mutual_information
from probkernels.circuits.information import rooted_at_center, spanning_tree
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor

SIZES = [2, 5, 1, 3, 7, 2]


def columns(rows: int, sizes: Sequence[int], seed: int = 0) -> Tensor:
    """Columns that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randint(0, 7, (rows, 1), generator=generator)
    own = torch.randint(0, 3, (rows, len(sizes)), generator=generator)
    return (shared + own) % torch.tensor(sizes)


def naive(x: np.ndarray, sizes: Sequence[int], pseudocount: float) -> np.ndarray:
    """Cell by cell, as the definition is written."""
    found = np.zeros((len(sizes), len(sizes)))
    for i, a in enumerate(sizes):
        for j, b in enumerate(sizes):
            joint = np.full((a, b), pseudocount / (a * b))
            for row in x:
                joint[row[i], row[j]] += 1
            joint /= joint.sum()
            p, q = joint.sum(1), joint.sum(0)
            cells = [(u, v) for u in range(a) for v in range(b) if joint[u, v] > 0]
            found[i, j] = sum(joint[u, v] * math.log(joint[u, v] / (p[u] * q[v])) for u, v in cells)
            if i == j:
                p = (np.bincount(x[:, i], minlength=a) + pseudocount / a) / (len(x) + pseudocount)
                found[i, i] = -sum(v * math.log(v) for v in p if v > 0)
    return found


@pytest.mark.parametrize("pseudocount", [0.0, 0.1, 3])
@pytest.mark.parametrize("cells", [1, 60, 1 << 24])
def test_equals_the_definition(pseudocount: float, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(information, "CELLS", cells)
    x = columns(50, SIZES)
    found = mutual_information(x, SIZES, pseudocount)
    assert torch.equal(found, found.t())
    np.testing.assert_allclose(found.numpy(), naive(x.numpy(), SIZES, pseudocount), rtol=1e-9, atol=1e-12)


def test_equals_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    x = columns(200, SIZES, seed=1)
    found = mutual_information(x.to(torch.uint8), SIZES, 0.0)
    for i in range(len(SIZES)):
        for j in range(len(SIZES)):
            assert math.isclose(found[i, j], metrics.mutual_info_score(x[:, i], x[:, j]), abs_tol=1e-12)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9), cells=st.integers(1, 2000))
def test_blocks_cover_all_columns_and_fit(sizes: list[int], cells: int) -> None:
    whole, total = information.CELLS, sum(sizes)
    try:
        information.CELLS = cells
        blocks = information._blocks(sizes, total)
    finally:
        information.CELLS = whole
    assert [column for first, last in blocks for column in range(first, last)] == list(range(len(sizes)))
    assert all(last == first + 1 or sum(sizes[first:last]) * total <= cells for first, last in blocks)


def test_errors() -> None:
    x = columns(5, SIZES)
    for wrong in (x.double(), x > 1, x.tolist()):
        with pytest.raises(TypeError, match="mutual_information: argument 'x': expected an integer tensor"):
            mutual_information(wrong, 7)
    for wrong in (x[0], x[:0], x[:, :0]):
        with pytest.raises(ValueError, match=r"expected shape \(N, D\) with rows and columns"):
            mutual_information(wrong, 7)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="argument 'pseudocount': expected a number >= 0"):
            mutual_information(x, 7, wrong)
    with pytest.raises(ValueError, match="expected 6 numbers, one a column, got 2"):
        mutual_information(x, [7, 7])
    x[3, 4] = 7
    with pytest.raises(ValueError, match=r"expected values 0 .. 6, got 7 in row 3, column 4"):
        mutual_information(x, SIZES)
    x[3, 4] = -1
    with pytest.raises(ValueError, match=r"got -1 in row 3, column 4"):
        mutual_information(x, SIZES)


# --- trees ---


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 30), seed=st.integers(0, 1000))
def test_spanning_tree_is_as_heavy_as_others_find(size: int, seed: int) -> None:
    weight = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    weight = weight + weight.t()
    edges = spanning_tree(weight)
    tree = networkx.Graph(edges)
    assert networkx.is_tree(tree) and set(tree) == set(range(size))
    full = networkx.from_numpy_array(weight.numpy())
    expected = networkx.maximum_spanning_tree(full)
    assert {frozenset(edge) for edge in edges} == {frozenset(edge) for edge in expected.edges}
    total = sum(weight[i, j].item() for i, j in edges)
    assert math.isclose(total, -minimum_spanning_tree(-weight.triu(1).numpy()).sum())


def test_spanning_tree_of_equal_and_negative_weights() -> None:
    for weight in (torch.zeros(5, 5), -torch.ones(5, 5)):
        assert networkx.is_tree(networkx.Graph(spanning_tree(weight)))
    assert spanning_tree(torch.zeros(1, 1)) == []


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), seed=st.integers(0, 1000))
def test_root_is_a_center(size: int, seed: int) -> None:
    tree = networkx.random_labeled_tree(size, seed=seed)
    parents = rooted_at_center(list(tree.edges), size)
    assert parents.count(-1) == 1
    assert parents.index(-1) in networkx.center(tree)
    assert {frozenset((v, p)) for v, p in enumerate(parents) if p >= 0} == {frozenset(edge) for edge in tree.edges}


def test_autocast_leaves_counts_and_covariances_exact() -> None:
    x = torch.randint(0, 2, (2999, 4), generator=torch.Generator().manual_seed(0))  # counts that bfloat16 does not have
    circuit = hclt(x, latents=3)
    apart = mutual_information(x, 2), circuit.covariance()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = mutual_information(x, 2), circuit.covariance()
    for a, b in zip(apart, within, strict=True):
        assert torch.equal(a, b)
