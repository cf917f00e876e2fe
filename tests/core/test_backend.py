"""Choice of backend: forcing, refusing, falling back in the open; and what the registry guarantees."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import probkernels as pk
import pytest
import torch
from probkernels._core import backend, native, registry
from probkernels.ops.power_norm import FWD

X, PSI2 = torch.ones(2, 4), torch.ones(4)


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where the native module does not load."""
    monkeypatch.setattr(native, "problem", "the native module did not load (test)")
    with pk.use_backend(None):
        backend._told.clear()
        yield
    backend._told.clear()


def test_cpu_kernel_is_the_choice_for_cpu_tensors() -> None:
    assert backend.choose(FWD, "cpu", torch.float32).name == "cpu"


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_forcing(name: str) -> None:
    with pk.use_backend(name):
        assert backend.choose(FWD, "cpu", torch.float32).name == name
    assert backend.choose(FWD, "cpu", torch.float32).name == "cpu"


def test_forcing_restores_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"), pk.use_backend("reference"):
        raise RuntimeError("inside")
    assert backend.choose(FWD, "cpu", torch.float32).name == "cpu"


@pytest.mark.parametrize(
    ("name", "reason"), [("cuda", "it runs cuda tensors, not cpu ones"), ("triton", "it runs cuda tensors")]
)
def test_forcing_what_cannot_run_says_why(name: str, reason: str) -> None:
    with pk.use_backend(name), pytest.raises(pk.BackendError, match=reason):
        pk.ops.power_norm(X, PSI2)


def test_fallback_is_logged_once_with_its_reason(without_native: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "probkernels"):
        for _ in range(2):
            backend.CHOSEN.clear()
            pk.ops.power_norm(X, PSI2)
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 and "falls back to plain torch" in lines[0] and "did not load (test)" in lines[0]


def test_strict_mode_forbids_the_fallback(without_native: None) -> None:
    with pk.use_backend(None, strict=True), pytest.raises(pk.BackendError, match=r"PK_STRICT=1.*did not load"):
        pk.ops.power_norm(X, PSI2)


def test_refusals_name_every_other_backend() -> None:
    refused = backend.refusals(FWD, "cpu", torch.float32)
    assert {"cuda", "triton"} <= refused.keys() and "cpu" not in refused and "reference" not in refused
    assert "does not take torch.int64" in backend.refusals(FWD, "cpu", torch.int64)["cpu"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PK_BACKEND": "reference"}, "reference"),
        ({"PK_BACKEND": "cuda"}, "BackendError: power_norm_fwd: backend 'cuda' was forced but cannot run it"),
        ({"PK_LOG": "debug"}, "power_norm_fwd on cpu torch.float32: cpu (refused:"),
    ],
    ids=str,
)
def test_environment_variables(variables: dict[str, str], expected: str) -> None:
    code = (
        "import torch, probkernels as pk; from probkernels._core import backend; from probkernels.ops.power_norm"
        " import FWD; pk.ops.power_norm(torch.ones(2, 4), torch.ones(4));"
        " print(backend.choose(FWD, 'cpu', torch.float32).name)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PK_")} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert expected in done.stdout + done.stderr


def test_without_torchs_private_names_gradients_still_work() -> None:
    """Should a torch version lack them, ops register with torch.library.register_autograd."""
    code = """
import builtins, sys
real = builtins.__import__
def hide(name, globals=None, locals=None, fromlist=(), level=0):
    if name == "torch._functorch.utils" and "enable_single_level_autograd_function" in (fromlist or ()):
        if globals and globals.get("__name__") == "probkernels._core.registry":
            raise ImportError(name)
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = hide
import torch, probkernels as pk
from probkernels._core import registry
assert not registry.HAVE_PRIVATE_NAMES
x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
psi2 = torch.ones(4, dtype=torch.float64)
torch.autograd.gradcheck(lambda x: pk.ops.power_norm(x, psi2)[0], (x,))
torch.autograd.gradcheck(lambda x: pk.ops.power_norm_v(x)[0], (x,))
torch.autograd.gradgradcheck(lambda x: pk.ops.power_norm_v(x)[0], (x,))
print("gradients work")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "gradients work" in done.stdout, done.stderr


def test_in_backward_is_true_only_there() -> None:
    seen = []
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: seen.append(registry.in_backward()))
    y.backward()
    assert seen == [True] and not registry.in_backward()


def test_build_info_and_versions_agree() -> None:
    assert native.build_info()["version"] == pk.__version__
    assert native.build_info()["openmp"] is True
