"""Sums over windows of ranks: by a power series and by pairs, against the definition."""

from __future__ import annotations

import pytest
import torch
from probkernels import uncertainty as un
from probkernels.uncertainty import _gaussian_window

from tests.uncertainty.test_cape import drawn, of_kernel


@pytest.mark.parametrize(("n", "sigma", "window"), [(700, 0.05, 32), (700, 0.05, 33), (701, 0.2, 60), (300, 9, 999)])
def test_dense_and_sparse_windows_are_as_exact_as_the_definition(n: int, sigma: float, window: int) -> None:
    """Samples are dense near 0, where the series holds, and sparse near 1, where pairs are taken; weights differ."""
    probs, labels = drawn(n)
    probs = probs**4
    weight = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 20
    for given in (None, weight):
        got = un.kernel_targets(probs, labels, given, sigma=sigma, window=window)
        torch.testing.assert_close(got, of_kernel(probs, labels, sigma, window, given), rtol=1e-12, atol=0)


def test_narrow_windows_take_the_series_and_wide_ones_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, taken = _gaussian_window._by_pairs, []
    monkeypatch.setattr(_gaussian_window, "_by_pairs", lambda at, *rest: taken.append(len(at)) or pairs(at, *rest))
    probs, labels = drawn(4000)
    un.kernel_targets(probs, labels)
    assert taken == []
    un.kernel_targets(torch.cat([probs[:3850] / 1e3, 0.9 + probs[:150] / 1e3]), labels)
    assert taken == [300]  # the row of 200 samples that the gap divides, and the 100 below that they look at


def test_windows_of_one_outcome_or_without_weight_are_exact() -> None:
    probs, labels = torch.arange(2000) / 2000, torch.arange(2000) >= 1000
    targets = un.kernel_targets(probs, labels)
    assert torch.equal(targets[:900].unique(), torch.zeros(1)) and torch.equal(targets[1100:].unique(), torch.ones(1))
    targets = un.kernel_targets(probs, labels, (probs > 0.5).double())
    assert torch.equal(targets[:800], probs[:800])
