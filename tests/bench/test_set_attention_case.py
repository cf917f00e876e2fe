"""The case of attention over a set: every provider against its oracle, its arithmetic, and the verdicts."""

from __future__ import annotations

from probkernels.bench.case import Result
from probkernels.bench.cases import set_attention as case
from probkernels.bench.runner import Point

SMALL = {"device": "cpu", "dtype": "float32", "threads": 1}
SMALL |= {"batch": 2, "heads": 2, "contexts": 5, "queries": 3, "d": 4}


def test_every_provider_is_right() -> None:
    point = Point(case.CASE, SMALL)
    for provider in case.CASE.providers:
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_flops_and_sizes() -> None:
    assert case.flops(SMALL, "fwd") == 2 * 2 * 2 * (25 + 18) * 4 * 2
    assert case.flops(SMALL, "query") == 2 * 2 * 2 * 18 * 4 * 2
    assert len(case.grid("cuda")) == len(case.SIZES)


def test_verdicts() -> None:
    def verdicts(size: tuple[int, ...], mode: str) -> list[bool]:
        params = SMALL | dict(zip(case.NAMES, size, strict=True))
        faster = {"dense_mask": 2.1, "no_cache": 6.0}
        result = Result("set_attention", params, "ours", mode, "ours", "ok", faster_than=faster)
        return [verdict.holds for verdict in case.judge([result])]

    assert [verdicts(case.JUDGED, mode) for mode in ("fwd", "fwd+bwd", "query")] == [[False], [True], []]
    assert [verdicts(case.FEW, mode) for mode in ("fwd", "query")] == [[], [True]]
    assert verdicts(case.SIZES[-1], "fwd") == []
