"""Networks that learn permutations: figures, closed forms against kernels, exact learning, ensemble sizes."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.kernel_methods import (
    MLPKernel,
    ensemble_size,
    permutation_covariance,
    permutation_moments,
    round_sign,
    success_probability,
)
from torch import Tensor

F64 = torch.float64
FIGURES = {
    3: (0.55709741, -0.01817467, 2.23263120e-2, 67.5902),
    5: (0.56063224, -0.01463984, 1.32346846e-2, 61.7506),
    10: (0.56542176, -0.00985031, 6.51873114e-3, 67.1836),
    20: (0.56931776, -0.00595432, 3.22372783e-3, 90.9273),
    30: (0.57100534, -0.00426674, 2.13969041e-3, 117.5327),
    100: (0.57384218, -0.00142990, 6.37474715e-4, 311.7836),
}


def every_input(k: int) -> Tensor:
    return (torch.arange(1, 2**k)[:, None] >> torch.arange(k)) & 1


@pytest.mark.parametrize("k", FIGURES)
def test_moments_have_the_figures(k: int) -> None:
    one, zero, variance, ratio = FIGURES[k]
    found = permutation_moments(k, 2)
    assert found.mean_one == pytest.approx(one, abs=6e-9) and found.mean_zero == pytest.approx(zero, abs=6e-9)
    assert found.variance == pytest.approx(variance, rel=1e-8)
    assert found.variance / found.mean_zero**2 == pytest.approx(ratio, abs=6e-5)


def test_moments_with_more_ones_and_of_the_last_layer_have_the_figures() -> None:
    for (k, m, kind), expected in {
        (5, 3, "ntk"): (0.41107836, -0.03202377, 1.90863182e-2),
        (5, 5, "ntk"): (0.26393467, None, 2.75974808e-2),
        (4, 4, "ntk"): (0.31890137, None, 3.01960737e-2),
        (5, 2, "nngp"): (0.6016565538, -0.0395428268, 0.0128766869),
    }.items():
        for value, figure in zip(permutation_moments(k, m, kind), expected, strict=True):
            assert figure is None or value == pytest.approx(figure, abs=6e-9)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("k", [2, 5, 12])
def test_moments_are_those_of_kernel_regression(k: int, kind: str) -> None:
    kernel = MLPKernel(1, w_std=1.0, kind=kind)
    nngp = MLPKernel(1, w_std=1.0)
    eye = torch.eye(k, dtype=F64)
    x = torch.stack([(torch.arange(k) < m).double() / math.sqrt(m) for m in range(1, k + 1)])
    weights = torch.linalg.solve(kernel(eye), kernel(eye, x)).mT.detach()
    cross = weights @ nngp(eye, x)
    covariance = (nngp(x) + weights @ nngp(eye) @ weights.mT - cross - cross.mT).detach()
    for m in range(1, k + 1):
        found = permutation_moments(k, m, kind)
        assert weights[m - 1, 0].item() == pytest.approx(found.mean_one, abs=1e-8)  # cosines near 1 are rounded
        assert m == k or weights[m - 1, -1].item() == pytest.approx(found.mean_zero, abs=1e-8)
        assert covariance[m - 1, m - 1].item() == pytest.approx(found.variance, abs=1e-8)
    torch.testing.assert_close(permutation_covariance((x > 0).long(), kind), covariance, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("k", [3, 10])
def test_the_mean_gives_every_input_exactly(k: int) -> None:
    torch.manual_seed(k)
    kernel, x, permutation = MLPKernel(1, kind="ntk"), every_input(k), torch.randperm(k)
    eye = torch.eye(k, dtype=F64)
    unit = x / x.sum(1, keepdim=True).double().sqrt()
    targets = eye[permutation].mT  # e_i has the target P e_i
    mean = kernel(unit, eye).detach() @ torch.linalg.solve(kernel(eye).detach(), targets)
    assert torch.equal(round_sign(mean, 1e-7), x[:, permutation])


def test_ensemble_sizes_have_the_figures() -> None:
    for k, figure in {2: 6705, 3: 5949, 5: 5687, 10: 6560, 20: 9383, 30: 12510}.items():
        assert abs(ensemble_size(k, 0.1, 1000) - figure) <= 1
    assert abs(ensemble_size(5, 0.1) - 2274) <= 1
    assert ensemble_size(12, 0.1, factor=2) == pytest.approx(ensemble_size(12, 0.1) / 4, rel=1e-3)
    ratio = permutation_moments(3000, 2)
    assert ratio.variance / ratio.mean_zero**2 / 3000 == pytest.approx(2.80, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "figures"), [("ntk", (205, 333, 454, 579, 708, 840)), ("nngp", (28, 58, 89, 121, 155, 190))]
)
def test_success_has_probability_nine_tenths_at_the_figures(kind: str, figures: tuple[int, ...]) -> None:
    for k, networks in zip((5, 10, 15, 20, 25, 30), figures, strict=True):
        assert success_probability(k, 2, networks + 1, kind) >= 0.9 > success_probability(k, 2, networks - 2, kind)
    assert success_probability(5, 1, 1) == 1


def test_bad_input() -> None:
    for call, error, text in [
        (lambda: permutation_moments(1, 1), ValueError, "'k'"),
        (lambda: permutation_moments(5, 0), ValueError, "'m': expected 1 to 5|'m'"),
        (lambda: permutation_moments(5, 6), ValueError, "'m'"),
        (lambda: permutation_moments(5.0, 2), TypeError, "'k'"),  # type: ignore[arg-type]
        (lambda: permutation_moments(5, 2, "cnn"), ValueError, "'kind'"),
        (lambda: ensemble_size(5, 1.0), ValueError, "'delta'"),
        (lambda: success_probability(5, 2, 0), ValueError, "'networks'"),
        (lambda: permutation_covariance(torch.zeros(2, 3)), ValueError, "row 0 without"),
        (lambda: permutation_covariance(torch.full((2, 3), 0.5)), ValueError, "zeros and ones, got 0.5"),
        (lambda: round_sign(torch.tensor([math.nan])), ValueError, "nan"),
        (lambda: round_sign(torch.zeros(2).half()), TypeError, "float16"),
    ]:
        with pytest.raises(error, match=text):
            call()
