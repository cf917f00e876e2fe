"""What no metric may depend on: order of samples, weights written as repetitions, how a class is numbered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import uncertainty as un
from torch import Tensor

METRICS: dict[str, Callable[..., Tensor]] = {
    "auroc": un.auroc,
    "average_precision": un.average_precision,
    "brier": un.brier,
    "nll": un.nll,
    "ece": un.ece,
    "ece_mass": partial(un.ece, equal="mass", bins=4),
    "ece_bins": partial(un.ece, equal="mass", bins=4, weighted=False),
    "mce_mass": partial(un.mce, equal="mass", bins=4),
    "ks": un.ks,
    "debiased": partial(un.debiased_ece, bins=3),
    "debiased_l1": partial(un.debiased_ece, bins=3, norm="l1"),
    "smooth": un.smooth_ece,
}
SAMPLE = st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 3))


@st.composite
def drawn(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities on a grid that has 0 and 1 and ties, labels, and whole weights that are not all 0."""
    rows = draw(st.lists(SAMPLE, min_size=1, max_size=20).filter(lambda rows: any(row[2] for row in rows)))
    p, y, w = zip(*rows, strict=True)
    return torch.tensor(p, dtype=torch.float64) / 12, torch.tensor(y), torch.tensor(w, dtype=torch.float64)


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=15, deadline=None)
@given(case=drawn(), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 3.0]))
def test_order_repetition_and_scale_of_weights(
    name: str, case: tuple[Tensor, Tensor, Tensor], seed: int, scale: float
) -> None:
    metric, (p, y, w) = METRICS[name], case
    expected = metric(p, y, w)
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    same(metric(p[order], y[order], w[order]), expected)
    times = w.long()
    same(metric(p.repeat_interleave(times), y.repeat_interleave(times)), expected)
    if "debiased" not in name:  # weights count samples there
        same(metric(p, y, w * scale), expected)


@settings(max_examples=15, deadline=None)
@given(case=drawn())
def test_bins_of_a_merged_diagram_are_sums(case: tuple[Tensor, Tensor, Tensor]) -> None:
    p, y, _ = case
    fine, coarse = un.reliability(p, y, bins=8), un.reliability(p, y, bins=4)
    for name in ("confidence", "accuracy"):
        sums = (fine.count * getattr(fine, name)).nan_to_num().view(4, 2).sum(1)
        same(sums, (coarse.count * getattr(coarse, name)).nan_to_num())
    same(fine.count.view(4, 2).sum(1), coarse.count)
    assert un.ece(p, y, bins=4) <= un.ece(p, y, bins=8) + 1e-12  # finer bins see more


@settings(max_examples=15, deadline=None)
@given(case=drawn(), bins=st.integers(1, 9))
def test_bounds(case: tuple[Tensor, Tensor, Tensor], bins: int) -> None:
    p, y, _ = case
    whole = (p - y.double()).mean().abs()
    for equal in ("width", "mass"):
        mean, most = un.ece(p, y, bins=bins, equal=equal), un.mce(p, y, bins=bins, equal=equal)
        assert whole - 1e-12 <= mean <= most + 1e-12 and most <= 1
        assert un.reliability(p, y, bins=bins, equal=equal).count.sum() == len(p)
    assert whole - 1e-9 <= un.smooth_ece(p, y) <= (p - y.double()).abs().mean() + 1e-3
    same(un.auroc(p, y), 1 - un.auroc(-p, y))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_numbers_of_classes_do_not_matter(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(30, 3, generator=generator, dtype=torch.float64).softmax(1)
    labels, order = torch.randint(0, 3, (30,), generator=generator), torch.randperm(3, generator=generator)
    again, moved = probs[:, order], order.argsort()[labels]
    for metric in (un.ece, un.nll, un.brier, un.auroc, un.ks, partial(un.ece, mode="class_wise")):
        same(metric(again, moved), metric(probs, labels))
