"""The overlap index: closed values, SciPy's densities on a fine grid, outliers, equal numbers, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.uncertainty import overlap, overlap_index
from scipy.stats import gaussian_kde
from torch import Tensor

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def direct_overlap(a: np.ndarray, b: np.ndarray, points: int = 40_000) -> float:
    """The same with all exponentials, on one wide and fine grid."""
    spread = 7 * max(a.std(), b.std())
    grid, step = np.linspace(min(a.min(), b.min()) - spread, max(a.max(), b.max()) + spread, points, retstep=True)
    return float(np.minimum(gaussian_kde(a)(grid), gaussian_kde(b)(grid)).sum() * step)


def test_overlap_of_gaussians() -> None:
    a, b = normal(2, 10_000)
    assert overlap_index(a, b + 2).item() == pytest.approx(0.3173105, abs=0.02)
    assert overlap_index(a, a).item() == pytest.approx(1, abs=1e-6)
    assert overlap_index(a, b + 100).item() == 0


@pytest.mark.parametrize(
    ("size", "shift", "factor"), [(2, 0.3, 1), (30, 1, 0.01), (100, 0, 40), (100, 3, 1), (300, 2, 0.3)]
)
def test_overlap_is_the_integral_of_scipys_densities(size: int, shift: float, factor: float) -> None:
    a, b = normal(size), normal(100, seed=1) * factor + shift
    assert overlap_index(a, b).item() == pytest.approx(direct_overlap(a.numpy(), b.numpy()), abs=5e-4)
    assert overlap_index(b, a).item() == pytest.approx(overlap_index(a, b).item(), abs=1e-12)
    moved = overlap_index(a * 1e3 + 1e6, b * 1e3 + 1e6)
    assert moved.item() == pytest.approx(overlap_index(a, b).item(), abs=1e-6)


def test_overlap_of_heavy_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outliers make a range of hundreds of widths: more blocks, exponents that stay in range."""
    a = torch.cat([normal(600), torch.tensor([-4e3, 4e3], dtype=F64)])
    b = torch.cat([normal(600, seed=1) + 50, torch.tensor([-4e3, 4e3], dtype=F64)])
    expected = direct_overlap(a.numpy(), b.numpy(), 10_000)
    assert overlap_index(a, b).item() == pytest.approx(expected, abs=5e-4)
    monkeypatch.setattr(overlap, "LARGEST", 20.0)
    assert overlap_index(a, b).item() == pytest.approx(expected, abs=5e-4)
    tight = torch.cat([torch.zeros(3000, dtype=F64), torch.tensor([1e9], dtype=F64)])
    assert overlap_index(tight, tight).item() == pytest.approx(1, abs=1e-6)
    assert overlap_index(tight, b).isfinite()


def test_exponents_stay_in_range() -> None:
    ratio = torch.logspace(0, 5, 300, dtype=F64)  # the span of a grid in kernel widths
    step = ratio / overlap._blocks(ratio) / 2
    assert step.max() <= 1
    assert ((ratio / 2 + overlap.FAR) * step).max() < 600  # exp(709) is the largest number of float64
    outlier = torch.cat([normal(60_000), torch.tensor([1e9], dtype=F64)])  # 2000 widths away from the grid
    assert 0 < overlap_index(1e7 * normal(100), outlier) < 1


def test_overlap_of_equal_numbers() -> None:
    ones = torch.ones(5, dtype=F64)
    assert overlap_index(ones, ones).item() == pytest.approx(1, abs=1e-6)
    assert overlap_index(0 * ones, 0 * ones).item() == pytest.approx(1, abs=1e-6)
    assert overlap_index(ones, 2 * ones).item() == 0
    assert overlap_index(ones, normal(50)).item() < 1e-6


def test_overlap_of_a_row_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(6, 1, 20), normal(3, 50, seed=1) * torch.tensor([[0.01], [1.0], [30.0]], dtype=F64)
    found = overlap_index(a, b)
    assert found.shape == (6, 3)
    alone = torch.stack([torch.stack([overlap_index(one[0], other) for other in b]) for one in a])
    torch.testing.assert_close(found, alone, atol=1e-13, rtol=0)
    monkeypatch.setattr(overlap, "CPU_TILE", 1)
    torch.testing.assert_close(overlap_index(a, b), found, atol=1e-13, rtol=0)
    assert overlap_index(a[:0], b).shape == (0, 3) and overlap_index(a.half(), b.half()).dtype is torch.float16


@pytest.mark.parametrize(
    ("kind", "text", "call"),
    [
        (TypeError, "'first'", lambda: overlap_index([0.0, 1.0], torch.zeros(2))),
        (ValueError, "'second'.*S >= 2", lambda: overlap_index(torch.zeros(2), torch.zeros(1))),
        (ValueError, "'second'.*broadcast", lambda: overlap_index(torch.zeros(2, 5), torch.zeros(3, 5))),
        (ValueError, "'first'.*finite.*inf", lambda: overlap_index(torch.tensor([0, math.inf]), torch.zeros(2))),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(kind: type[Exception], text: str, call: Any) -> None:
    with pytest.raises(kind, match=text):
        call()
