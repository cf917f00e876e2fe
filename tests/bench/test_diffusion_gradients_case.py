"""The case of gradients through sampling: all providers that are here are right; what the peers give; verdicts."""

from __future__ import annotations

import pytest
from probkernels.bench.case import Result
from probkernels.bench.cases import diffusion_gradients as case
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "batch": 2, "steps": 6}


@pytest.mark.parametrize(("net", "weights"), [("mlp", "learned"), ("mlp", "frozen"), ("unet", "learned")])
def test_every_provider_is_right(net: str, weights: str) -> None:
    point = Point(case.CASE, SMALL | {"net": net, "weights": weights})
    for provider in case.CASE.providers:
        checked = point.check(provider)
        allowed = ("ok",) if "torchdiffeq" not in provider.name else ("ok", "not installed")
        if provider.name == "torchdiffeq_euler_gradient":  # the adjoint ODE's, not the sample's
            allowed = ("wrong", "not installed")
        assert checked.status in allowed, f"{provider.name}: {checked.reason}"


def test_points_and_verdicts() -> None:
    points = case.points("cpu")
    assert [(p["net"], p["weights"]) for p in points] == [
        ("mlp", "learned"), ("mlp", "frozen"), ("unet", "learned"), ("unet", "frozen"),
    ]  # fmt: skip
    seconds = {"exact": 10.0, "exact_bytes": 7.0, "checkpoint": 11.0, "torchdiffeq_euler": 40.0, "network": 9.0}
    for point, measured in ((points[0], [7 / 11, 0.7, 0.25]), (points[2], [7 / 11, 0.7, 10 / 9])):
        results = [Result("", point, name, "gradient", "peer", "ok", median_s=s) for name, s in seconds.items()]
        verdicts = case.judge(results)
        assert [v.measured for v in verdicts] == pytest.approx(measured)
        assert [v.holds for v in verdicts] == [True, True, point["net"] == "mlp"]
