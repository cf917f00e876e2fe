"""The cases of the room uncertainty: every provider against its oracle, and the verdicts."""

from __future__ import annotations

from typing import Any

import pytest
from probkernels.bench.case import Result
from probkernels.bench.cases import calibration_error, get, h_calibration
from probkernels.bench.runner import Point

BASE: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": 1}
SMALL = [
    ("h_calibration", {"samples": 120, "classes": 3}),
    ("kernel_targets", {"samples": 150, "sigma": 0.05, "window": 20}),
    ("kernel_targets", {"samples": 150, "sigma": 0.1, "window": 50}),
    ("overlap_index", {"inputs": 2, "classes": 4, "draws": 30}),
    ("calibration_error", {"samples": 500, "classes": 6, "of": "top_label"}),
    ("calibration_error", {"samples": 500, "classes": 6, "of": "class_wise"}),
]


@pytest.mark.parametrize(("name", "params"), SMALL)
def test_every_provider_is_right(name: str, params: dict[str, Any]) -> None:
    point = Point(get(name), BASE | params)
    for checked in point.checked:
        if checked.provider.kind == "ours" or checked.status != "not installed":
            assert checked.status == "ok", f"{checked.provider.name}: {checked.reason}"


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in SMALL))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_points_are_on_one_core(name: str, device: str) -> None:
    assert {(p["device"], p["threads"]) for p in get(name).grid(device)} == {("cpu", 1)}


def test_clusters_at_the_cost_of_faiss_are_those_of_few_events() -> None:
    """With no more events than faiss samples, its centers are those of all events, one step further."""
    point = Point(get("h_calibration"), BASE | {"samples": 400, "classes": 3})
    values = point.inputs["logits"].softmax(1).flatten().sort().values
    sampled, exact = h_calibration.as_faiss(values), h_calibration.of_all(values)
    assert (sampled != exact).float().mean() < 0.05
    assert sampled.unique().tolist() == list(range(h_calibration.CLUSTERS))


def result(name: str, params: dict[str, Any], provider: str, kind: str, **fields: Any) -> Result:
    return Result(name, BASE | params, provider, fields.pop("mode", "one"), kind, "ok", **fields)


@pytest.mark.parametrize(
    ("name", "peer", "least"),
    [
        ("h_calibration", "authors_form", 50),
        ("kernel_targets", "authors_loop", 50),
        ("overlap_index", "scipy_loop", 20),
    ],
)
def test_verdicts_beside_a_loop(name: str, peer: str, least: float) -> None:
    params = dict(SMALL)[name]
    for times, holds in ((least, True), (least - 1, False)):
        results = [result(name, params, "ours", "ours", faster_than={peer: times}), result(name, params, peer, "peer")]
        (verdict,) = get(name).judge(results)
        assert (verdict.measured, verdict.holds) == (times, holds) and peer in verdict.claim
    assert get(name).judge([result(name, params, "ours", "ours")]) == []  # the peer is not installed


def test_verdicts_beside_a_sort() -> None:
    for of, holds in (("top_label", [True, False]), ("class_wise", [False])):
        params = {"samples": 500, "classes": 6, "of": of}
        results = [
            result("calibration_error", params, provider, kind, mode=mode, median_s=seconds)
            for provider, kind, times in (("ours", "ours", (1.5, 3.0)), ("torch_sort", "floor", (1.0, 1.0)))
            for mode, seconds in zip(calibration_error.MODES, times, strict=True)
        ]
        assert [verdict.holds for verdict in calibration_error.judge(results)] == holds
    assert calibration_error.judge(results[:1]) == []
