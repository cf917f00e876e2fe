"""exp, log, asin and tanh of the CPU kernels' vectors, against float64 (float64's against Python's own decimals)."""

from __future__ import annotations

import ctypes
import decimal
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import backends

pytestmark = pytest.mark.skipif(backends.compiler() is None, reason="no C++ compiler: set CXX or put g++ on PATH")
INF = math.inf
BUILDS = ["", "_baseline"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    output = tmp_path_factory.mktemp("vec_math") / "vec_math.so"
    flags = ["-std=c++17", "-O2", "-Wno-psabi", "-fno-math-errno", "-shared", "-fPIC"]
    source = Path(__file__).with_name("vec_math.cpp")
    backends._make(output, [backends.compiler(), *flags, f"-I{backends.ROOT / 'csrc/include'}", str(source)])
    return ctypes.CDLL(str(output))


def apply(library: ctypes.CDLL, name: str, x: Tensor, build: str = "") -> Tensor:
    y = torch.empty_like(x)
    dtype = "float" if x.dtype is torch.float32 else "double"
    function = getattr(library, f"{name}_{dtype}{build}")
    function(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), x.numel())
    return y


def last_place(y: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of each y (float64) in ``dtype``."""
    return torch.finfo(dtype).eps * 2.0 ** (torch.frexp(y)[1] - 1).double()


@pytest.mark.parametrize("build", BUILDS)
def test_float32_within_one_and_a_half_units(library: ctypes.CDLL, build: str) -> None:
    x = torch.cat([torch.linspace(-86.9, 88.7, 100_003), torch.linspace(-1, 1, 50_001), torch.randn(1000) * 1e-4])
    exact = x.double().exp()
    error = (apply(library, "exp", x, build).double() - exact).abs() / last_place(exact, torch.float32)
    assert error.max() < 1.5
    x = torch.cat([torch.linspace(-86, 88, 100_003).exp(), torch.linspace(0.5, 2, 50_001), 1 + torch.randn(999) * 1e-3])
    exact = x.double().log()
    error = (apply(library, "log", x, build).double() - exact).abs() / last_place(exact, torch.float32)
    assert error[exact != 0].max() < 1.5
    assert apply(library, "log", torch.ones(3), build).tolist() == [0, 0, 0]


@pytest.mark.parametrize("build", BUILDS)
def test_float64_within_one_and_a_half_units(library: ctypes.CDLL, build: str) -> None:
    decimal.getcontext().prec = 30

    def worst(name: str, x: Tensor) -> float:
        got, error = apply(library, name, x, build).tolist(), 0.0
        for value, result in zip(x.tolist(), got, strict=True):
            exact = getattr(decimal.Decimal(value), {"exp": "exp", "log": "ln"}[name])()
            error = max(error, float(abs(decimal.Decimal(result) - exact)) / math.ulp(float(exact)))
        return error

    assert worst("exp", torch.cat([torch.linspace(-707, 709, 501).double(), torch.randn(200).double()])) < 1.5
    assert worst("log", torch.cat([torch.linspace(-700, 700, 301).double().exp(), 0.5 + torch.rand(200)])) < 1.5


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ends_infinities_and_nan(library: ctypes.CDLL, dtype: torch.dtype, build: str) -> None:
    x = torch.tensor([-INF, -1e4, INF, 1e4, math.nan, 0.0, -0.0], dtype=dtype)
    assert apply(library, "exp", x, build)[[0, 1, 2, 3, 5, 6]].tolist() == [0, 0, INF, INF, 1, 1]
    assert apply(library, "exp", x, build)[4].isnan()
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([0.0, -0.0, tiny / 4, INF, math.nan, tiny], dtype=dtype)
    got = apply(library, "log", x, build)
    assert got[:4].tolist() == [-INF, -INF, -INF, INF]
    assert got[4].isnan()
    torch.testing.assert_close(got[5], torch.tensor(tiny, dtype=dtype).log())


@pytest.mark.parametrize("build", BUILDS)
def test_asin_within_two_and_a_half_units(library: ctypes.CDLL, build: str) -> None:
    near = torch.logspace(-12, -1, 2001, dtype=torch.float64)
    x = torch.cat([torch.linspace(-1, 1, 100_003, dtype=torch.float64), near, 1 - near, near - 1, near + 0.5]).float()
    exact = x.double().asin()
    error = (apply(library, "asin", x, build).double() - exact).abs() / last_place(exact, torch.float32)
    assert error.max() < 2.5
    mpmath = pytest.importorskip("mpmath")
    some = torch.cat([torch.linspace(-1, 1, 801).double(), near[::20], 1 - near[::20], 0.5 + near[::40]])
    for value, got in zip(some.tolist(), apply(library, "asin", some, build).tolist(), strict=True):
        with mpmath.workdps(40):
            right = mpmath.asin(value)
            assert abs(got - right) <= 2.5 * math.ulp(float(right)), value
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.1, -2.0, math.nan], dtype=dtype)
        found = apply(library, "asin", x, build)
        assert torch.equal(found[:4], x[:4].asin()) and found[1].signbit()
        assert found[4:].isnan().all()


def _tanh(x: float) -> decimal.Decimal:
    decimal.getcontext().prec = 40  # below 1e-12 the quotient loses a third of its digits
    e = (decimal.Decimal(-2) * decimal.Decimal(abs(x))).exp()
    return ((1 - e) / (1 + e)).copy_sign(decimal.Decimal(x))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_within_three_units(library: ctypes.CDLL, dtype: torch.dtype, build: str) -> None:
    """Of float64 against decimals: torch's has a unit of its own."""
    points = 20_001 if dtype is torch.float32 else 1501
    near = torch.logspace(-12, 0, points // 10, dtype=torch.float64)
    line = torch.linspace(-25, 25, points, dtype=torch.float64)
    x = torch.cat([line, line / 25, near, -near, 1.0 - near, torch.linspace(0.4, 0.6, points // 10).double()]).to(dtype)
    got = apply(library, "tanh", x, build)
    if dtype is torch.float32:
        exact = x.double().tanh()
        assert ((got.double() - exact).abs() / last_place(exact, dtype))[exact != 0].max() <= 3
    else:
        errors = [abs(decimal.Decimal(y) - _tanh(v)) for v, y in zip(x.tolist(), got.tolist(), strict=True)]
        worst = max(float(e) / math.ulp(y) for e, y in zip(errors, got.tolist(), strict=True) if y)
        assert worst <= 3
    ends = torch.tensor([0.0, INF, -INF, 1e4, math.nan], dtype=dtype)
    found = apply(library, "tanh", ends, build)
    assert found[:4].tolist() == [0, 1, -1, 1] and found[4].isnan()
