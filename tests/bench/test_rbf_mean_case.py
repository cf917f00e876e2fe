"""The case of sums of RBF kernels: every provider against its oracle, the traffic, and the verdicts."""

from __future__ import annotations

from probkernels.bench.case import Result
from probkernels.bench.cases import rbf_mean as case
from probkernels.bench.runner import Point

SIZE = {"rows": 20, "points": 40, "features": 6, "functions": 2}
SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, **SIZE}


def test_every_provider_is_right() -> None:
    point = Point(case.CASE, SMALL)
    for provider in (p for p in case.CASE.providers if "cpu" in p.devices):
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_traffic_and_flops() -> None:
    assert case.traffic(SMALL, case.MODE) == 4 * ((20 + 40) * 6 + 2 * (40 + 20 * 7))
    assert case.flops(SMALL, case.MODE) == 2 * 20 * 40 * 2 * 13


def test_one_size_is_judged_by_both_aims() -> None:
    judged = SMALL | dict(zip(SIZE, case.JUDGED, strict=True))
    faster = {"torch_cdist": 7.0, "torch_addmm_in_place": 1.5}
    for params, expected in ((SMALL, []), (judged, [(7.0, True), (1.5, False)])):
        results = [Result("rbf_mean", params, "ours_cpu", case.MODE, "ours", "ok", faster_than=faster)]
        assert [(verdict.measured, verdict.holds) for verdict in case.judge(results)] == expected
