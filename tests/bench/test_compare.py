"""Comparing runs: same machine only, regressions found, noise and a slower machine not taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from probkernels import bench
from probkernels.bench import compare
from probkernels.bench.compare import newest

PARAMS = {"device": "cpu", "dtype": "float32", "threads": 1}
MACHINE = {"cpu": "a cpu", "cores": 2, "flags": ["avx2"], "gpu": None}


def row(provider: str, kind: str, median: float, spread: float, limit: float | None) -> dict[str, Any]:
    return {
        "case": "fake",
        "params": PARAMS,
        "provider": provider,
        "mode": "fwd",
        "kind": kind,
        "status": "ok",
        "median_s": median,
        "q10_s": median * (1 - spread),
        "q90_s": median * (1 + spread),
        "of_limit": None if limit is None else limit / median,
        "faster_than": {"peer": 3.0} if kind == "ours" else {},
    }


def document(
    ours: float, peer: float = 3.0, limit: float | None = 0.5, spread: float = 0.01, **fields: Any
) -> dict[str, Any]:
    rows = [row("ours", "ours", ours, spread, limit), row("peer", "peer", peer, spread, limit)]
    return {"time": "2026-01-01T00:00:00+00:00", "noisy": False, "machine": MACHINE, "results": rows} | fields


def regressed(old: dict[str, Any], new: dict[str, Any]) -> bool:
    (change,) = compare.compare(old, new, "fake")
    return change.regressed


@pytest.mark.parametrize("limit", [0.5, None], ids=["limit", "peers"])
def test_a_regression_is_found(limit: float | None) -> None:
    assert regressed(document(1.0, limit=limit), document(1.15, limit=limit))
    assert not regressed(document(1.0, limit=limit), document(1.05, limit=limit))
    assert not regressed(document(1.0, limit=limit), document(0.5, limit=limit))


def test_a_slower_machine_is_no_regression() -> None:
    assert not regressed(document(1.0), document(2.0, limit=1.0))
    assert not regressed(document(1.0, limit=None), document(2.0, peer=6.0, limit=None))
    assert regressed(document(1.0), document(1.0, limit=0.4)), "as fast as before, on a machine that became faster"


def test_noise_is_no_regression() -> None:
    assert not regressed(document(1.0, spread=0.2), document(1.15, spread=0.2))


def test_other_machines_are_refused() -> None:
    for other in ({"cpu": "another"}, {"cores": 64}, {"flags": []}, {"gpu": {"name": "H200", "memory_bytes": 1}}):
        with pytest.raises(ValueError, match="different machines"):
            compare.compare(document(1.0), document(1.0, machine=MACHINE | other), "fake")


def test_newest_quiet_result_of_this_machine(tmp_path: Path) -> None:
    assert newest(tmp_path, "fake", MACHINE) is None
    files = {
        "old": document(1.0),
        "new": document(2.0, time="2026-02-01T00:00:00+00:00"),
        "noisy": document(3.0, time="2026-03-01T00:00:00+00:00", noisy=True),
        "elsewhere": document(4.0, time="2026-04-01T00:00:00+00:00", machine=MACHINE | {"cores": 64}),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert newest(tmp_path, "fake", MACHINE) == files["new"]
    assert newest(tmp_path, "other", MACHINE) is None


def test_main_fails_on_a_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    assert not bench._compare(document(1.5), "fake")
    assert "no committed result of this machine" in capsys.readouterr().out
    (tmp_path / "old.json").write_text(json.dumps(document(1.0)))
    assert bench._compare(document(1.5), "fake")
    assert "1.50x ours fwd" in (out := capsys.readouterr().out) and "REGRESSED" in out
