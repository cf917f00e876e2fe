"""The cases of a circuit's layers: every provider against its oracle, and the traffic."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from probkernels.bench.cases import em_update, leaf_gather, sum_layer
from probkernels.bench.runner import Point

SMALL: list[tuple[ModuleType, dict[str, Any]]] = [
    (sum_layer, {"groups": 3, "outs": 4, "ins": 5, "batch": 20}),
    (leaf_gather, {"variables": 3, "categories": 6, "units": 4, "batch": 20}),
    (em_update, {"n": 3, "k": 10, "m": 4}),
]
COMMON = {"device": "cpu", "dtype": "float32", "threads": 1}


@pytest.mark.parametrize(("module", "sizes"), SMALL, ids=lambda v: getattr(v, "__name__", ""))
def test_every_provider_is_right(module: ModuleType, sizes: dict[str, Any]) -> None:
    point = Point(module.CASE, COMMON | sizes)
    for provider in module.CASE.providers:
        if "cpu" in provider.devices and provider.name != "torch_compile":
            checked = point.check(provider)
            assert checked.status == "ok", f"{provider.name}: {checked.reason}"


@pytest.mark.slow
@pytest.mark.parametrize(("module", "sizes"), SMALL, ids=lambda v: getattr(v, "__name__", ""))
def test_the_compiled_provider_is_right(module: ModuleType, sizes: dict[str, Any]) -> None:
    point = Point(module.CASE, COMMON | sizes)
    for provider in (p for p in module.CASE.providers if p.name == "torch_compile"):
        checked = point.check(provider)
        assert checked.status == "ok", checked.reason


def test_traffic_and_flops() -> None:
    layer = {"dtype": "float32", "groups": 2, "outs": 3, "ins": 5, "batch": 7}
    assert [sum_layer.traffic(layer, mode) for mode in ("fwd", "bwd", "fwd+bwd")] == [568, 1136, 1704]
    assert [sum_layer.flops(layer, mode) for mode in ("fwd", "bwd")] == [420, 840]
    table = {"dtype": "float32", "variables": 2, "categories": 10, "units": 3, "batch": 4}
    assert leaf_gather.traffic(table, "gather") == 2 * (3 * 8 * 4 + 16)
    assert leaf_gather.traffic(table, "histogram") == 2 * (3 * 14 * 4 + 16)
    assert em_update.traffic({"dtype": "float64", "n": 2, "k": 3, "m": 5}, "step") == 3 * 30 * 8


def test_grids_have_the_sizes() -> None:
    for module in (sum_layer, leaf_gather, em_update):
        assert len(module.grid("cuda")) == len(module.SIZES)
        assert {p["threads"] for p in module.grid("cpu")} >= {1}
