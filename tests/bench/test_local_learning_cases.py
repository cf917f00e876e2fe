"""The cases of local learning and of gated experts: every provider against its oracle, and the verdicts."""

from __future__ import annotations

from typing import Any

import pytest
from probkernels.bench.case import Result
from probkernels.bench.cases import gated_experts, get, noprop
from probkernels.bench.runner import Point

BASE: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": 1}
SMALL: list[tuple[str, dict[str, Any]]] = [
    ("graph_layer", {"nodes": 60, "features": 90, "edges": 150, "outputs": 8}),
    ("gated_experts", {"inputs": 30, "experts": 60, "rows": 16}),
    ("noprop", {"width": 8, "rows": 12}),
    ("noprop", {"width": 64, "rows": 12}),
]


@pytest.mark.parametrize(("name", "params"), SMALL)
def test_every_provider_is_right(name: str, params: dict[str, Any]) -> None:
    for checked in Point(get(name), BASE | params).checked:
        assert checked.status == "ok", f"{checked.provider.name}: {checked.reason}"


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in SMALL))
def test_every_mode_runs(name: str) -> None:
    for checked in Point(get(name), BASE | dict(reversed(SMALL))[name]).checked:
        assert checked.task is not None
        for run in checked.task.modes.values():
            run.run(*(() if run.setup is None else (run.setup(),)))


def test_a_tenth_of_the_experts_is_on() -> None:
    point = Point(get("gated_experts"), BASE | dict(SMALL)["gated_experts"])
    assert (point.inputs["gates"] != 0).sum() == 6


@pytest.mark.parametrize(
    ("name", "mode", "peer", "least"),
    [
        ("graph_layer", "fwd+bwd", "dense", 5),
        ("gated_experts", gated_experts.PARTS, "dense", 5),
        ("gated_experts", gated_experts.ALL, "dense", 1),
        ("noprop", noprop.TRAINING, "loop", 2.5),
    ],
)
def test_verdicts(name: str, mode: str, peer: str, least: float) -> None:
    params = BASE | dict(SMALL)[name]
    for times, holds in ((least, True), (least - 0.1, False)):
        result = Result(name, params, "ours", mode, "ours", "ok", faster_than={peer: times})
        assert [v.holds for v in get(name).judge([result])] == [holds]
    assert get("noprop").judge([Result("noprop", BASE | {"width": 256}, "ours", mode, "ours", "ok")]) == []
