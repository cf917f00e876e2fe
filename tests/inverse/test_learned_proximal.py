"""Learned proximal networks: exact priors, inversion, patches, published weights, checks, training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from probkernels.inverse import (
    ICNN,
    LPN,
    ConvICNN,
    GammaSchedule,
    Identity,
    ProximalMatchingLoss,
    Stage,
    assert_prox,
    fit_lpn,
    load_official,
    pnp_pgd,
)
from torch import Tensor

from tests.inverse.exact import Gaussian, SoftThreshold


def lpn(features: int = 2, mu: float = 0.2, dtype: torch.dtype = torch.float64) -> LPN:
    made = LPN(ICNN(features, 8, 2, strong_convexity=mu)).to(dtype)
    made.project_()
    return made


def points(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


# --- priors ---


def test_priors_that_are_known() -> None:
    x = torch.tensor([[0.5], [-1.0], [2.5]], dtype=torch.float64)
    value, found = LPN(SoftThreshold()).prior(x)
    torch.testing.assert_close(value, x.abs()[:, 0])
    assert found.converged.all()
    c, x = 0.8, points(5, 3)
    value, _ = LPN(Gaussian(c)).prior(x)
    torch.testing.assert_close(value, (1 / c - 1) * x.square().sum(1) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mu", [0.02, 0.5])
def test_inversion(mu: float, dtype: torch.dtype) -> None:
    net, x = lpn(3, mu, dtype), 3 * points(20, 3).to(dtype)
    found = net.invert(x)
    assert found.y.dtype is dtype and found.converged.all() and found.residual.max() <= 1e-6
    torch.testing.assert_close(net(found.y), x, rtol=0, atol=1e-6 if dtype is torch.float64 else 1e-4)


def test_inversion_of_images_and_what_cannot_be_reached() -> None:
    net = LPN(ConvICNN(1, 3, strong_convexity=0.1)).double()
    net.project_()
    x = points(3, 1, 6, 5)
    assert net.invert(x, tol=1e-9).residual.max() <= 1e-9
    free = lpn(1, 0.0)  # without strong convexity its values are bounded
    far = free.invert(torch.tensor([[1e6]], dtype=torch.float64), max_steps=5)
    assert not far.converged.any() and far.residual > 1


def test_prior_has_its_exact_gradients() -> None:
    net, x = lpn(), points(4, 2).requires_grad_()
    weight = net.potential.lin[1].weight
    with torch.no_grad():
        weight += 1e-3  # off the edge, so that the network is convex on both sides
    value, found = net.prior(x, tol=1e-11)
    of_x, of_weight = torch.autograd.grad(value.sum(), [x, weight])
    torch.testing.assert_close(of_x, found.y - x.detach(), rtol=1e-12, atol=1e-12)
    with pytest.raises(NotImplementedError, match=r"LPN.prior: has no second derivatives"):
        torch.autograd.grad(net.prior(x).value.sum(), x, create_graph=True)
    direction, step = torch.rand_like(weight), 1e-5
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
            sums.append(net.prior(x, tol=1e-11).value.sum())
            weight -= sign * step * direction
    torch.testing.assert_close((sums[0] - sums[1]) / (2 * step), (of_weight * direction).sum(), rtol=1e-5, atol=1e-7)


def test_a_potential_that_is_not_convex_has_no_prior() -> None:
    """A network before its first projection, or after an optimizer's step without one."""
    torch.manual_seed(0)
    fresh, x = LPN(ICNN(2, hidden=8, layers=2, strong_convexity=0.1)), torch.randn(4, 2)
    with pytest.raises(ValueError, match=r"'potential': expected constrained weights of 0 or above.*project_"):
        fresh.prior(x)
    assert not pnp_pgd(x, Identity(), fresh, steps=1, warn=False).certificate.holds
    fresh.project_()
    assert fresh.prior(x).inversion.converged.all()
    assert pnp_pgd(x, Identity(), fresh, steps=1, warn=False).certificate.holds


