"""The runner refuses wrong results, reports who is missing, and stores everything that a figure needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from probkernels import bench
from probkernels.bench import cases, timing
from probkernels.bench.__main__ import _main as entry_point
from probkernels.bench.case import Provider, Result, Run, Verdict, relative_error
from probkernels.bench.machine import is_noisy
from probkernels.bench.report import text
from probkernels.bench.runner import Point, relate, run

from tests.bench.conftest import ABSENT, BROKEN, MISSING, OURS, PEER, POINT, TRUTH, WRONG_OURS, WRONG_PEER, make_case

ONE_MODE = Provider("one_mode", TRUTH, TRUTH, kind="ours", modes=("fwd",))
ALL = (OURS, PEER, WRONG_PEER, MISSING, ABSENT, BROKEN)


def run_document(*providers: Any, **fields: Any) -> dict[str, Any]:
    saved: list[dict[str, Any]] = []
    document = run([make_case(*providers, **fields)], torch.device("cpu"), lambda line: None, saved.append)
    assert saved == [document]
    return json.loads(json.dumps(document))


def run_main(monkeypatch: pytest.MonkeyPatch, *providers: Any, json_path: Path | None = None, **fields: Any) -> int:
    monkeypatch.setattr(cases, "get", lambda name: make_case(*providers, **fields))
    return bench.main(["fake"], json_path)


def test_statuses() -> None:
    rows = {r["provider"]: r for r in run_document(*ALL)["results"] if r["mode"] == "fwd"}
    status = {name: row["status"] for name, row in rows.items() if row["kind"] != "limit"}
    assert status == {
        "ours_cpu": "ok",
        "peer": "ok",
        "wrong_peer": "wrong",
        "missing": "not installed",
        "absent": "unavailable",
        "broken": "failed",
    }
    assert "fastnorm" in rows["missing"]["reason"]
    assert rows["broken"]["reason"] == "RuntimeError: illegal instruction"


def test_a_wrong_provider_is_never_timed() -> None:
    row = next(r for r in run_document(OURS, WRONG_PEER)["results"] if r["provider"] == "wrong_peer")
    assert row["samples_s"] == [] and row["median_s"] is None
    assert row["error"] == pytest.approx(0.01, rel=1e-3)
    checked = Point(make_case(WRONG_PEER), POINT).check(WRONG_PEER)
    assert checked.task is None


@pytest.mark.parametrize(
    ("providers", "code"),
    [((OURS, WRONG_PEER, MISSING, BROKEN), 0), ((OURS, WRONG_OURS), 1), ((OURS, ABSENT), 0)],
    ids=["peers", "ours wrong", "ours unavailable"],
)
def test_exit_code(monkeypatch: pytest.MonkeyPatch, providers: tuple[Any, ...], code: int) -> None:
    assert run_main(monkeypatch, *providers) == code


def test_exit_code_of_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, OURS, judge=lambda results: [Verdict("speed", 1.5, ">= 2", False)]) == 1
    assert "speed: 1.5, expected >= 2: DOES NOT HOLD" in capsys.readouterr().out


def test_unknown_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["no_such"], None) == 2
    assert f"expected one of {', '.join(cases.names())}, got 'no_such'" in capsys.readouterr().err


def test_a_result_that_is_there_is_kept_without_force(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    old.write_text("old")
    monkeypatch.setattr("sys.argv", ["bench", "overhead", "--json", str(old)])
    with pytest.raises(SystemExit, match="2"):
        entry_point()
    assert "there is a file already. Hint: --force" in capsys.readouterr().err and old.read_text() == "old"


def test_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    assert run_main(monkeypatch, *ALL, json_path=path) == 0
    document = json.loads(path.read_text())
    assert document.keys() == {
        "schema", "time", "noisy", "machine", "software", "limits", "results", "verdicts",
    }  # fmt: skip
    facts = {"cpu", "cores", "flags", "caches", "page_bytes", "memory", "gpu", "load_before", "load_after"}
    assert facts <= document["machine"].keys()
    assert {"commit", "dirty", "probkernels", "torch", "triton", "python", "build_info"} <= document["software"].keys()
    stream = document["limits"]["stream"]
    assert {s["op"] for s in stream} == {"copy", "add", "memmove"} and len({s["bytes"] for s in stream}) == 3
    assert all(s["gb_per_s"] > 0 for s in stream)
    assert {g["dtype"] for g in document["limits"]["gemm"]} == {"float32", "float64", "bfloat16"}
    assert 0 < document["limits"]["python_call_s"] < 1e-4
    for row in document["results"]:
        assert row.keys() == asdict(Result("", {}, "", "", "", "")).keys()
        assert row["params"] == POINT
        if row["status"] == "ok":
            assert len(row["samples_s"]) >= timing.ROUNDS
            assert row["q10_s"] <= row["median_s"] <= row["q90_s"]


def test_limits_are_timed_beside_the_providers() -> None:
    rows = [r for r in run_document(OURS, PEER)["results"] if r["mode"] == "fwd"]
    streams = {r["provider"]: r["median_s"] for r in rows if r["kind"] == "limit"}
    ours = next(r for r in rows if r["provider"] == "ours_cpu")
    assert streams.keys() == {"limit:copy", "limit:add", "limit:memmove"}
    assert ours["of_limit"] == pytest.approx(min(streams.values()) / ours["median_s"])
    assert ours["faster_than"].keys() == {"peer"}


def test_ratios() -> None:
    ours = Result("c", {}, "ours", "fwd", "ours", "ok", median_s=2.0, flops=30)
    peer = Result("c", {}, "peer", "fwd", "peer", "ok", median_s=6.0, flops=30)
    floor = Result("c", {}, "floor", "fwd", "floor", "ok", median_s=0.1)
    slow, fast = (Result("c", {}, name, "fwd", "limit", "ok", median_s=s) for name, s in (("a", 1.5), ("b", 1.0)))
    relate([ours, peer, floor, slow, fast], gemm=float("inf"))
    assert ours.of_limit == 0.5 and ours.faster_than == {"peer": 3.0}
    assert peer.faster_than == {}
    relate([ours, peer, slow, fast], gemm=20.0)  # now arithmetic is the limit: 1.5 s
    assert ours.of_limit == 0.75


@pytest.mark.parametrize(
    ("before", "after", "noisy"), [(0.1, 2.1, False), (2.5, 1.0, True), (0.5, 2.3, True), (2.0, 2.0, False)]
)
def test_noisy(before: float, after: float, noisy: bool) -> None:
    assert is_noisy(before, after, 2) is noisy


def test_noisy_is_stored_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probkernels.bench.runner.load", lambda: 1e3)
    document = run_document(OURS)
    assert document["noisy"] and "NOISY" in text(document)


def test_quantiles() -> None:
    samples = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [timing.quantile(samples, q) for q in (0, 0.1, 0.5, 0.9, 1)] == pytest.approx([1, 1.4, 3, 4.6, 5])
    assert timing.quantile([7.0], 0.9) == 7.0


def test_only_run_is_timed() -> None:
    import time

    run_ = Run(lambda prepared: time.sleep(0.001), setup=lambda: time.sleep(0.02))
    assert 0.001 <= timing.WallTimer().sample(run_, 2) < 0.015


def test_order_changes_from_round_to_round() -> None:
    visits: list[str] = []
    runs = {name: Run(lambda name=name: visits.append(name)) for name in "abcd"}
    plans = [timing.Plan(run_, timing.WallTimer()) for run_ in runs.values()]
    visits.clear()
    timing.take_turns(plans)
    turns = [name for i, name in enumerate(visits) if i == 0 or visits[i - 1] != name]
    assert {tuple(turns[i : i + 4]) for i in range(0, 40, 4)} - {tuple("abcd")}
    assert all(len(plan.samples) >= timing.ROUNDS for plan in plans)


def test_relative_error() -> None:
    one = torch.ones(3, dtype=torch.float64)
    assert relative_error([one * 1.5, one], [one, one]) == 0.5
    assert relative_error([torch.tensor([1.0, float("nan"), 1.0])], [one]) == float("inf")
    assert relative_error([one], [one, one]) == float("inf")
    assert relative_error([torch.ones(2)], [one]) == float("inf")
    assert relative_error([None], [one]) == float("inf")


def test_modes_that_were_not_declared_are_refused() -> None:
    checked = Point(make_case(ONE_MODE), POINT).check(ONE_MODE)
    assert checked.status == "failed" and "expected the declared modes fwd, got fwd, bwd" in checked.reason


def test_a_peer_may_be_called_as_a_limit_is() -> None:
    rows = [r for r in run_document(OURS, Provider("copy", TRUTH, TRUTH))["results"] if r["mode"] == "fwd"]
    names = [r["provider"] for r in rows]
    assert len(set(names)) == len(names) and {"copy", "limit:copy"} <= set(names)


def test_report() -> None:
    document = run_document(*ALL)
    for row in document["results"]:
        if row["provider"] == "ours_cpu":
            row["faster_than"]["peer"] = 0.5
    report = text(document)
    assert "0.50x LOSS" in report and "not installed" in report and "WRONG" in report and "limit:copy" in report
