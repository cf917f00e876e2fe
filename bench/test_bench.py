"""Every provider of every case at every point, one test each; and the claims about our speed."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import pytest
from probkernels.bench.entries import extra_info
from probkernels.bench.session import Session, broken_tests, replay


def demand_tested(config: pytest.Config, case: Any) -> str:
    """Skips unless the tests of what the case times pass; what was found, in a word."""
    if config.getoption("--no-op-tests"):
        return "not run"
    if problems := broken_tests(case):
        pytest.skip("; ".join(problems))
    return "passed"


def test_speed(entry: str, session: Session, benchmark: Any, pytestconfig: pytest.Config) -> None:
    """Times one provider. With ``--benchmark-disable`` it is compared with its oracle and not timed."""
    asked = session.entries[entry]
    if benchmark.disabled and asked.kind == "limit":
        pytest.skip("the machine itself has no oracle")
    tested = "not run" if benchmark.disabled else demand_tested(pytestconfig, asked.case)
    result = session.check(asked) if benchmark.disabled else session.result(asked)
    if result.status != "ok":
        (pytest.fail if result.kind == "ours" and result.status in ("wrong", "failed") else pytest.skip)(
            f"{result.status}: {result.reason}"
        )
    replay.load(result.samples_s)
    benchmark.extra_info.update(extra_info(asdict(result)), op_tests=tested)
    benchmark.pedantic(lambda: None, rounds=max(len(result.samples_s), 1), iterations=1)


def test_claim(claim: str, session: Session, claims: dict[str, Any], pytestconfig: pytest.Config) -> None:
    """The figures that a case holds us to."""
    if pytestconfig.getoption("benchmark_disable") or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("nothing is timed with --benchmark-disable or pytest-xdist")
    case, params = claims[claim]
    demand_tested(pytestconfig, case)
    verdicts = session.judge(case, params)
    if not verdicts:
        pytest.skip("nothing is claimed about this point")
    missed = [f"{v.claim}: {v.measured:.3g}, expected {v.expected}" for v in verdicts if not v.holds]
    assert not missed, "\n".join(missed)
