"""The case of the pairwise softmax: every provider against its oracle, the traffic, and the verdict."""

from __future__ import annotations

import pytest
import torch
from probkernels.bench.case import Result
from probkernels.bench.cases import pairwise_softmax as case
from probkernels.bench.memory import peak_bytes
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


def test_the_forward_and_memory_are_judged_at_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case, "memory", lambda points: 7 * points * 128 * 4)
    judged = SMALL | dict(zip(("points", "features", "classes"), case.JUDGED, strict=True))
    for params, expected in ((SMALL, []), (judged, [(1.5, True), (7, False)])):
        faster = {"torch_products": 1.5}
        results = [
            Result("pairwise_softmax", params, "ours_cpu", mode, "ours", "ok", faster_than=faster)
            for mode in case.CASE.modes
        ]
        assert [(verdict.measured, verdict.holds) for verdict in case.judge(results)] == expected


def test_memory_is_that_of_tensors_held_at_once() -> None:
    assert 16_000 <= peak_bytes(lambda: [torch.ones(1000) + 1 for _ in range(3)]) < 16_100  # with scalars
    assert 0 < case.memory(3000) < 3000 * 3000 * 4  # the scores of all pairs alone