def test_network_minimizes_its_prior() -> None:
    """f(y) = argmin 1/2 ||x - y||^2 + R(x), on grids in one and two dimensions; Fenchel's identity."""
    for features, count in ((1, 401), (2, 41)):
        net, y = lpn(features, 0.3), points(2, features)
        f = net(y).detach()
        axis = torch.linspace(-0.5, 0.5, count, dtype=torch.float64)
        grid = torch.cartesian_prod(*[axis] * features).view(-1, features)
        for i in range(2):
            around = f[i] + grid
            costs = 0.5 * (around - y[i]).square().sum(1) + net.prior(around).value.detach()
            best = 0.5 * (f[i] - y[i]).square().sum() + net.prior(f[i : i + 1]).value.detach()
            assert costs.min() >= best - 1e-9
            assert (around[costs.argmin()] - f[i]).abs().max() <= 1e-9  # the grid holds f(y)


# --- forms of calls ---


def test_patches() -> None:
    net, x = LPN(ConvICNN(1, 2, (1,), head="conv", size=4)).double(), points(2, 1, 8, 12)
    one = net.denoise(x[..., :4, :4], patch=4, stride=2)
    torch.testing.assert_close(one, net(x[..., :4, :4]))
    whole = net.denoise(x, patch=4, stride=4)
    torch.testing.assert_close(whole[..., 4:, 8:], net(x[..., 4:, 8:]))
    shifted = net.denoise(x.roll((2, 4), (2, 3)), patch=4, stride=2, wrap=True)
    torch.testing.assert_close(shifted, net.denoise(x, patch=4, stride=2, wrap=True).roll((2, 4), (2, 3)))
    small = points(3, 1, 6, 6)
    net.project_()
    assert_prox(lambda t: net.denoise(t, patch=4, stride=2, wrap=True), small)
    with pytest.raises(AssertionError, match="not symmetric"):  # the published form covers edges less often
        assert_prox(lambda t: net.denoise(t, patch=4, stride=2), small)


@pytest.mark.parametrize(
    "potential",
    [
        ICNN(1, 5, 2),
        ConvICNN(1, 3, (1, 2, 1, 2), head="dense", size=28),
        ConvICNN(3, 2, (1, 2, 1, 2, 1, 2), head="conv", size=32),
    ],
    ids=["vectors", "mnist", "128"],
)
def test_published_weights_load(potential: ICNN | ConvICNN) -> None:
    potential.project_()
    state = {f"module.{name}": value for name, value in potential.state_dict().items()}
    loaded = load_official({"model_state_dict": state}, beta=10.0, alpha=0.01, sigma=0.1)
    x = torch.randn(2, 1) if isinstance(potential, ICNN) else torch.randn(2, potential.channels, *[potential.size] * 2)
    torch.testing.assert_close(loaded(x), potential.gradient(x) + 0.02 * x)  # mu = 2 alpha
    assert loaded.sigma == (0.1, 0.1)
    bad = {**potential.state_dict(), "lin.1.weight": -torch.ones_like(potential.lin[1].weight)}
    with pytest.raises(ValueError, match=r"load_official: argument 'state': expected weights lin\.1"):
        load_official(bad, beta=10.0)
    with pytest.raises(ValueError, match=r"got conv\.weight"):
        load_official({"conv.weight": torch.ones(1)}, beta=10.0)


def test_deepinvs_form_of_a_call() -> None:
    net, x = lpn(), points(3, 2)
    assert torch.equal(net(x, 0.7), net(x))
    net.sigma = (0.1, 0.5)
    assert torch.equal(net(x, torch.tensor([0.1, 0.5])), net(x))
    for sigma in (0.0, -0.1, float("nan"), 0.7):
        with pytest.raises(ValueError, match="LPN: argument 'sigma'"):
            net(x, sigma)


# --- checks ---


def test_checks_pass_and_name_what_fails() -> None:
    report = lpn(3).assert_prox(points(12, 3))
    assert report.asymmetry < 1e-10 and min(report.least_eigenvalue, report.monotone) >= 0.2 - 1e-12
    assert report.cyclic < 0 < report.convex
    x = points(6, 2)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    for wrong, text in (
        (lambda t: t @ (torch.eye(2).double() + turn), "not symmetric"),
        (lambda t: -t, "least eigenvalue -1"),
    ):
        with pytest.raises(AssertionError, match=text):
            assert_prox(wrong, x)
    with pytest.raises(AssertionError, match=r"below 0\.9"):
        assert_prox(lambda t: 0.5 * t, x, strong_convexity=0.9)
    negative = lpn()
    with torch.no_grad():
        negative.potential.lin[-1].weight -= 9
    with pytest.raises(AssertionError, match="least eigenvalue"):
        negative.assert_prox(3 * points(20, 2))


# --- training ---


