"""The case of histogram densities: every eager provider against its oracle, the traffic, and the verdicts."""

from __future__ import annotations

from probkernels.bench.case import Result
from probkernels.bench.cases import bar_log_prob as case
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "rows": 20, "bars": 30}


def test_every_provider_is_right() -> None:
    point = Point(case.CASE, SMALL)
    for provider in (p for p in case.CASE.providers if "cpu" in p.devices and p.name != "torch_compile"):
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_traffic_and_flops() -> None:
    assert [case.traffic(SMALL, mode) for mode in case.TRAINED] == [4 * 600 * n for n in (1, 2, 3)]
    assert case.flops(SMALL, "fwd+bwd") == 4 * 600


def test_one_size_is_judged_by_all_aims() -> None:
    judged = SMALL | dict(zip(("rows", "bars"), case.JUDGED, strict=True))
    faster = {"torch_log_softmax": 2.0, "torch_cross_entropy": 1.6, "torch_compile": 1.4}
    for params, expected in ((SMALL, []), (judged, [(2.0, False), (1.6, True), (1.4, True)])):
        results = [Result("bar_log_prob", params, "ours_cpu", case.MODE, "ours", "ok", faster_than=faster)]
        assert [(verdict.measured, verdict.holds) for verdict in case.judge(results)] == expected
