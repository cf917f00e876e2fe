"""Scale mixtures of GPs: figures of the closed form and of Burr priors, quadrature, samples, fits, bad input."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from probkernels.kernel_methods import (
    RBF,
    Burr12,
    FixedScale,
    InverseGamma,
    ScaleMixtureGP,
    SparseGPRegression,
    select_scale_mixture,
)
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal, StudentT, Uniform

F64 = torch.float64
WHOLE = torch.tensor([[1, 0.5, 0.2, 0.6], [0.5, 1, 0.3, 0.4], [0.2, 0.3, 1, 0.1], [0.6, 0.4, 0.1, 1]], dtype=F64)
PLACES = torch.arange(4, dtype=F64)[:, None]
Y = torch.tensor([0.7, -1.2, 0.4], dtype=F64)
AT = torch.tensor([0.3], dtype=F64)


def table(x: Tensor, z: Tensor) -> Tensor:
    """A kernel given by its matrix."""
    return WHOLE[x[:, 0].long()][:, z[:, 0].long()]


def fitted(prior: object, **options: object) -> ScaleMixtureGP:
    return ScaleMixtureGP(table, prior, noise=0.1, **options).fit(PLACES[:3], Y)


def log_density_of_ig(x: Tensor) -> Tensor:
    """InverseGamma(2, 1.5) as a function, without its constant."""
    return -3 * x.log() - 1.5 / x


def smooth(n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(n, 2, generator=generator, dtype=F64) * 4 - 2
    return X, X[:, 0].sin() + 0.3 * X[:, 1] + 0.1 * torch.randn(n, generator=generator, dtype=F64)


def test_closed_form_has_the_figures() -> None:
    gp = fitted(InverseGamma(2.0, 1.5))
    found = gp.predict(PLACES[3:], "f")
    assert isinstance(found, StudentT)
    process = gp._fitted()[0]
    assert process.quadratic.item() == pytest.approx(3.4861253854, abs=6e-11)
    assert found.loc.item() == pytest.approx(0.1355601233, abs=6e-11)
    assert process.moments(PLACES[3:], False)[1].item() == pytest.approx(0.6526207605, abs=6e-11)
    assert found.df.item() == pytest.approx(7, abs=1e-12)
    assert found.scale.square().item() == pytest.approx(0.6047114403, abs=6e-11)
    assert found.log_prob(AT).item() == pytest.approx(-0.7285031212, abs=6e-11)
    assert gp.log_evidence().item() == pytest.approx(-4.8490397386, abs=6e-11)
    assert gp.scale().item() == pytest.approx(1.2972250771, abs=6e-11)
    noisy = gp.predict(PLACES[3:])
    assert noisy.scale.square().item() == pytest.approx(0.6047114403 / 0.6526207605 * 0.7526207605, abs=1e-9)


@pytest.mark.parametrize(
    ("c", "d", "evidence", "density", "scale"),
    [
        (2.0, 1.0, -4.8613866231, -0.7691035822, 1.3993374284),
        (1.0, 1.0, -5.2771225319, -0.8202112863, 1.9170981192),
        (3.0, 2.0, -4.7935211191, -0.6394885237, 0.9182787453),
    ],
)
def test_burr_has_the_figures(c: float, d: float, evidence: float, density: float, scale: float) -> None:
    gp = fitted(Burr12(c, d))
    assert gp.log_evidence().item() == pytest.approx(evidence, abs=6e-11)
    assert gp.predict(PLACES[3:], "f").log_prob(AT).item() == pytest.approx(density, abs=6e-11)
    assert gp.scale().item() == pytest.approx(scale, abs=1e-10)


def test_evidence_is_that_of_the_multivariate_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    X, y = smooth()
    gp = ScaleMixtureGP(RBF(0.8), InverseGamma(1.3, 0.7), noise=0.05).fit(X, y)
    shape = 0.7 / 1.3 * (RBF(0.8)(X).detach() + 0.05 * torch.eye(len(X), dtype=F64))
    expected = stats.multivariate_t.logpdf(y.numpy(), None, shape.numpy(), 2.6)
    assert gp.log_evidence().item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("prior", [InverseGamma(1.5, 0.8), Burr12(2.0, 1.5), FixedScale(1.7), LogNormal(0.2, 0.5)])
def test_chain_rule(prior: object) -> None:
    X, y = smooth()
    whole = ScaleMixtureGP(RBF(), prior, noise=0.1).fit(X, y)
    part = ScaleMixtureGP(RBF(), prior, noise=0.1).fit(X[:7], y[:7])
    expected = part.log_evidence() + part.log_prob(X[7:], y[7:])
    assert whole.log_evidence().item() == pytest.approx(expected.item(), abs=1e-10)
    one = ScaleMixtureGP(RBF(), prior, noise=0.1).fit(X[:11], y[:11])
    single = one.predict(X[11:]).log_prob(y[11:]).item()
    assert single == pytest.approx(one.log_prob(X[11:], y[11:]).item(), abs=1e-10)


def test_values_given_in_two_parts_are_values_given_at_once() -> None:
    X, y = smooth()
    mixing = ScaleMixtureGP(RBF(), InverseGamma(2.0, 1.0), noise=0.1).fit(X[:4], y[:4])._fitted()
    assert mixing[2].posterior(torch.tensor(3.0, dtype=F64), 5).a.item() == pytest.approx(2 + 9 / 2)
    assert mixing[2].posterior(torch.tensor(3.0, dtype=F64), 5).b.item() == pytest.approx(
        1 + (mixing[0].quadratic.item() + 3) / 2
    )


@pytest.mark.parametrize("nodes", [401, 801])
@pytest.mark.parametrize("n", [0, 1, 12, 400])
def test_quadrature_is_the_closed_form(nodes: int, n: int) -> None:
    generator = torch.Generator().manual_seed(1)
    X = torch.rand(n, 2, generator=generator, dtype=F64)
    y = torch.randn(n, generator=generator, dtype=F64)
    closed = ScaleMixtureGP(RBF(), InverseGamma(2.0, 1.5), noise=0.5).fit(X, y)
    by_nodes = ScaleMixtureGP(RBF(), log_density_of_ig, noise=0.5, nodes=nodes).fit(X, y)
    at = torch.rand(5, 2, generator=generator, dtype=F64)
    assert by_nodes.log_evidence().item() == pytest.approx(closed.log_evidence().item(), rel=1e-12, abs=1e-12)
    assert by_nodes.scale().item() == pytest.approx(closed.scale().item(), rel=1e-12)
    for of in ("f", "y"):
        whole = closed.predict(at, of)
        values = whole.loc + torch.tensor([-6, -2, 0, 3, 8]) * whole.scale  # in the tails too
        found, expected = (gp.predict(at, of).log_prob(values) for gp in (by_nodes, closed))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found, expected = (gp.log_prob(at, values) for gp in (by_nodes, closed))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_sharp_prior_is_the_gaussian_process() -> None:
    X, y = smooth()
    sharp = ScaleMixtureGP(RBF(), InverseGamma(1e7, 1e7), noise=0.1).fit(X, y)
    plain = ScaleMixtureGP(RBF(), FixedScale(1.0), noise=0.1).fit(X, y)
    matrix = RBF()(X).detach() + 0.1 * torch.eye(len(X), dtype=F64)
    expected = torch.distributions.MultivariateNormal(torch.zeros(len(X), dtype=F64), matrix).log_prob(y)
    assert plain.log_evidence().item() == pytest.approx(expected.item(), abs=1e-10)
    assert sharp.log_evidence().item() == pytest.approx(expected.item(), abs=1e-4)
    assert isinstance(plain.predict(X), Normal)
    torch.testing.assert_close(sharp.predict(X).scale, plain.predict(X).scale, rtol=1e-6, atol=0)
    torch.testing.assert_close(sharp.predict(X).loc, plain.predict(X).loc)


def test_draws_share_their_scale() -> None:
    torch.manual_seed(0)
    gp = ScaleMixtureGP(lambda x, z: torch.eye(2, dtype=F64)[x[:, 0].long()][:, z[:, 0].long()], InverseGamma(3.0, 2.0))
    gp.fit(PLACES[:0], Y[:0])
    draws = gp.sample(PLACES[:2], 20_000)
    t = StudentT(6.0, 0.0, math.sqrt(2 / 3))
    inside = (draws.abs() < 1.0).double().mean(0)
    stats = pytest.importorskip("scipy.stats")
    expected = 2 * stats.t.cdf(1 / t.scale.item(), 6) - 1
    assert inside.tolist() == pytest.approx([expected] * 2, abs=0.015)
    squares = draws.square().log()
    assert torch.corrcoef(squares.T)[0, 1].item() > 0.05  # uncorrelated values, one chi2: dependent
    assert abs(torch.corrcoef(draws.T)[0, 1].item()) < 0.03


@pytest.mark.parametrize("prior", [InverseGamma(2.0, 1.5), Burr12(2.0, 1.0), FixedScale(1.2)])
def test_draws_have_the_moments_of_the_posterior(prior: object) -> None:
    torch.manual_seed(1)
    gp = ScaleMixtureGP(table, prior, noise=0.1).fit(PLACES[:3], Y)
    draws = gp.sample(PLACES[2:], 40_000, "y")
    mean, covariance = gp._fitted()[0].joint(PLACES[2:], True)
    assert (draws.mean(0) - mean).abs().max().item() < 0.03
    torch.testing.assert_close(torch.cov(draws.T), gp.scale() * covariance, rtol=0.12, atol=0.03)


def test_importance_sampling_reports_when_it_degenerates() -> None:
    closed, drawn = fitted(InverseGamma(2.0, 1.5)), fitted(InverseGamma(2.0, 1.5), draws=20_000)
    assert drawn.log_evidence().item() == pytest.approx(closed.log_evidence().item(), abs=0.03)
    assert drawn.scale().item() == pytest.approx(closed.scale().item(), rel=0.05)
    assert 5_000 < drawn.effective_draws().item() < 20_000 and math.isinf(closed.effective_draws().item())
    again = fitted(InverseGamma(2.0, 1.5), draws=20_000)
    assert torch.equal(again.log_evidence(), drawn.log_evidence())
    X, y = smooth(300)
    many = ScaleMixtureGP(RBF(), Burr12(2.0, 1.0), noise=1e-4, draws=1000).fit(X, y)
    assert many.effective_draws().item() < 100


def test_evidence_and_predictions_have_gradients() -> None:
    X, y = smooth(6)
    for prior in (InverseGamma(2.0, 1.5), Burr12(2.0, 1.0)):
        gp = ScaleMixtureGP(RBF(), prior, noise=0.1)
        parameters = list(gp.parameters())

        def value(
            *given: Tensor, gp: ScaleMixtureGP = gp, names: object = tuple(dict(gp.named_parameters()))
        ) -> Tensor:
            state = dict(zip(names, given, strict=True))  # type: ignore[call-overload]
            return torch.func.functional_call(_Evidence(gp), {f"gp.{k}": v for k, v in state.items()}, (X, y))

        assert torch.autograd.gradcheck(value, [p.detach().clone().requires_grad_() for p in parameters], atol=1e-5)
        gp.fit(X, y)
        at = torch.randn(2, 2, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, gp=gp: gp.predict(x).log_prob(torch.ones(2, dtype=F64)), at)


class _Evidence(torch.nn.Module):
    def __init__(self, gp: ScaleMixtureGP) -> None:
        super().__init__()
        self.gp = gp

    def forward(self, X: Tensor, y: Tensor) -> Tensor:
        return self.gp.log_evidence(X, y)


def test_a_fit_raises_the_evidence_and_keeps_the_best_on_validation() -> None:
    X, y = smooth(40)
    gp = ScaleMixtureGP(RBF(3.0), InverseGamma(), noise=0.5)
    before = gp.fit(X[:30], y[:30]).log_evidence()
    gp.fit(X[:30], y[:30], steps=60, lr=0.05)
    assert gp.log_evidence() > before + 5
    losses = []

    class Watched(ScaleMixtureGP):
        def loss(self, x: Tensor, y: Tensor) -> float:
            losses.append(super().loss(x, y))
            return losses[-1]

    held = (X[30:], -y[30:])  # a validation set that speaks against the training set
    watched = Watched(RBF(3.0), InverseGamma(), noise=0.5).fit(
        X[:30], y[:30], steps=40, lr=0.05, every=10, validation=held
    )
    assert len(losses) == 4
    assert watched.loss(*held) == min(losses) < losses[3]


def test_selection_looks_at_validation_alone() -> None:
    X, y = smooth(40)
    models = [ScaleMixtureGP(RBF(scale), noise=noise) for scale in (0.1, 1.0) for noise in (0.01, 1.0)]
    priors = [InverseGamma(1.0, 1.0), Burr12(2.0, 1.0), FixedScale(5.0), log_density_of_ig]
    best, loss = select_scale_mixture(models, (X[:30], y[:30]), (X[30:], y[30:]), priors)
    assert best.loss(X[30:], y[30:]) == pytest.approx(loss, abs=1e-12)
    for model in models:
        for prior in priors:
            assert model.set_prior(prior).loss(X[30:], y[30:]) >= loss - 1e-12


def test_predictions_are_those_of_the_time_of_the_fit() -> None:
    X, y = smooth()
    gp = ScaleMixtureGP(RBF(), InverseGamma(), noise=0.1).fit(X, y)
    before = gp.predict(X).log_prob(y)
    twins = (copy.deepcopy(gp), pickle.loads(pickle.dumps(gp)))
    given = X.clone()
    with torch.no_grad():
        for parameter in gp.parameters():
            parameter.add_(1.0)
        X.zero_()
    for model in (gp, *twins):
        assert torch.equal(model.predict(given).log_prob(y), before)
    assert not torch.allclose(gp.fit(given, y).predict(given).log_prob(y), before)


def test_float32_data_are_solved_in_float64() -> None:
    X, y = smooth()
    exact = ScaleMixtureGP(RBF(), Burr12(), noise=1e-6).fit(X.float().double(), y.float().double())
    gp = ScaleMixtureGP(RBF(), Burr12(), noise=1e-6).fit(X.float(), y.float())
    assert gp.log_evidence().dtype == gp.sample(X.float(), 2).dtype == torch.float32
    assert gp.log_evidence().item() == pytest.approx(exact.log_evidence().item(), rel=1e-6)
    assert gp.predict(X.float()).log_prob(y.float()).dtype == torch.float32


def test_a_prior_with_bounds() -> None:
    gp = fitted(Uniform(0.5, 2.0), nodes=4001)
    x = torch.linspace(0.5, 2.0, 200_001, dtype=F64)
    density = x**-1.5 * (-gp._fitted()[0].quadratic / 2 / x).exp()
    assert gp.scale().item() == pytest.approx(
        (torch.trapezoid(x * density, x) / torch.trapezoid(density, x)).item(), rel=1e-3
    )


def test_no_point_one_point_and_constant_targets() -> None:
    none = ScaleMixtureGP(RBF(variance=3.0), InverseGamma(2.0, 1.0), noise=0.1).fit(PLACES[:0], Y[:0])
    assert none.log_evidence().item() == 0 and none.scale().item() == pytest.approx(1.0)
    assert none.predict(PLACES).scale.square().tolist() == pytest.approx([3.1 / 2] * 4)
    assert none.predict(PLACES[:0]).log_prob(Y[:0]).shape == (0,) and none.sample(PLACES[:0], 3).shape == (3, 0)
    one = ScaleMixtureGP(RBF(), InverseGamma(2.0, 1.0), noise=0.1).fit(PLACES[:1], Y[:1])
    expected = StudentT(4.0, 0.0, math.sqrt(1.1 / 2)).log_prob(Y[0])
    assert one.log_evidence().item() == pytest.approx(expected.item(), abs=1e-6)
    zeros = ScaleMixtureGP(RBF(), InverseGamma(2.0, 1.0), noise=0.1).fit(PLACES, 0 * PLACES[:, 0])
    assert zeros.scale().item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"'prior': expected a density .* proper, got .* near 0"):
        ScaleMixtureGP(RBF(), Burr12(2.0, 1.0), noise=0.1).fit(PLACES, 0 * PLACES[:, 0])
    assert math.isinf(ScaleMixtureGP(RBF(), Burr12(1.0, 0.8)).fit(PLACES[:0], Y[:0]).scale().item())


def test_equal_points_and_singular_kernels() -> None:
    same = PLACES[:1].expand(3, 1)
    assert ScaleMixtureGP(RBF(), noise=1e-12).fit(same, Y).jitter.item() >= 0
    assert ScaleMixtureGP(RBF(), noise=1e-300).fit(same, 0 * Y + 1).jitter.item() > 0
    with pytest.raises(ValueError, match="'X': expected a positive definite kernel matrix"):
        ScaleMixtureGP(lambda x, z: -x @ z.mT, noise=0.1).fit(PLACES, PLACES[:, 0])
    with pytest.raises(ValueError, match=r"got an entry nan at \[0, 0\]"):
        ScaleMixtureGP(lambda x, z: x @ z.mT * math.nan, noise=0.1).fit(PLACES, PLACES[:, 0])


def test_bad_input() -> None:
    gp = ScaleMixtureGP(RBF())
    with pytest.raises(RuntimeError, match="call fit first"):
        gp.predict(PLACES)
    wrong = Y.clone()
    wrong[1] = math.nan
    for X, y, error, text in [
        (PLACES[:3].half(), Y, TypeError, "'X'.*float32 or float64.*float16"),
        (PLACES[:3], Y.float(), TypeError, "'y'"),
        (PLACES[:3], wrong, ValueError, r"'y'.*nan at \[1\].*missing values"),
        (PLACES[:3], Y[:, None], ValueError, "squeeze"),
        (PLACES[:3, 0], Y, ValueError, "'X'.*shape"),
        (PLACES, Y, ValueError, "'y'"),
    ]:
        with pytest.raises(error, match=text):
            gp.fit(X, y)
    gp.fit(PLACES[:3], Y)
    with pytest.raises(ValueError, match=r"'x': expected shape \(M, 1\)"):
        gp.predict(PLACES.float())
    with pytest.raises(ValueError, match="'of'"):
        gp.predict(PLACES, "g")
    for call in (lambda: InverseGamma(0.0), lambda: Burr12(1.0, -1.0), lambda: ScaleMixtureGP(RBF(), noise=0.0)):
        with pytest.raises(ValueError, match="expected a positive number"):
            call()
    with pytest.raises(TypeError, match="'prior'"):
        ScaleMixtureGP(RBF(), "burr")
    with pytest.raises(TypeError, match=r"'prior'.*sample"):
        ScaleMixtureGP(RBF(), log_density_of_ig, draws=100)
    with pytest.raises(ValueError, match=r"'prior'.*log densities"):
        ScaleMixtureGP(RBF(), lambda x: x[:3]).fit(PLACES[:3], Y)
    with pytest.raises(ValueError, match=r"'prior'.*NaN"):
        ScaleMixtureGP(RBF(), lambda x: x * math.nan).fit(PLACES[:3], Y)
    with pytest.raises(ValueError, match="near infinity"):
        ScaleMixtureGP(RBF(), lambda x: 0 * x).fit(PLACES[:0], Y[:0])
    with pytest.raises(ValueError, match="'models'"):
        select_scale_mixture([], (PLACES, PLACES[:, 0]), (PLACES, PLACES[:, 0]))


def test_distributions_are_torch_distributions() -> None:
    found = fitted(Burr12(2.0, 1.0)).predict(PLACES)
    assert isinstance(found, Distribution) and found.batch_shape == (4,)
    assert found.mean.shape == found.sample().shape == (4,)


@pytest.mark.parametrize("prior", [InverseGamma(2.0, 3.0), Burr12(2.0, 1.0)])
def test_inducing_points_at_the_data_change_nothing(prior: object) -> None:
    X, y = smooth(20)
    x, at = smooth(5, 1)
    exact = ScaleMixtureGP(RBF(), prior, noise=0.05).fit(X, y)
    same = ScaleMixtureGP(RBF(), prior, noise=0.05, inducing=X).fit(X, y)
    assert torch.allclose(same.log_evidence(), exact.log_evidence(), atol=1e-9)
    assert torch.allclose(same.log_prob(x, at), exact.log_prob(x, at), atol=1e-9)
    for of in ("y", "f"):
        assert torch.allclose(same.predict(x, of).variance, exact.predict(x, of).variance, atol=1e-9)
        assert torch.allclose(same.predict(x, of).mean, exact.predict(x, of).mean, atol=1e-9)


def test_fewer_inducing_points_give_a_lower_bound() -> None:
    X, y = smooth(30)
    sparse = ScaleMixtureGP(RBF(), FixedScale(1.0), noise=0.05, inducing=X[:8]).fit(X, y)
    other = SparseGPRegression(X, y, X[:8], RBF(), 0.05)
    assert torch.allclose(sparse.log_evidence(), other.evidence_bound())
    assert torch.allclose(sparse.predict(X).variance, other.predict(X, noisy=True).variance)
    for prior in (InverseGamma(2.0, 3.0), Burr12(2.0, 1.0)):
        bounds = [ScaleMixtureGP(RBF(), prior, noise=0.05, inducing=m).fit(X, y).log_evidence() for m in (4, 12, 30)]
        assert bounds[0] < bounds[1] < bounds[2]
    trained = ScaleMixtureGP(RBF(), noise=0.05, inducing=8).fit(X, y, steps=20, lr=0.05)
    assert trained.log_evidence() > ScaleMixtureGP(RBF(), noise=0.05, inducing=8).fit(X, y).log_evidence()
    with pytest.raises(ValueError, match="inducing"):
        ScaleMixtureGP(RBF(), inducing=31).fit(X, y)
