"""``pytest bench``: one entry a provider, samples replayed, who is not timed and why, what is stored; conversion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from probkernels.bench import cases, session
from probkernels.bench.convert import convert
from probkernels.bench.entries import entries
from probkernels.bench.runner import run
from probkernels.bench.session import Replay, Session, broken_tests

from tests.bench.conftest import MISSING, OURS, PEER, WRONG_OURS, make_case

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted((ROOT / "bench" / "results").glob("*.json"))

CONFTEST = """
from probkernels.bench import cases, limits, session, timing
from probkernels.bench.case import Verdict
from tests.bench import conftest as fake

timing.MIN_SECONDS, timing.SAMPLE_SECONDS = 0.002, 0.00005
limits.STREAM_BYTES, limits.GEMM_SIZE = {"cpu": (1 << 12, 1 << 13, 1 << 14)}, {"cpu": 16}
providers = (fake.OURS, fake.PEER, fake.WRONG_PEER, fake.MISSING, fake.ABSENT, fake.BROKEN, fake.WRONG_OURS)
judge = lambda results: [Verdict("speed", 1.5, ">= 2", False)]
cases.get = lambda name: fake.make_case(*providers, judge=judge)
cases.names = lambda: ["fake"]
from probkernels.bench.conftest import *
"""


def pytest_bench(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """What was stored, and what was printed."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_fake.py").write_text("from probkernels.bench.test_bench import *\n")
    stored = folder / "stored.json"
    command = [sys.executable, "-m", "pytest", str(folder), "-rA", "-p", "no:cacheprovider", *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, f"--benchmark-json={stored}"],
        cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    text = stored.read_text() if stored.exists() else ""
    return json.loads(text or "{}"), done.stdout + done.stderr


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    return pytest_bench(tmp_path_factory.mktemp("bench"), "--no-op-tests")


def test_an_entry_a_provider(timed: tuple[dict[str, Any], str]) -> None:
    found = [(b["group"].split()[-1], b["extra_info"]["provider"]) for b in timed[0]["benchmarks"]]
    assert found == [
        (mode, provider)
        for mode in ("fwd", "bwd")
        for provider in ("ours_cpu", "peer", "limit:copy", "limit:add", "limit:memmove")
    ]
    assert len({b["fullname"] for b in timed[0]["benchmarks"]}) == 10


def test_what_an_entry_stores(timed: tuple[dict[str, Any], str]) -> None:
    rows = {b["extra_info"]["provider"]: b for b in timed[0]["benchmarks"] if b["group"].endswith("fwd")}
    ours, info = rows["ours_cpu"]["stats"], rows["ours_cpu"]["extra_info"]
    assert ours["rounds"] == len(ours["data"]) >= 20 and ours["iterations"] == 1
    limit = min(row["stats"]["median"] for name, row in rows.items() if name.startswith("limit:"))
    assert info["percent_of_limit"] == pytest.approx(100 * limit / ours["median"])
    assert info["times_faster_than"] == {"peer": pytest.approx(rows["peer"]["stats"]["median"] / ours["median"])}
    assert info["error"] < 1e-6 and info["bytes"] == 8000 and info["op_tests"] == "not run"
    machine = timed[0]["machine_info"]
    assert machine["node"] == "" and machine["probkernels"]["page_bytes"] in (4096, 16384, 65536)
    own = timed[0]["probkernels"]
    assert {"noisy", "load_before", "load_after", "software", "limits", "verdicts", "not_timed"} <= own.keys()
    assert {row["provider"] for row in own["not_timed"]} == {"wrong_peer", "missing", "absent", "broken", "ours_wrong"}


