"""The cases of samplers, random numbers and stochastic gates: every provider against its oracle, and the traffic."""

from __future__ import annotations

import pytest
from probkernels.bench.case import Case
from probkernels.bench.cases import linear_step, philox, softplus_sigmoid, stochastic_gate
from probkernels.bench.runner import Point

CASES = [linear_step.CASE, philox.CASE, softplus_sigmoid.CASE, stochastic_gate.CASE]
SMALL = {"device": "cpu", "dtype": "float32", "threads": 1, "rows": 3, "elements": 70}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_provider_is_right(case: Case) -> None:
    point = Point(case, SMALL)
    for provider in (p for p in case.providers if "cpu" in p.devices):
        checked = point.check(provider)
        assert checked.status == "ok", f"{provider.name}: {checked.reason}"


def test_traffic() -> None:
    tensor = 4 * 3 * 70
    assert [linear_step.traffic(SMALL, mode) // tensor for mode in linear_step.MODES] == [5, 6, 3, 5]
    assert philox.CASE.bytes(SMALL, "normal") == tensor
    assert [softplus_sigmoid.traffic(SMALL, mode) // tensor for mode in softplus_sigmoid.CASE.modes] == [3, 7]
    assert [stochastic_gate.traffic(SMALL, mode) // tensor for mode in stochastic_gate.CASE.modes] == [8] * 5 + [2]
