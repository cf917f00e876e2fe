"""The sparse Student-t classifier and ensembles of finite networks: bound, divergences, limits, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.kernel_methods import RBF, InverseGamma, ScaleMixtureClassifier, ScaleMixtureEnsemble
from probkernels.kernel_methods.scale_mixture_classifier import inverse_gamma_divergence
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

F64 = torch.float64


def blobs(n: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    centers = torch.tensor([[0.0, 1.5], [-1.5, -1.0], [1.5, -1.0]], dtype=F64)
    return centers[y] + 0.4 * torch.randn(n, 2, generator=generator, dtype=F64), y


def made(inducing: int = 9) -> ScaleMixtureClassifier:
    torch.manual_seed(0)
    model = ScaleMixtureClassifier(RBF(), blobs()[0][:inducing], 3)
    with torch.no_grad():
        model.mean.normal_()
        model.log_std.normal_(-0.5, 0.3)
        model.scale.log_a.fill_(math.log(3.0))
        model.scale.log_b.fill_(math.log(1.7))
    return model


def test_divergence_of_the_scale_has_the_figure() -> None:
    a, b = torch.tensor(3.0, dtype=F64), torch.tensor(2.0, dtype=F64)
    assert inverse_gamma_divergence(a, b, 2.0, 2.0).item() == pytest.approx(0.2296371545, abs=6e-11)


def test_divergence_is_the_mean_over_scales_of_that_of_gaussians() -> None:
    model = made()
    K = model.kernel(model.inducing).detach()
    a, b = model.scale.a.item(), model.scale.b.item()
    sigma2 = b / (a)  # E[1 / sigma^2] = a / b, and the divergence is linear in it
    gaussians = sum(
        kl_divergence(
            MultivariateNormal(mean.detach(), sigma2 * torch.diag((2 * log_std.detach()).exp())),
            MultivariateNormal(torch.zeros(9, dtype=F64), sigma2 * K),
        ).item()
        for mean, log_std in zip(model.mean, model.log_std, strict=True)
    )
    scale = inverse_gamma_divergence(model.scale.a, model.scale.b, 2.0, 2.0).item()
    assert model.divergence().item() == pytest.approx(gaussians + scale, rel=1e-9)


def test_marginals_are_those_of_the_joint() -> None:
    model, x = made(), blobs()[0][20:25]
    K, cross = model.kernel(model.inducing), model.kernel(x, model.inducing)
    A = cross @ torch.linalg.inv(K)
    mean, variance = model.marginals(x)
    torch.testing.assert_close(mean, A @ model.mean.mT, rtol=1e-7, atol=1e-7)
    for c in range(3):
        S = torch.diag((2 * model.log_std[c]).exp())
        whole = A @ S @ A.mT + model.kernel(x) - A @ cross.mT
        torch.testing.assert_close(variance[:, c], whole.diagonal(), rtol=1e-6, atol=1e-7)


def test_draws_are_student_t_and_share_their_scale() -> None:
    stats = pytest.importorskip("scipy.stats")
    model = made()
    torch.manual_seed(1)
    mean, variance = torch.zeros(2, 3, dtype=F64), torch.ones(2, 3, dtype=F64)
    draws = model._draws(mean, variance, 20_000).detach()
    inside = (draws.abs() < 1).double().mean(0)
    expected = 2 * stats.t.cdf(1 / math.sqrt(1.7 / 3), 6) - 1
    assert (inside - expected).abs().max().item() < 0.015
    flat = draws.square().log().reshape(-1, 6)
    assert torch.corrcoef(flat.T).min().item() > 0.02


def test_training_learns_classes_and_raises_the_bound() -> None:
    X, y = blobs()
    torch.manual_seed(0)
    model = ScaleMixtureClassifier(RBF(), X[:9], 3)
    before = model.bound(X, y, len(X), 1000).item()
    model.fit(X[:48], y[:48], epochs=40, batch=24, lr=0.05, samples=30)
    assert model.bound(X, y, len(X), 1000).item() > before + 0.2
    assert (model.predict(X[48:].float()) == y[48:]).double().mean().item() > 0.9
    found = model.predict_proba(X.float(), 100)
    assert found.dtype == torch.float32 and found.sum(1).tolist() == pytest.approx([1.0] * 60, abs=1e-5)
    assert model.scale.log_a.item() != pytest.approx(math.log(2.0), abs=1e-3)


def test_bad_input_of_the_classifier() -> None:
    X, y = blobs()
    model = made()
    for call, error, text in [
        (lambda: ScaleMixtureClassifier(RBF(), X[:0], 3), ValueError, "'inducing'"),
        (lambda: ScaleMixtureClassifier(RBF(), X.half(), 3), TypeError, "float16"),
        (lambda: ScaleMixtureClassifier(RBF(), X, 1), ValueError, "'classes'"),
        (lambda: ScaleMixtureClassifier(RBF(), X, 3, prior=2.0), TypeError, "'prior'"),  # type: ignore[arg-type]
        (lambda: model.bound(X, y + 1, 60), ValueError, "classes 0 to 2, got 3"),
        (lambda: model.bound(X, y.double(), 60), TypeError, "'y'"),
        (lambda: model.predict(X * math.nan), ValueError, "nan"),
        (lambda: model.predict(X[:, :1]), ValueError, "'x'"),
        (lambda: model.fit(X[:0], y[:0]), ValueError, "at least one point"),
    ]:
        with pytest.raises(error, match=text):
            call()
    assert model.predict_proba(X[:0]).shape == (0, 3)


def test_wide_networks_are_draws_from_the_t_process() -> None:
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(3)

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 1))

    ensemble = ScaleMixtureEnsemble(make, 2000, InverseGamma(2.0, 1.5), w_std=1.4)
    x = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    with torch.no_grad():
        found = ensemble.each(x)[:, :, 0].double()
    variance = 1.4**2 * 0.5 / 2  # of the kernel: half of w_std^2 |x|^2 / D
    t = stats.t(df=4, scale=math.sqrt(1.5 / 2 * variance))
    assert stats.kstest(found[:, 0].numpy(), t.cdf).pvalue > 0.01
    assert stats.kstest(found[:, 0].numpy(), stats.norm(scale=found[:, 0].std().item()).cdf).pvalue < 0.01
    assert torch.corrcoef(found.square().log().T)[0, 1].item() > 0.1
    assert ensemble(x).shape == (2, 1)
    with pytest.raises(ValueError, match="'make'"):
        ScaleMixtureEnsemble(nn.ReLU, 2, InverseGamma())
    with pytest.raises(TypeError, match="'prior'"):
        ScaleMixtureEnsemble(make, 2, lambda x: x)
