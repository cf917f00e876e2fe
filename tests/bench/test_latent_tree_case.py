"""The case of latent trees: every provider that is here is right, the tree's shape, the costs and the verdicts."""

from __future__ import annotations

import pytest
from probkernels.bench.case import Result
from probkernels.bench.cases import latent_tree
from probkernels.bench.cases._latent_tree_model import edges, hidden_tree
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "side": 6, "categories": 5, "states": 4, "batch": 40}


@pytest.mark.parametrize("tree", [{}, {"tree": "hub"}], ids=str)
def test_every_provider_is_right(tree: dict[str, str]) -> None:
    point = Point(latent_tree.CASE, SMALL | tree)
    for provider in latent_tree.CASE.providers:
        checked = point.check(provider)
        if provider.devices == ("cuda",):
            continue
        allowed = (
            ("ok",) if provider.kind == "ours" or "torch" in provider.name else ("ok", "not installed", "unavailable")
        )
        assert checked.status in allowed, f"{provider.name}: {checked.reason}"


def test_the_tree_has_the_shape_of_the_real_one() -> None:
    rows = hidden_tree(28, 16, 256)
    assert sorted(row[2] for row in rows) == list(range(784))
    assert 480 < sum(row[3] >= 0 for row in rows) < 580  # MNIST's: 528
    depth: list[int] = []
    for row in rows:
        depth.append(0 if row[0] < 0 else depth[row[0]] + 1)
    assert 35 < max(depth) < 120  # MNIST's: 45


def test_costs() -> None:
    inner = sum(row[3] >= 0 for row in hidden_tree(6, 4, 5))
    assert edges(SMALL) == 4 + (inner - 1) * 16
    assert latent_tree.flops(SMALL, "flows") == 3 * latent_tree.flops(SMALL, "fwd") == 6 * edges(SMALL) * 40
    assert latent_tree.traffic(SMALL, "fwd") == 36 * 40 * (4 + 16)


def test_grids_and_verdicts() -> None:
    assert {p["states"] for p in latent_tree.grid("cpu")} == {8, 16, 32, 64, 128}
    assert latent_tree.grid("cpu")[-1]["tree"] == "hub"
    assert all(p["device"] == "cuda" for p in latent_tree.grid("cuda"))
    params = SMALL | {"states": 16}
    ours = Result(
        "latent_tree", params, "ours_cpu", "flows", "ours", "ok", faster_than={"spflow": 60.0, "libcirkit": 2.0}
    )
    assert [(v.measured, v.holds) for v in latent_tree.judge([ours])] == [(60.0, True), (2.0, False)]
    ours.params = params | {"threads": 2}
    assert latent_tree.judge([ours]) == []
