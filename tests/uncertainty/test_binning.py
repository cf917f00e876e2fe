"""The two shortcuts of binning give what comparing with every edge, and sorting every sample, give."""

from __future__ import annotations

import pytest
import torch
from probkernels.uncertainty import _binning, _inputs

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bins", [1, 2, 3, 7, 10, 15, 49, 100, 1000])
def test_bins_of_equal_width_are_exact_at_their_edges(dtype: torch.dtype, bins: int) -> None:
    inner = _binning.inner_edges(bins, torch.zeros(1, dtype=dtype))
    edges = torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])
    beside = [torch.nextafter(edges, edges.new_full((), end)) for end in (-1.0, 2.0)]
    probs = torch.cat([edges, *beside, (edges[1:] + edges[:-1]) / 2, torch.rand(1000, dtype=dtype)]).clamp(0, 1)
    assert _binning.width_edges(probs, 1, bins).tolist() == [edges.tolist()]
    # A bucket is left-open and right-closed: the one below the first edge that is not less than the probability.
    assert torch.equal(_binning._width_bins(probs, bins), torch.bucketize(probs, inner))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bins", [1, 2, 15, 100])
@pytest.mark.parametrize("kind", ["uniform", "ties", "near 0", "near 1", "one value", "-0"])
def test_sorting_few_samples_equals_sorting_all(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bins: int, kind: str
) -> None:
    p = torch.rand(3000, dtype=dtype)
    probs = {
        "uniform": p, "ties": (p * 50).round() / 50, "near 0": p**20, "near 1": 1 - p * 1e-3,
        "one value": torch.full_like(p, 0.3), "-0": torch.where(p < 0.2, -0.0, p),
    }[kind]  # fmt: skip
    hit = torch.rand(3000) < probs
    monkeypatch.setattr(_binning, "CELL_BITS", 10)  # as full as the cells of a million samples
    for weight in (torch.ones(3000).double(), torch.rand(3000).double(), torch.full((3000,), 0.1).double()):
        monkeypatch.setattr(_binning, "MANY", 10_000)
        sums, edges = _binning._mass_column(probs, hit, weight, bins)
        monkeypatch.setattr(_binning, "MANY", 1)
        got, got_edges = _binning._mass_column(probs, hit, weight, bins)
        torch.testing.assert_close(got, sums, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(got_edges, edges, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_top_label_is_the_first_of_equal_entries(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(_inputs, "BLOCK", 70)  # 14 rows
    counts = torch.randint(1, 5, (400, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    probs, labels = counts / counts.sum(1, keepdim=True), torch.arange(400) % 5
    top, hit = _inputs.top_label(probs, labels)
    assert ((probs == top[:, None]).sum(1) > 1).sum() > 100
    assert torch.equal(top, probs.amax(1)) and torch.equal(hit, probs.argmax(1) == labels)
    assert len(_inputs.top_label(probs[:0], labels[:0])[1]) == 0
