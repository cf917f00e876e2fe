"""The case of PV-RNN scans: every provider against its oracle, and the costs."""

from __future__ import annotations

from probkernels.bench.cases.pvrnn_scan import CASE, flops, traffic
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "rows": 3, "steps": 4, "units": 5, "latents": 2}


def test_every_provider_is_right() -> None:
    point = Point(CASE, SMALL)
    for provider in (p for p in CASE.providers if "cpu" in p.devices):
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_costs() -> None:
    assert [traffic(SMALL, mode) // 48 for mode in CASE.modes] == [26, 38, 54, 54]
    assert [flops(SMALL, mode) // 12 for mode in CASE.modes] == [150, 380, 530, 380]
