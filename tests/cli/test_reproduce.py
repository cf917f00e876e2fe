"""The reproduce command: exit codes, files, broken and interrupted methods."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from probkernels import reproduce
from probkernels.cli import app
from typer.testing import CliRunner, Result

runner = CliRunner()

FAKE = """
from probkernels.reproduce import Claim, Method, Result

METHOD = Method("Title of {name}", "Somebody", "Nothing much.")


def run(quick, data, progress):
    advance = progress.bar("working", 2)
    advance(1)
    {body}
    return Result([Claim.above("is {name} true", {measured}, 0.5, f"quick={{quick}} data={{data and data.name}}")])
"""


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four methods in a folder that the package also looks into: good, bad, broken and slow."""
    folder = tmp_path / "methods"
    folder.mkdir()
    bodies = {
        "good": ("", 0.9),
        "bad": ("", 0.1),
        "broken": ("raise OSError('no data')", 1),
        "slow": ("raise KeyboardInterrupt", 1),
    }
    for name, (body, measured) in bodies.items():
        text = FAKE.format(name=name, body=body or "pass", measured=measured)
        (folder / f"fake_{name}.py").write_text(text)
    monkeypatch.setattr(reproduce, "__path__", [*reproduce.__path__, str(folder)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    result = runner.invoke(app, ["reproduce", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(path: Path) -> list[dict[str, object]]:
    return json.loads(path.read_text())


def test_claim_that_holds(methods: Path) -> None:
    result = run("fake_good", "--quick", "--data", str(methods), "--json", "out.json")
    assert result.exit_code == 0
    assert "1 of 1 claims hold. Report: report.html" in result.stdout
    (row,) = rows(methods / "out.json")
    assert (row["method"], row["measured"], row["expected"], row["holds"]) == ("fake_good", 0.9, "> 0.5", True)
    assert row["note"] == f"quick=True data={methods.name}"
    assert "Title of good" in (methods / "report.html").read_text()


def test_cpu_seconds_count_child_processes(methods: Path) -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass"
    body = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    (methods / "methods/fake_child.py").write_text(FAKE.format(name="child", body=body, measured=0.9))
    run("fake_child", "--json", "out.json")
    (row,) = rows(methods / "out.json")
    assert row["cpu_seconds"] >= 0.3


def test_claim_that_does_not_hold(methods: Path) -> None:
    result = run("fake_good", "fake_bad", "--report", "other.html")
    assert result.exit_code == 1
    assert "DOES NOT HOLD" in result.stdout and "1 of 2 claims hold" in result.stdout
    assert not (methods / "report.html").exists()
    assert "✗ does not hold" in (methods / "other.html").read_text()


def test_broken_method_does_not_stop_the_others(methods: Path) -> None:
    result = run("fake_broken", "fake_good", "--json", "out.json")
    assert result.exit_code == 1
    broken, good = rows(methods / "out.json")
    assert (broken["holds"], broken["measured"], broken["note"]) == (False, None, "OSError: no data")
    assert good["holds"] is True


def test_interruption_reports_what_is_finished(methods: Path) -> None:
    result = run("fake_good", "fake_slow", "fake_bad", "--json", "out.json")
    assert result.exit_code == 130
    assert "Interrupted: 1 of 3 methods finished" in result.stdout
    assert [row["method"] for row in rows(methods / "out.json")] == ["fake_good"]
    assert "Title of good" in (methods / "report.html").read_text()


def test_unknown_method_lists_the_known(methods: Path) -> None:
    result = run("nonsense", "fake_good")
    assert result.exit_code == 2
    assert "nonsense" in result.stderr and "powernorm" in result.stderr and "fake_good" in result.stderr
    assert not (methods / "report.html").exists()


def test_path_that_cannot_be_written_fails_before_any_experiment(methods: Path) -> None:
    (methods / "file").write_text("")
    result = run("fake_good", "--json", "file/out.json")
    assert result.exit_code == 2
    assert "file/out.json" in result.stderr
    assert "fake_good" not in result.stdout


@pytest.mark.parametrize("names", [("folder/../a", "a"), ("link", "a"), ("-", "/dev/stdout")])
def test_rows_and_report_are_two_files(methods: Path, names: tuple[str, str]) -> None:
    (methods / "folder").mkdir()
    (methods / "link").symlink_to("a")
    for one, other in (names, names[::-1]):
        result = run("fake_good", "--json", one, "--report", other)
        assert result.exit_code == 2 and "different files for --json and --report" in result.stderr


def test_missing_data_folder(methods: Path) -> None:
    assert run("fake_good", "--data", "nowhere").exit_code == 2


def test_the_same_method_runs_once(methods: Path) -> None:
    assert "1 of 1 claims" in run("fake_good", "fake_good").stdout


def test_all_methods_run_without_names(methods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "__path__", reproduce.__path__[-1:])
    (methods / "methods" / "fake_slow.py").unlink()
    result = run("--json", "out.json")
    assert [row["method"] for row in rows(methods / "out.json")] == ["fake_bad", "fake_broken", "fake_good"]
    assert result.exit_code == 1


def test_a_pipe_gets_one_text_and_old_files_stay(methods: Path) -> None:
    os.mkfifo("rows")
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(Path("rows").read_text()))
    thread.start()
    run("fake_good", "fake_bad", "--json", "rows")
    thread.join()
    assert [row["method"] for row in json.loads(got[0])] == ["fake_good", "fake_bad"]
    (methods / "report.html").write_text("old")
    again = run("fake_good")
    assert again.exit_code == 2 and "there is a file already" in again.stderr and "fake_good" not in again.stdout
    assert (methods / "report.html").read_text() == "old"
    assert run("fake_good", "--force").exit_code == 0
    assert "Title of good" in (methods / "report.html").read_text()