def test_who_is_skipped_and_who_fails(timed: tuple[dict[str, Any], str]) -> None:
    printed = timed[1]
    for reason in ("wrong: error", "not installed: ModuleNotFoundError", "unavailable: needs two GPUs"):
        assert any(line.startswith("SKIPPED") and reason in line for line in printed.splitlines()), printed
    failed = [line for line in printed.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 3 and sum("ours_wrong" in line for line in failed) == 2  # in both modes, and the claim
    assert "speed: 1.5, expected >= 2" in printed and "test_claim" in failed[-1]


def test_shares_and_ratios_are_printed(timed: tuple[dict[str, Any], str]) -> None:
    assert "share of the measured limit; peer's time over ours" in timed[1] and "| limit:copy" in timed[1]
    assert "fastnorm" in timed[1]


def test_without_timing_only_results_are_checked(tmp_path: Path) -> None:
    stored, printed = pytest_bench(tmp_path, "--benchmark-disable")
    assert stored == {} and "Traceback" not in printed
    assert sum(line.startswith("PASSED") for line in printed.splitlines()) == 4  # ours and peer, in both modes
    assert sum(line.startswith("FAILED") for line in printed.splitlines()) == 2


def test_replay_gives_the_samples_exactly() -> None:
    replay = Replay()
    replay.load([1e-9, 3.0, 0.1])
    assert [-replay() + replay() for _ in range(3)] == [1e-9, 3.0, 0.1]


def test_entries_are_known_without_measuring() -> None:
    found = entries([cases.get(name) for name in cases.names()], "cpu")
    names = [entry.name for entry in found]
    assert len(set(names)) == len(names) and not any(" " in name or "=" in name for name in names)
    assert {"copy", "limit:copy"} <= {e.provider for e in found if e.case.name == "program_code"}
    assert not any(e.provider == "launcher" and e.mode != "no grad" for e in found)


def test_a_point_is_measured_once() -> None:
    made: list[int] = []
    case = make_case(OURS, PEER, MISSING)
    counted = replace(case, make=lambda *arguments: made.append(1) or case.make(*arguments))
    found = Session(entries([counted], "cpu"))
    results = [found.result(entry) for entry in found.entries.values()]
    assert len(made) == 1 and len(results) == 2 * (3 + 3)
    assert {r.status for r in results if r.provider == "missing"} == {"not installed"}
    assert found.check(next(e for e in found.entries.values() if e.provider == "missing")).status == "not installed"


def test_no_speed_without_green_op_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "ROOT", tmp_path)
    folder = tmp_path / "tests" / "ops"
    folder.mkdir(parents=True)
    for op, line in (("green", "assert True"), ("red", "assert False")):
        (folder / f"test_{op}.py").write_text(f"def test_it():\n    {line}\n")
    case = make_case(OURS)
    assert broken_tests(replace(case, tests=("ops/test_green.py",))) == []
    assert broken_tests(replace(case, tests=())) == []
    (problem,) = broken_tests(replace(case, tests=("ops/test_green.py", "ops/test_red.py")))
    assert "tests/ops/test_red.py does not pass: " in problem and "1 failed" in problem
    (problem,) = broken_tests(case)
    assert "test_fake.py is not installed" in problem and "--no-op-tests" in problem


def test_every_case_names_tests_that_exist() -> None:
    for case in map(cases.get, cases.names()):
        for file in case.test_files():
            assert (ROOT / "tests" / file).is_file(), case.name


def test_a_run_without_pytest_converts() -> None:
    case = make_case(OURS, PEER, MISSING, WRONG_OURS)
    document = run([case], torch.device("cpu"), lambda line: None, lambda document: None)
    converted = convert(document)
    expected = {e.name for e in entries([case], "cpu") if e.provider not in ("missing", "ours_wrong")}
    names = {b["fullname"] for b in converted["benchmarks"]}
    assert names == {f"bench/test_bench.py::test_speed[{name}]" for name in expected}
    by_sample = {tuple(b["stats"]["data"]): b["stats"]["median"] for b in converted["benchmarks"]}
    for row in (r for r in document["results"] if r["status"] == "ok"):
        assert by_sample[tuple(row["samples_s"])] == pytest.approx(row["median_s"], rel=1e-5)
    assert [row["provider"] for row in converted["probkernels"]["not_timed"]] == ["missing", "ours_wrong"] * 2


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_results_are_readable(path: Path) -> None:
    from pytest_benchmark.logger import Logger
    from pytest_benchmark.storage.file import FileStorage

    found = list(FileStorage(path.parent, Logger()).load_benchmarks(path.stem))
    assert found and all(b["median"] > 0 and b["rounds"] == len(b["data"]) for b in found)
    assert len({b["fullname"] for b in found}) == len(found)
    assert json.loads(path.read_text())["machine_info"]["node"] == ""


def test_a_stored_entry_is_found_by_todays_name() -> None:
    today = {e.name for e in entries([cases.get("overhead")], "cpu")}
    stored = json.loads((ROOT / "bench/results/power_norm-xeon-avx512-2core.json").read_text())["benchmarks"]
    names = {b["fullname"] for b in stored if b["group"].startswith("overhead")}
    assert names == {f"bench/test_bench.py::test_speed[{name}]" for name in today}
