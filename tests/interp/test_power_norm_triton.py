"""The Triton kernels of PowerNorm in Triton's interpreter, which needs a process of its own.

The tests below run in such a process, which the first test starts. What the interpreter cannot show: races between
programs, which it runs one after another, and the rounding of a bfloat16 store, which it truncates.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests import backends
from tests.emu.test_power_norm_cuda import Case, check, run

pytest.importorskip("triton", reason="triton is not installed")
inside = pytest.mark.skipif(not backends.INTERPRETED, reason="runs in the interpreter's own process")
outside = pytest.mark.skipif(backends.INTERPRETED, reason="this is the interpreter's own process")

CASES = [
    Case(1, 1, 0, torch.float32),
    Case(90, 3, 0, torch.float64),  # several chunks
    Case(37, 24, 3, torch.float16),  # groups that are padded to a power of two
    Case(37, 64, 4, torch.bfloat16, bare=True),
    Case(9, 33, 11, torch.float32),  # a tile of more groups than there are
    Case(5, 600, 1, torch.bfloat16),
    Case(6, 1100, 0, torch.float32),  # several tiles
    Case(3, 70, 2, torch.float32, shift=1),
]


def interpret(*arguments: str) -> str:
    """The output of a pytest run in a process that interprets Triton kernels; it must pass."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=backends.ROOT, timeout=1200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@outside
def test_kernels_in_the_interpreter() -> None:
    inside_tests = len(CASES) + 3
    assert f"{inside_tests} passed" in interpret(__file__)


@outside
@pytest.mark.slow
def test_op_tests_in_the_interpreter() -> None:
    """All tests of the op. One of them repeats a step 400 times, which says nothing new about a kernel."""
    assert "passed" in interpret("tests/ops/test_power_norm.py", "-k", "triton_interp and not repeated")


@inside
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.rows}-{c.features}-{c.groups}-{str(c.dtype)[6:]}")
def test_kernels_equal_the_reference(case: Case) -> None:
    check(case, run(case, "triton_interp"))


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_groups_wider_than_a_tile(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scales take a pass of their own; small limits bring that about on small inputs."""
    from probkernels.triton_kernels import power_norm as kernels

    monkeypatch.setattr(kernels, "FWD_BYTES", (2048, 64))
    monkeypatch.setattr(kernels, "BWD_BYTES", (1024, 32))
    case = Case(5, 90, 2, dtype)
    check(case, run(case, "triton_interp"))


@inside
def test_every_run_gives_the_same_bits() -> None:
    case = Case(50, 20, 2, torch.float32)
    assert all(torch.equal(p, q) for p, q in zip(run(case, "triton_interp"), run(case, "triton_interp"), strict=True))
