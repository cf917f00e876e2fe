"""Ensembles that learn permutations: their law at finite width, their training, their symmetry, bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.kernel_methods import (
    MLPKernel,
    NTKRegressor,
    PermutationEnsemble,
    permutation_covariance,
    permutation_moments,
)
from torch import Tensor

F64 = torch.float64


def made(k: int, width: int, n_models: int, parameterization: str = "ntk", **others: Any) -> PermutationEnsemble:
    generator = torch.Generator().manual_seed(0)
    return PermutationEnsemble(k, width, n_models, parameterization, generator=generator, **others)


def two_ones(k: int) -> Tensor:
    pairs = torch.combinations(torch.arange(k))
    return torch.zeros(len(pairs), k, dtype=torch.long).scatter(1, pairs, 1)


def measured(ensemble: PermutationEnsemble, order: Tensor) -> tuple[float, float, float]:
    """Mean where the permuted bit is 1, mean where it is 0, and variance over the networks."""
    x = two_ones(ensemble.k)
    with torch.no_grad():
        outputs = ensemble.each(x)
    on = x[:, order].bool()
    return outputs[:, on].mean().item(), outputs[:, ~on].mean().item(), outputs.var(0).mean().item()


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_wide_networks_follow_the_closed_form(parameterization: str) -> None:
    order = torch.tensor([3, 1, 4, 0, 2])
    ensemble = made(5, 2048, 100, parameterization).fit(order)
    expected = permutation_moments(5, 2, ensemble.kind)
    one, zero, variance = measured(ensemble, order)
    assert one == pytest.approx(expected.mean_one, abs=0.012)
    assert zero == pytest.approx(expected.mean_zero, abs=0.008)  # the two parameterizations are 0.025 apart
    assert variance == pytest.approx(expected.variance, rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameterization", "k", "width", "n_models"),
    [("ntk", 5, 2048, 400), ("ntk", 10, 4096, 200), ("standard", 5, 4096, 200)],
)
def test_many_wide_networks_follow_the_closed_form(parameterization: str, k: int, width: int, n_models: int) -> None:
    order = torch.arange(k).flip(0)
    ensemble = made(k, width, n_models, parameterization).fit(order)
    expected = permutation_moments(k, 2, ensemble.kind)
    one, zero, variance = measured(ensemble, order)
    assert one == pytest.approx(expected.mean_one, abs=0.006)
    assert zero == pytest.approx(expected.mean_zero, abs=0.003)
    assert variance == pytest.approx(expected.variance, rel=0.04)


def test_outputs_at_several_inputs_have_the_joint_law() -> None:
    x = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]])
    with torch.no_grad():
        outputs = made(3, 512, 600).fit([0, 1, 2]).each(x)
    found = torch.stack([torch.cov(outputs[:, :, j].mT.double()) for j in range(3)]).mean(0)
    torch.testing.assert_close(found, permutation_covariance(x), rtol=0.15, atol=0.0015)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("k", [5, 10])
def test_every_step_shrinks_the_errors_by_the_contraction(parameterization: str, k: int) -> None:
    ensemble = made(k, 8192, 3, parameterization, dtype=F64)
    kappa = 1 + k * 0.15915494 / ((1.0 if parameterization == "ntk" else 0.5) - 0.15915494)
    assert ensemble.contraction == pytest.approx((kappa - 1) / (kappa + 1), rel=1e-7)
    errors = ensemble.fit(list(range(k))).errors
    assert (errors[4] / errors[0]) ** 0.25 == pytest.approx(ensemble.contraction, rel=0.03)
    assert errors[-1] <= 1e-5


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_a_step_is_gradient_descent(parameterization: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    ensemble = made(4, 6, 3, parameterization, dtype=F64)
    other = copy.deepcopy(ensemble)
    target = torch.eye(4, dtype=F64)[:, order]  # the row i is the target of e_i
    for _ in range(3):
        loss = (other.each(torch.eye(4)) - target).square().sum() / 2
        gradients = torch.autograd.grad(loss, list(other.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(other.parameters(), gradients, strict=True):
                parameter.sub_(gradient, alpha=0.01)
    with pytest.raises(RuntimeError, match="errors of at most 1e-05"):
        ensemble.fit(order, steps=3, lr=0.01)
    assert len(ensemble.errors) == 4
    torch.testing.assert_close(dict(ensemble.named_parameters()), dict(other.named_parameters()))


def test_a_permutation_of_the_last_layer_permutes_the_outputs() -> None:
    order = torch.tensor([2, 0, 3, 1])
    plain = made(4, 64, 5, dtype=F64)
    permuted = copy.deepcopy(plain)
    with torch.no_grad():
        permuted.second.copy_(plain.second[:, order])
    x = two_ones(4)
    outputs = plain.fit([0, 1, 2, 3]).each(x)
    torch.testing.assert_close(permuted.fit(order).each(x), outputs[..., order], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_moments_are_those_of_the_regressor(kind: str) -> None:
    for k in range(2, 13):
        order = torch.randperm(k, generator=torch.Generator().manual_seed(k))
        trained = {"ntk": "all", "nngp": "last"}[kind]
        regressor = NTKRegressor(MLPKernel(1, w_std=1.0, kind="ntk"), trained=trained)
        eye = torch.eye(k, dtype=F64)
        regressor.fit(eye, eye[:, order])
        x = torch.stack([(torch.arange(k) < m).double() for m in range(1, k + 1)])
        mean, covariance = regressor.predict(x / x.sum(1, keepdim=True).sqrt(), cov=True)
        for m in range(1, k + 1):
            found, on = permutation_moments(k, m, kind), x[m - 1, order] > 0
            expected = torch.where(on, found.mean_one, found.mean_zero).to(F64)
            rounded = 6e-8  # cosines of equal points are clamped: the kernel's diagonal is too small by 4e-9
            torch.testing.assert_close(mean[m - 1].detach(), expected, rtol=0, atol=rounded)
            assert covariance[m - 1, m - 1].item() == pytest.approx(found.variance, abs=rounded)


def test_tiles_and_state_dicts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, x = made(3, 32, 7, "standard").fit([1, 2, 0]), two_ones(3)
    outputs = ensemble.each(x)
    monkeypatch.setattr("probkernels.kernel_methods.permutation_ensemble.TILE", 200)
    torch.testing.assert_close(ensemble.each(x), outputs)
    torch.testing.assert_close(ensemble(x), outputs.mean(0))
    other = PermutationEnsemble(3, 32, 7, "standard")
    other.load_state_dict(ensemble.state_dict())
    assert torch.equal(other.each(x), ensemble.each(x))
    assert ensemble.each(x[:0]).shape == (7, 0, 3)
    before = ensemble.first.clone()
    assert not torch.equal(ensemble.reset().first, before) and not ensemble.errors


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: PermutationEnsemble(1, 8, 2), ValueError, "'k'"),
        (lambda: PermutationEnsemble(3, 0, 2), ValueError, "'width'"),
        (lambda: PermutationEnsemble(3, 8, 2.0), TypeError, "'n_models'"),  # type: ignore[arg-type]
        (lambda: PermutationEnsemble(3, 8, 2, "mup"), ValueError, "'parameterization'"),
        (lambda: PermutationEnsemble(3, 8, 2, dtype=torch.float16), ValueError, "'dtype'"),
        (lambda: made(3, 8, 2).fit([0, 1, 1]), ValueError, "0 to 2 in any order"),
        (lambda: made(3, 8, 2).fit([0, 1]), ValueError, "0 to 2 in any order"),
        (lambda: made(3, 8, 2).fit([0.0, 1.0, 2.0]), TypeError, "'permutation'"),  # type: ignore[list-item]
        (lambda: made(3, 8, 2).fit(torch.eye(3).long()), ValueError, "'permutation'"),
        (lambda: made(3, 8, 2).fit([0, 1, 2], tolerance=0.0), ValueError, "'tolerance'"),
        (lambda: made(3, 8, 2).fit([0, 1, 2], lr=-1.0), ValueError, "'lr'"),
        (lambda: made(3, 8, 2).fit([0, 1, 2], lr=1e6), RuntimeError, "do not explode, got"),
        (lambda: made(3, 8, 2).each(torch.ones(2, 4)), ValueError, r"shape \(T, 3\)"),
        (lambda: made(3, 8, 2).each(torch.zeros(2, 3)), ValueError, "row 0 without"),
    ],
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
