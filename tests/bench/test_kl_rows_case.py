"""The case of KL divergences of rows: every eager provider against its oracle, and the traffic."""

from __future__ import annotations

from probkernels.bench.cases import kl_rows as case
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "rows": 20, "values": 30}


def test_every_provider_is_right() -> None:
    point = Point(case.CASE, SMALL)
    for provider in (p for p in case.CASE.providers if "cpu" in p.devices and p.name != "torch_compile"):
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_traffic_and_flops() -> None:
    assert [case.traffic(SMALL, mode) for mode in case.TRAINED] == [4 * 600 * n for n in (2, 4, 6)]
    assert case.flops(SMALL, "fwd+bwd") == 14 * 600
