"""doctor says what is installed and what works, and its exit code is 1 exactly when something that should does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from probkernels import use_backend
from probkernels._core import backend, native
from probkernels._core.registry import OPS
from probkernels.cli import _self_test, app
from probkernels.ops.power_norm import BWD, FWD
from torch import Tensor
from typer.testing import CliRunner

runner = CliRunner()


def doctor(*arguments: str) -> tuple[int, str]:
    result = runner.invoke(app, ["doctor", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def diagnosis() -> tuple[int, dict[str, Any]]:
    code, output = doctor("--json")
    return code, json.loads(output)


@pytest.fixture(autouse=True)
def fresh_choices() -> Iterator[None]:
    """Choices of backend are remembered; these tests change what they rest on."""
    with use_backend(None):
        yield


def test_healthy_installation() -> None:
    code, found = diagnosis()
    assert (code, found["ok"], found["problems"]) == (0, True, [])
    assert found["versions"]["torch"] == torch.__version__
    assert found["native"]["loaded"] and found["backends"]["cpu"] == "ready"
    on_cpu = {op["name"]: op for op in found["ops"] if op["device"] == "cpu"}
    assert set(on_cpu) == set(OPS)
    for op in on_cpu.values():
        assert op["chosen"] == "cpu"
        assert set(op["refused"]) | set(op["usable"]) == set(found["backends"])
        tested = {test["backend"]: test["errors"] for test in op["self_tests"]}
        assert tested == {"reference": [], "cpu": []}


def test_text_names_every_op_and_reason() -> None:
    code, output = doctor()
    assert code == 0
    assert "Everything that should work works" in output
    for name in OPS:
        assert name in output
    assert "not triton: it runs cuda tensors, not cpu ones" in output
    assert torch.__version__ in output


def test_environment_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PK_LOG", "debug")
    assert diagnosis()[1]["environment"]["PK_LOG"] == "debug"


def test_wrong_kernel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FWD.kernels["cpu"]

    def wrong(*args: Any, **how: Any) -> tuple[Tensor, ...]:
        y, mean_sq, *rest = right(*args, **how)
        return y, mean_sq * 1.01, *rest

    monkeypatch.setitem(FWD.kernels, "cpu", wrong)
    code, found = diagnosis()
    assert code == 1
    assert any("power_norm_fwd on cpu, backend cpu: float32: output 1 is off" in p for p in found["problems"])
    assert not any("backend reference" in problem for problem in found["problems"])


def test_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = BWD.kernels["cpu"]

    def wrong(*args: Any) -> tuple[Tensor, ...]:
        grad_x, *rest = right(*args)
        return grad_x + 0.01, *rest

    monkeypatch.setitem(BWD.kernels, "cpu", wrong)
    errors = _self_test.self_test(FWD, "cpu", torch.device("cpu"))
    assert errors and all("gradient of x is off" in error for error in errors)


def test_failing_kernel_is_caught_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> None:
        raise RuntimeError("no kernel image [for this machine]")

    monkeypatch.setitem(FWD.kernels, "cpu", failing)
    code, output = doctor()
    assert code == 1
    assert "cpu FAILED" in output
    assert "RuntimeError: no kernel image [for this machine]" in output


def test_nan_where_none_belongs_is_caught() -> None:
    assert _self_test._error(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 1.0])) == float("inf")
    assert _self_test._error(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")])) == 0
    assert _self_test._error(torch.ones(2), torch.ones(3)) == float("inf")
    assert _self_test._error(torch.ones(0), torch.ones(0)) == 0


def test_missing_native_module() -> None:
    """In a process of its own, where the import really fails."""
    program = (
        "import sys; sys.modules['probkernels._C'] = None; sys.argv = ['probkernels', 'doctor', '--json'];"
        "from probkernels.__main__ import main; main()"
    )
    environment = {**os.environ, "PK_BACKEND": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert not found["native"]["loaded"]
    assert "the native module did not load" in found["backends"]["cpu"]
    assert [problem for problem in found["problems"] if "did not load" in problem]
    assert {op["chosen"] for op in found["ops"] if op["device"] == "cpu"} == {"reference"}


@pytest.mark.parametrize(("built", "code"), [("0.0.1", 1), ("0", 0)], ids=["older", "by hand"])
def test_stale_native_module(monkeypatch: pytest.MonkeyPatch, built: str, code: int) -> None:
    info = {**native.build_info(), "version": built}
    monkeypatch.setattr(native, "build_info", lambda: info)
    got, found = diagnosis()
    assert got == code
    assert ["was built from version 0.0.1" in problem for problem in found["problems"]] == [True] * code


def test_forced_backend_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_forced", "nonsense")
    backend.CHOSEN.clear()
    code, found = diagnosis()
    assert code == 1
    assert any("PK_BACKEND='nonsense' is not a backend" in problem for problem in found["problems"])


def test_gpu_without_a_working_gpu_backend() -> None:
    op = {
        "name": "some_op",
        "device": "cuda",
        "error": None,
        "usable": ["reference"],
        "refused": {"cpu": "it runs cpu tensors", "cuda": "no CUDA kernels", "triton": "triton is not installed"},
        "self_tests": [{"backend": "reference", "errors": []}],
    }
    (problem,) = _self_test.problems([op])
    assert "no GPU backend works: cuda: no CUDA kernels; triton: triton is not installed" in problem
    assert _self_test.problems([{**op, "usable": ["reference", "triton"]}]) == []


@pytest.mark.gpu
def test_gpu_backends_pass() -> None:
    code, found = diagnosis()
    assert code == 0, found["problems"]
    assert {op["chosen"] for op in found["ops"] if op["device"] == "cuda"} <= {"cuda", "triton"}
