"""The cases of selections: every provider against its oracle, the traffic, and the verdicts."""

from __future__ import annotations

import pytest
from probkernels.bench.case import Case, Result
from probkernels.bench.cases import magnitude_select, selection
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "threads": 1, "side": 90}


@pytest.mark.parametrize(
    ("case", "params"),
    [
        (selection.CASE, {"dtype": "float32", "density": 0.058}),
        (selection.CASE, {"dtype": "float32", "density": 0.0058}),
        (magnitude_select.CASE, {"dtype": "float32"}),
        (magnitude_select.CASE, {"dtype": "bfloat16"}),
    ],
    ids=lambda v: v.name if isinstance(v, Case) else "-".join(map(str, v.values())),
)
def test_every_provider_is_right(case: Case, params: dict[str, object]) -> None:
    point = Point(case, SMALL | params)
    for provider in case.providers:
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_traffic() -> None:
    params = {"dtype": "float32", "side": 64, "density": 1.0}
    assert selection.traffic(params, "gather") == 2 * 4 * 64**2
    assert selection.traffic(params, "scatter") == 3 * 4 * 64**2
    assert [magnitude_select.traffic(params, mode) for mode in ("select", "kth")] == [4 * 64**2, 8 * 64**2]


def test_verdicts() -> None:
    params = {**SMALL, "dtype": "float32", "density": 0.058}
    results = [
        Result("selection", params, name, "gather", "ours", "ok", faster_than={"torch_mask": 1.9})
        for name in ("ours_bitmap", "ours_list")
    ]
    assert [(v.measured, v.holds) for v in selection.judge(results)] == [(1.9, False)]
    ours = Result("magnitude_select", params, "ours", "kth", "ours", "ok", faster_than={"torch_kthvalue": 3.5})
    assert [(v.measured, v.holds) for v in magnitude_select.judge([ours])] == [(3.5, True)]


def test_grids() -> None:
    assert {p["density"] for p in selection.grid("cpu")} == {0.058, 0.0058}
    assert {p["dtype"] for p in magnitude_select.grid("cuda")} == {"float32", "bfloat16"}
    assert all(p["device"] == "cuda" for p in magnitude_select.grid("cuda"))
