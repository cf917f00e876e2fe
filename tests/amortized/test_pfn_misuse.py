"""What users do to prior-fitted networks around a call: modes, copies, buffers, offsets, small dtypes, no queries."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.amortized import BarHead, ClassHead, GaussianHead, PFNClassifier, PFNRegressor, fit_prior

from .test_pfn import BORDERS, NEW, Lines, X, Y, sets, trained


def test_contexts_are_read_without_dropout() -> None:
    model = trained(GaussianHead(), dropout=0.5)
    x, y, new = (t[0] for t in sets())
    want = PFNRegressor(model.eval()).fit(x, y).predict(new)
    assert torch.equal(PFNRegressor(model.train()).fit(x, y).predict(new), want) and model.training


def test_weights_may_change_through_data() -> None:
    """As averages of weights are swapped in."""
    model = trained(GaussianHead())
    x, y, new = (t[0] for t in sets())
    fitted = PFNRegressor(model).fit(x, y)
    for p in model.parameters():
        p.data.copy_(p.data * 1.1)
    assert torch.equal(fitted.predict(new), PFNRegressor(model).fit(x, y).predict(new))


def test_offsets_of_float64_cost_no_digits() -> None:
    """Times in seconds since 1970, and targets far from 0, for a float32 model."""
    model = trained(BarHead(BORDERS), normalize_x="context").float()
    x, y, new = (t[0].numpy() for t in sets())
    x[:, 1] = new[:, 1] = 0.1  # a constant column stays one
    want = PFNRegressor(model, scale_y=True).fit(x, y).predict(new, return_std=True)
    moved = PFNRegressor(model, scale_y=True).fit(x + 2e9, y + 1e9).predict(new + 2e9, return_std=True)
    np.testing.assert_allclose(moved[0] - 1e9, want[0], atol=1e-5)
    np.testing.assert_allclose(moved[1], want[1], rtol=1e-5)
    classes = PFNClassifier(trained(ClassHead(2), normalize_x="context").float())
    probs = classes.fit(x, y > 0).predict_proba(new)
    np.testing.assert_allclose(classes.fit(x + 2e9, y > 0).predict_proba(new + 2e9), probs, atol=1e-5)


def test_a_cache_keeps_its_counts() -> None:
    model, counts = trained(GaussianHead()), torch.tensor([6, 2, 0])
    x, y, new = sets()
    cache = model.condition(x, y, counts=counts)
    want = model.query(cache, new).mean
    counts.fill_(1)
    assert torch.equal(model.query(cache, new).mean, want)


def test_no_queries_and_narrow_classes() -> None:
    model = trained(ClassHead(200))
    y = torch.arange(18).view(3, 6) + 100
    assert model(X, y, NEW[:, :0]).probs.shape == (3, 0, 200)
    assert torch.equal(model(X, y.to(torch.int8), NEW).probs, model(X, y, NEW).probs)


def of_a_copy() -> Any:
    """Adam of a model that is then copied."""
    model = trained(GaussianHead())
    return fit_prior(copy.deepcopy(model), Lines(), 2, optimizer=torch.optim.Adam(model.parameters()))


def cache_of(normalize_x: str | None, other: str | None) -> Any:
    """A query of one model with the cache of another."""
    first, second = (trained(GaussianHead(), normalize_x=how) for how in (normalize_x, other))
    return second.query(first.condition(X, Y), NEW)


@pytest.mark.parametrize(
    "call, text",
    [
        (of_a_copy, "'optimizer': expected one of the model's parameters"),
        (lambda: cache_of("context", None), "'cache': expected a cache without statistics"),
        (lambda: cache_of(None, "context"), "'cache': expected a cache with statistics"),
    ],
)
def test_what_belongs_to_another_model_is_refused(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
