"""Operators: adjoints, pseudo-inverses, solutions, values that are known, and wrong input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from probkernels.inverse import (
    Blur,
    ComplexView,
    Downsample,
    Fourier,
    GaussianNoise,
    Identity,
    Mask,
    Matrix,
    Operator,
    PoissonNoise,
    Radon,
    Scaled,
    Stack,
    WithPinv,
    as_operator,
)
from torch import Tensor

DOUBLE, COMPLEX = torch.float64, torch.complex128


def drawn(*shape: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


LINES = torch.tensor([1, 1, 0, 0, 1, 0, 0, 1])[:, None]
KERNEL = torch.tensor([[0.0, 1, 0], [2, 5, 1], [0, 1, 3]], dtype=DOUBLE) / 13
CASES: dict[str, tuple[Callable[[], Operator], tuple[int, ...], torch.dtype]] = {
    "identity": (Identity, (2, 3), DOUBLE),
    "mask": (lambda: Mask(torch.tensor([True, False, True])), (2, 3), DOUBLE),
    "complex mask": (lambda: Mask(torch.tensor([1.0, 0.0, 1.0])), (2, 3), COMPLEX),
    "fourier": (lambda: Fourier(LINES), (2, 8, 6), COMPLEX),
    "real fourier": (lambda: Fourier(LINES, real=True), (2, 8, 7), DOUBLE),
    "fourier 1-D": (lambda: Fourier(LINES[:, 0], ndim=1), (2, 3, 8), COMPLEX),
    "coils": (lambda: Fourier(LINES, drawn(3, 8, 6, dtype=COMPLEX)), (2, 8, 6), COMPLEX),
    "coils of each row": (lambda: Fourier(LINES, drawn(2, 3, 8, 6, dtype=COMPLEX)), (2, 8, 6), COMPLEX),
    "real image, coils": (lambda: Fourier(LINES, drawn(3, 8, 6, dtype=COMPLEX), real=True), (2, 8, 6), DOUBLE),
    "view": (lambda: ComplexView(Fourier(LINES)), (2, 8, 6, 2), DOUBLE),
    "radon": (lambda: Radon(6, torch.arange(5) * math.pi / 5), (2, 1, 6, 6), DOUBLE),
    "narrow radon": (lambda: Radon(6, torch.arange(5) * 0.7, bins=4), (2, 6, 6), COMPLEX),
    "blur": (lambda: Blur(KERNEL), (2, 1, 5, 6), DOUBLE),
    "complex blur": (lambda: Blur(KERNEL), (2, 5, 6), COMPLEX),
    "downsample": (lambda: Downsample(2), (2, 3, 4, 6), DOUBLE),
    "downsample 3-D": (lambda: Downsample(2, ndim=3), (2, 4, 2, 6), DOUBLE),
    "matrix": (lambda: Matrix(drawn(3, 6), (2, 3)), (2, 2, 3), DOUBLE),
    "tall matrix": (lambda: Matrix(drawn(7, 4, dtype=COMPLEX)), (2, 4), COMPLEX),
    "scaled": (lambda: -3.0 * Matrix(drawn(3, 4)), (2, 4), DOUBLE),
    "composed": (lambda: Downsample(2) @ Blur(KERNEL), (2, 4, 6), DOUBLE),
    "stack": (lambda: Stack([Mask(LINES), Downsample(2)], (8, 6)), (2, 8, 6), DOUBLE),
    "with pinv": (lambda: WithPinv(Matrix(drawn(3, 6))), (2, 6), DOUBLE),
}
INVERTIBLE = [
    name for name in CASES if "coils" not in name and "radon" not in name and name not in ("composed", "stack")
]


def real_inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real.sum()


@pytest.mark.parametrize("name", CASES)
def test_adjoint(name: str) -> None:
    """<A x, y> = <x, A^T y>, and autograd through A gives the same A^T y."""
    make, shape, dtype = CASES[name]
    operator, x = make(), drawn(*shape, dtype=dtype).requires_grad_()
    seen = operator(x)
    y = drawn(*seen.shape, dtype=seen.dtype, seed=1)
    back = operator.adjoint(y)
    assert back.shape == x.shape
    assert back.dtype == dtype
    assert torch.allclose(real_inner(seen, y), real_inner(x, back), rtol=1e-10)
    (grad,) = torch.autograd.grad(seen, x, y)
    assert torch.allclose(grad, back, atol=1e-10)
    assert torch.equal(operator.A_adjoint(y), back)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_pseudo_inverse(name: str) -> None:
    """A A^+ A = A, A^+ A A^+ = A^+, A^+ A is symmetric, and A^+ = A^T where A A^T = I."""
    make, shape, dtype = CASES[name]
    operator, x = make(), drawn(*shape, dtype=dtype)
    y = operator(x)
    found = operator.pinv(y)
    assert found.dtype == dtype
    assert torch.allclose(operator(found), y, atol=1e-6)
    assert torch.allclose(operator.pinv(operator(found)), found, atol=1e-6)
    other = drawn(*shape, dtype=dtype, seed=2)
    assert torch.allclose(real_inner(found, other), real_inner(x, operator.pinv(operator(other))), atol=1e-5)
    if operator.gram == 1.0:
        assert torch.allclose(operator.pinv(y), operator.adjoint(y))
    assert torch.allclose(operator.lstsq(y, 300), found, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_solutions(name: str) -> None:
    """(A A^T + ridge I)^-1 r, with one ridge a row."""
    make, shape, dtype = CASES[name]
    operator = make()
    r, ridge = operator(drawn(*shape, dtype=dtype)), torch.tensor([0.5, 2.0], dtype=DOUBLE)
    found = operator.solve(r, ridge)
    again = operator(operator.adjoint(found)) + ridge.view(-1, *[1] * (r.ndim - 1)) * found
    assert torch.allclose(again, r, atol=1e-5)


def test_values_that_are_known() -> None:
    image = torch.zeros(1, 5, 5, dtype=DOUBLE)
    image[0, 1, 3] = 1
    assert torch.allclose(Blur(KERNEL)(image)[0, :3, 2:], KERNEL)  # the kernel stands where the one was
    scan = Radon(32, torch.arange(24, dtype=DOUBLE) * math.pi / 24)
    at = torch.arange(32, dtype=DOUBLE) - 15.5
    disk = (at.square() + at[:, None].square() < 81).double()[None]
    assert torch.allclose(scan(disk).sum(-1), disk.sum())  # every view sees all of it
    assert (scan.fbp(scan(disk)) - disk).square().mean() < 0.2 * disk.square().mean()
    assert abs(float(scan.fbp(scan(disk))[0, 12:20, 12:20].mean()) - 1) < 0.05


def test_blur_regularized() -> None:
    blur, y = Blur(KERNEL), drawn(2, 5, 6)
    x = blur.regularized(y, 0.1)
    assert torch.allclose(blur.adjoint(blur(x)) + 0.1 * x, blur.adjoint(y))


def test_a_ridge_of_each_entry_is_none_of_each_row() -> None:
    """As many rows as entries: a ridge (1, M) is still one number an entry."""
    blur, ridge, r = Blur(torch.tensor([1.0, 2.0, 1.0], dtype=DOUBLE) / 4), drawn(1, 8).abs() + 0.1, drawn(8, 8)
    found = blur.solve(r, ridge)
    torch.testing.assert_close(blur(blur.adjoint(found)) + ridge * found, r, rtol=0, atol=1e-6)


def test_real_images_of_a_complex_matrix() -> None:
    matrix, x = drawn(3, 4, dtype=torch.complex128), drawn(2, 4)
    torch.testing.assert_close(Matrix(matrix)(x), x.to(matrix.dtype) @ matrix.mT)
    assert Matrix(matrix.real).adjoint(drawn(2, 3, dtype=torch.complex128)).is_complex()


def test_half_precision_leaves_angles() -> None:
    angles, x = torch.arange(12) * math.pi / 12, drawn(1, 16, 16)
    scan = Radon(16, angles)
    y = scan(x)
    assert torch.equal(scan.to(torch.bfloat16)(x), y) and torch.equal(scan.angles, angles)


def test_noise() -> None:
    mean = torch.full((4000, 1), 3.0, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    for noise, variance in ((GaussianNoise(0.5), 0.25), (PoissonNoise(6.0), 0.5)):
        y = noise.sample(mean, generator)
        assert abs(float(y.mean()) - 3) < 0.05
        assert abs(float(y.var()) / variance - 1) < 0.1
        assert torch.allclose(torch.as_tensor(noise.variance(mean), dtype=DOUBLE), torch.tensor(variance, dtype=DOUBLE))
    counts = torch.arange(60.0, dtype=DOUBLE)[:, None] / 6
    total = PoissonNoise(6.0).log_prob(counts, torch.full_like(counts, 3.0)).exp().sum()
    assert torch.allclose(total, torch.ones_like(total))
    expected = torch.distributions.Normal(0.0, 0.5).log_prob(torch.tensor([1.0, 2.0])).sum().double()
    found = GaussianNoise(0.5).log_prob(torch.tensor([[1 + 2j]], dtype=COMPLEX), torch.zeros(1, 1, dtype=COMPLEX))
    assert torch.allclose(found, expected)


class Physics:
    """What deepinv's linear physics offer."""

    def A(self, x: Tensor, **_: object) -> Tensor:
        return 2 * x

    def A_adjoint(self, y: Tensor, **_: object) -> Tensor:
        return 2 * y

    def A_dagger(self, y: Tensor, **_: object) -> Tensor:
        return y / 2