def test_loss_of_proximal_matching() -> None:
    found, x = points(3, 2, 2).requires_grad_(), points(3, 2, 2)
    for gamma in (0.5, 5.0):
        loss = ProximalMatchingLoss(gamma)(found, x)
        square = (found - x).square().sum((1, 2))
        torch.testing.assert_close(loss, (1 - torch.exp(-square / gamma**2)).mean())
    assert ProximalMatchingLoss(1e8)(found, x) > 0  # no cancellation


def test_best_values_of_the_losses_under_a_laplace_prior() -> None:
    """The sheet's table, by quadrature: posterior mean and median, and what proximal matching tends to."""
    x = torch.arange(-12, 14, 0.001, dtype=torch.float64)
    table = {
        0.5: (0.241019, 0.190089, 0.14, 0.04),
        1.5: (0.805627, 0.732452, 0.57, 0.50),
        3.0: (2.025812, 2.0125, 2, 2),
    }
    for y, (mean, median, half, tenth) in table.items():
        weight = torch.softmax(-x.abs() - (y - x).square() / 2, 0)
        assert float((weight * x).sum()) == pytest.approx(mean, abs=1e-5)
        assert float(x[weight.cumsum(0) >= 0.5][0]) == pytest.approx(median, abs=1.1e-3)
        for gamma, best in ((0.5, half), (0.1, tenth)):
            grid = best + torch.arange(-0.2, 0.21, 0.01, dtype=torch.float64)
            gain = torch.stack([(weight * torch.exp(-((t - x) ** 2) / gamma**2)).sum() for t in grid])
            assert float(grid[gain.argmax()]) == pytest.approx(best, abs=0.0101)


def test_training_keeps_the_network_convex_and_sets_sigma() -> None:
    def sample(generator: torch.Generator) -> Tensor:
        return torch.randn(64, 2, generator=generator)

    def run() -> tuple[list[float], LPN]:
        torch.manual_seed(0)
        net = LPN(ICNN(2, 6, 1))
        stages = GammaSchedule([Stage(40, "l2", 1e-2), Stage(10, "l1", 1e-3), Stage(10, 1.0, 1e-3)])
        return fit_lpn(net, sample, (0.2, 0.4), stages), net

    losses, net = run()
    assert len(losses) == 60 and losses[39] < 0.5 * losses[0]
    assert net.potential.violation() == 0 and net.sigma == (0.2, 0.4)
    assert run()[0] == losses
    assert GammaSchedule.laplace().steps == 44000 and GammaSchedule.laplace().at(43999).lr == 1e-6


X = torch.ones(2, 2)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: LPN(torch.nn.Linear(1, 1)), TypeError, "LPN: argument 'potential'"),
    (lambda: LPN(ICNN(1), sigma=0.0), ValueError, "argument 'sigma': expected a positive number, got 0.0"),
    (lambda: LPN(ICNN(1), sigma=(0.2, 0.1)), ValueError, "low <= high"),
    (lambda: LPN(ICNN(2))(X.to(torch.complex64)), TypeError, "argument 'x': expected dtype"),
    (lambda: LPN(ICNN(2)).invert(X * float("nan")), ValueError, "LPN.invert: argument 'x': expected finite numbers"),
    (lambda: LPN(ICNN(2)).prior(X.half()), TypeError, "LPN.invert: argument 'x'"),
    (lambda: LPN(ICNN(2)).invert(X, start=X[:1]), ValueError, "argument 'start': expected shape"),
    (lambda: LPN(ICNN(2)).denoise(X, patch=2, stride=1), ValueError, "LPN.denoise: argument 'y'"),
    (lambda: ProximalMatchingLoss(-1.0), ValueError, "argument 'gamma': expected a positive number"),
    (lambda: ProximalMatchingLoss(1.0)(X, X[:1]), ValueError, "argument 'x': expected shape"),
    (lambda: Stage(1, "l3", 1e-3), ValueError, "argument 'loss': expected one of"),
    (lambda: fit_lpn(LPN(ICNN(2)), lambda g: X, -0.1, GammaSchedule([Stage(1, "l1", 1e-3)])), ValueError, "'sigma'"),
    (
        lambda: fit_lpn(LPN(ICNN(2)), lambda g: X / 0, 0.1, GammaSchedule([Stage(1, "l1", 1e-3)])),
        ValueError,
        "expected a finite loss in step 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_arguments(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
