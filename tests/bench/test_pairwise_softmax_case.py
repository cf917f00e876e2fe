"""The case of the pairwise softmax: every provider against its oracle, the traffic, and the verdict."""

from __future__ import annotations

from probkernels.bench.case import Result
from probkernels.bench.cases import pairwise_softmax as case
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "points": 40, "features": 6, "classes": 3}


def test_every_provider_is_right() -> None:
    point = Point(case.CASE, SMALL)
    for provider in (p for p in case.CASE.providers if "cpu" in p.devices):
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_traffic_and_flops() -> None:
    assert [case.traffic(SMALL, mode) // (4 * 40 * 9) for mode in case.CASE.modes] == [1, 2, 3]
    assert [case.flops(SMALL, mode) // (2 * 40 * 40 * 6) for mode in case.CASE.modes] == [1, 2, 3]


def test_the_forward_is_judged_at_one_size() -> None:
    judged = SMALL | dict(zip(("points", "features", "classes"), case.JUDGED, strict=True))
    for params, count in ((SMALL, 0), (judged, 1)):
        faster = {"torch_products": 1.5}
        results = [
            Result("pairwise_softmax", params, "ours_cpu", mode, "ours", "ok", faster_than=faster)
            for mode in case.CASE.modes
        ]
        assert [verdict.holds for verdict in case.judge(results)] == [True] * count