def test_physics() -> None:
    operator, x = as_operator(Physics()), torch.ones(2, 3)
    assert torch.equal(operator(x), 2 * x)
    assert torch.equal(operator.pinv(operator(x)), x)
    assert torch.allclose(operator.solve(x, 1.0), x / 5)
    assert as_operator(operator) is operator
    with pytest.raises(TypeError, match="as_operator: argument 'value': expected an Operator, or"):
        as_operator(Physics)


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Mask(torch.tensor([1.0, math.nan])), ValueError, r"Mask: argument 'mask'.*got nan at \[1\]"),
    (lambda: Mask(torch.tensor([1.0, 0.5])), ValueError, r"'mask': expected zeros and ones, got 0.5 at \[1\]"),
    (lambda: Mask([True]), TypeError, "'mask': expected a tensor of bools"),  # type: ignore[arg-type]
    (
        lambda: Mask(torch.ones(3))(torch.ones(2, 4)),
        ValueError,
        r"Mask: argument 'x': expected .*\(3,\), got shape \(2, 4",
    ),
    (lambda: Mask(torch.ones(3))(torch.ones(2, 3).long()), TypeError, "'x': expected a floating-point or complex"),
    (lambda: Fourier(LINES, real=True)(torch.ones(1, 8, 8) * 1j), TypeError, "Fourier: argument 'x': expected a real"),
    (lambda: Fourier(LINES).adjoint(torch.ones(1, 8, 8)), TypeError, "'y': expected a complex tensor"),
    (lambda: Fourier(LINES)(torch.ones(1, 6, 8)), ValueError, r"Fourier: argument 'x': expected .*\(8, 1\)"),
    (lambda: Fourier(LINES, torch.ones(2, 6, 8)), ValueError, "Fourier: argument 'maps'"),
    (lambda: Fourier(LINES, torch.ones(2, 8, 8)).pinv(torch.ones(1, 2, 8, 8) * 1j), NotImplementedError, "WithPinv"),
    (
        lambda: Fourier(LINES, torch.ones(2, 3, 8, 8))(torch.ones(2, 2, 8, 8)),
        ValueError,
        "'x': expected 3 axes, and a batch of 2",
    ),
    (lambda: Fourier(LINES, torch.ones(2, 3, 8, 8))(torch.ones(1, 8, 8)), ValueError, "a batch of 2 as the maps have"),
    (
        lambda: Fourier(LINES, torch.ones(2, 3, 8, 8)).adjoint(torch.ones(1, 3, 8, 8) * 1j),
        ValueError,
        "'y': expected 4",
    ),
    (lambda: ComplexView(Identity())(torch.ones(1, 3)), ValueError, "ComplexView: argument 'x'"),
    (lambda: ComplexView(Identity())(torch.ones(1, 2) * 1j), TypeError, "view_as_real"),
    (lambda: Radon(4, torch.ones(2))(torch.ones(1, 4, 5)), ValueError, r"Radon: argument 'x'.*\(B, ..., 4, 4\)"),
    (lambda: Radon(4, torch.tensor([math.inf])), ValueError, "'angles': expected finite numbers"),
    (lambda: Radon(4, torch.ones(2)).pinv(torch.ones(1, 2, 8)), NotImplementedError, "Radon: has no pseudo-inverse"),
    (lambda: Blur(torch.ones(5))(torch.ones(1, 3)), ValueError, "Blur: argument 'x'"),
    (lambda: Blur(torch.ones(3)).regularized(torch.ones(1, 3), 0.0), ValueError, "'ridge': expected a positive"),
    (lambda: Downsample(2)(torch.ones(1, 4, 5)), ValueError, "multiples of 2"),
    (lambda: Downsample(0), ValueError, "'factor'"),
    (lambda: Matrix(torch.ones(2, 3))(torch.ones(1, 2)), ValueError, r"Matrix: argument 'x'.*\(B, ..., 3\)"),
    (lambda: Matrix(torch.ones(2, 3), (2, 2)), ValueError, "'shape': expected one of 3 numbers"),
    (lambda: Scaled(0.0, Identity()), ValueError, "'factor': expected a number that is not 0"),
    (lambda: Stack([], (3,)), ValueError, "'operators': expected at least one"),
    (lambda: Identity() @ torch.ones(2), TypeError, "Compose: argument 'inner': expected an Operator"),
    (
        lambda: GaussianNoise(0.0),
        ValueError,
        "'std': expected a positive number, got 0.0. Hint: for measurements without",
    ),
    (lambda: GaussianNoise(-1.0), ValueError, "'std': expected a positive"),
    (lambda: PoissonNoise(0.0), ValueError, "'scale': expected a positive"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_wrong_input(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
