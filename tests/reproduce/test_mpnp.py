"""The MPNP experiment: its tasks, a miniature run, its claims on made-up records."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.reproduce import mpnp
from probkernels.reproduce.mpnp import experiment, model
from probkernels.reproduce.mpnp.records import FEW, FUNCTIONS, HEAVY, MATERN, PERIODIC, RBF, TESTS, WAYS

from tests.reproduce.made_up_rooms import of_mpnp
from tests.reproduce.support import Sum, run_here


def test_kernels() -> None:
    """At distance 0.3, lengthscale 0.5, scale 1, period 0.4."""
    x, z = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 0.3, dtype=torch.float64)
    half, one = torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    assert model.rbf(half, one)(x, z).item() == pytest.approx(0.8352702114, abs=1e-10)
    assert model.matern(half, one)(x, z).item() == pytest.approx(0.7689931093, abs=1e-10)
    assert model.periodic(half, one, torch.tensor(0.4))(x, z).item() == pytest.approx(0.0183156389, abs=1e-8)


@pytest.mark.parametrize("name", [RBF, MATERN, PERIODIC, HEAVY])
def test_functions(name: str) -> None:
    """The variance of y is the mean of scale^2, 0.37, but for noise."""
    x, y = model.Functions(name).sample(150, 5, torch.Generator().manual_seed(0))
    assert x.shape == (150, 5, 1) and y.shape == (150, 5) and float(x.abs().max()) <= 2
    assert math.sqrt(0.37) == pytest.approx(float(y.clamp(-2.5, 2.5).std()), rel=0.2)
    again = model.Functions(name).sample(150, 5, torch.Generator().manual_seed(0))
    assert torch.equal(again[1], y)


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "STEPS", dict.fromkeys(experiment.STEPS, 2))
    monkeypatch.setattr(experiment, "TASKS", 20)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [(s, way, 0) for s in (FEW, FUNCTIONS) for way in WAYS])
    progress = Sum()
    records = experiment.measure(True, progress)
    assert progress.done == progress.total == 8
    for record in records:
        assert tuple(record.found) == TESTS[record.setting]
        marginal, joint = next(iter(record.found.values()))
        assert math.isfinite(joint) and (record.way != "CNP" or joint == pytest.approx(marginal, abs=1e-5))
    assert experiment.measure(True, Sum()) == records


def test_claims_tell_what_was_measured() -> None:
    measured = [claim.measured for claim in mpnp.claims.claims(of_mpnp(worse=False))]
    assert measured == pytest.approx([-0.357, 0.236, -0.357, 0.236, 0.08])
