"""The case of sparse AdamW: every provider against its oracle, the traffic, and the verdicts."""

from __future__ import annotations

import pytest
from probkernels.bench.case import Result
from probkernels.bench.cases import sparse_adamw
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "side": 90}


@pytest.mark.parametrize("density", sparse_adamw.DENSITIES)
def test_every_provider_is_right(density: float) -> None:
    point = Point(sparse_adamw.CASE, SMALL | {"density": density})
    for provider in sparse_adamw.CASE.providers:
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"
        assert checked.task is not None and checked.task.modes


def test_traffic() -> None:
    """Everything selected: 28 bytes an entry and the bitmap, as many as for dense AdamW."""
    params = {**SMALL, "side": 64, "density": 1.0}
    for mode in (sparse_adamw.DENSE, sparse_adamw.COMPACT):
        assert sparse_adamw.traffic(params, mode) == int((28 + 9 / 64) * 64**2)
    sparse, cuda = {**params, "density": 0.0058}, {**params, "density": 0.0058, "device": "cuda"}
    assert sparse_adamw.traffic(cuda, sparse_adamw.COMPACT) < sparse_adamw.traffic(sparse, sparse_adamw.COMPACT)


def test_verdicts() -> None:
    params = {**SMALL, "density": 0.058}
    ratios = {"official_eager": 7.0, "torch_dense_fused": 1.3, "torch_pieces": 1.0}
    results = [
        Result("sparse_adamw", params, name, mode, "ours", "ok", faster_than=ratios)
        for name in ("ours", "ours_8bit")
        for mode in (sparse_adamw.DENSE, sparse_adamw.COMPACT)
    ]
    assert [(v.measured, v.holds) for v in sparse_adamw.judge(results)] == [(7.0, True), (1.3, False)]


def test_grid() -> None:
    assert {(p["side"], p["density"]) for p in sparse_adamw.grid("cpu")} == {(2048, 0.058), (2048, 0.0058)}
