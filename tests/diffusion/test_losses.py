"""Losses against their optima in closed form and each other; the likelihood bound against known entropies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.diffusion import (
    EDM,
    VE,
    VP,
    Denoiser,
    FlowMatching,
    Process,
    SubVP,
    VPDiscrete,
    bits_per_dim,
    discretized_gaussian_nll,
    draw_times,
    dsm_loss,
    gaussian_kl,
    hybrid_loss,
    loss_weight,
    vlb_term,
)
from torch import Tensor, nn

from tests.diffusion.densities import Known, gaussian, mixture

PREDICTIONS = ["eps", "x0", "v", "score", "flow"]


def data(n: int = 64, d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Data, noise and times."""
    x0, noise = torch.randn(n, d, dtype=torch.float64), torch.randn(n, d, dtype=torch.float64)
    return x0, noise, 0.05 + 0.9 * torch.rand(n, dtype=torch.float64)


@pytest.mark.parametrize("process", [VP(), SubVP(), VE(), FlowMatching(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("pred", PREDICTIONS)
def test_weights_turn_one_loss_into_another(pred: str, process: Process) -> None:
    """A network's loss under another prediction's weight is that prediction's own loss."""
    x0, noise, t = data()
    exact = mixture(process)
    for weight in PREDICTIONS:
        mine = dsm_loss(Denoiser(Known(exact, pred), process, pred=pred), x0, weight=weight, t=t, noise=noise)
        own = dsm_loss(Denoiser(Known(exact, weight), process, pred=weight), x0, t=t, noise=noise)
        assert torch.allclose(mine, own, rtol=1e-8)


def test_simple_losses_are_plain_squares() -> None:
    process, (x0, noise, t) = VP(), data()
    net = Known(mixture(process), "v")
    x = process.noised(x0, t, noise)
    a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
    got = dsm_loss(Denoiser(net, process, pred="v"), x0, t=t, noise=noise, reduce=False)
    assert torch.allclose(got, (net(x, t) - (a * noise - s * x0)).square().mean(1), rtol=1e-12)
    score = dsm_loss(Denoiser(net, process, pred="v"), x0, weight="score", t=t, noise=noise, reduce=False)
    assert torch.allclose(score, (mixture(process).score(x, t) + noise / s).square().mean(1), rtol=1e-9)


def test_levels_are_computed_once() -> None:
    """They may take longer than a small net."""

    class Counting(VP):
        calls = 0

        def log_alpha(self, t: Any) -> Tensor:
            Counting.calls += 1
            return super().log_alpha(t)

    process, (x0, noise, t) = Counting(), data()
    process.log_alpha(t), process.sigma(t)
    one_pair, Counting.calls = Counting.calls, 0
    dsm_loss(Denoiser(Known(mixture(VP()), "v"), process, pred="v"), x0, t=t, noise=noise)
    assert Counting.calls == one_pair


def test_optimum_for_normal_data() -> None:
    """eps = sigma x is best for N(0, I), with loss alpha^2; v = 0 with loss 1; in x0 it is sigma^2."""

    class Best(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return VP().sigma(t)[:, None] * x

    class Zero(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 0 * x

    process, x0 = VP(), torch.randn(200_000, 1, dtype=torch.float64)
    for t in (0.1, 0.4, 0.8):
        a2 = float(process.alpha(t).square())
        at = torch.tensor(t, dtype=torch.float64)
        assert dsm_loss(Denoiser(Best(), process), x0, t=at).item() == pytest.approx(a2, rel=0.015)
        assert dsm_loss(Denoiser(Best(), process), x0, weight="x0", t=at).item() == pytest.approx(1 - a2, rel=0.015)
        assert dsm_loss(Denoiser(Zero(), process, pred="v"), x0, t=at).item() == pytest.approx(1, rel=0.015)


def test_weights_by_their_definitions() -> None:
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    process = VP()
    snr = (process.alpha(t) / process.sigma(t)).square()
    assert torch.equal(loss_weight(process, t, "min_snr"), snr.clamp_max(5.0))
    assert loss_weight(process, t, "min_snr").max() == 5.0
    assert torch.allclose(loss_weight(process, t, "v"), snr + 1, rtol=1e-12)
    likelihood = process.beta(t) * snr / process.sigma(t).square()
    assert torch.allclose(loss_weight(process, t, "likelihood"), likelihood, rtol=1e-12)
    edm = loss_weight(EDM(), t, "edm", sigma_data=0.5)
    assert torch.allclose(edm, (t.square() + 0.25) / (t * 0.5).square(), rtol=1e-12)


def test_edm_loss_compares_the_raw_output() -> None:
    """Weight times squared error of the data, as the paper has it."""

    class Raw(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.sin(x)

    x0, noise, t = data()
    model = Denoiser(Raw(), EDM(), pred="edm")
    got = dsm_loss(model, x0, t=t, noise=noise, reduce=False)
    error = (model.x0(x0 + t[:, None] * noise, t) - x0).square().mean(1)
    assert torch.allclose(got, (t.square() + 0.25) / (t * 0.5).square() * error, rtol=1e-10)


def test_times() -> None:
    generator = torch.Generator().manual_seed(0)
    t = draw_times(VP(), 10_000, generator=generator)
    assert t.min() >= 1e-3 and t.max() <= 1 and abs(t.mean() - 0.5) < 0.01
    t = draw_times(VP(), 64, kind="stratified", generator=generator)
    assert (((t - 1e-3) / 0.999 * 64).floor().int() == torch.arange(64)).all()
    log = draw_times(EDM(), 20_000, kind="lognormal", generator=generator).log()
    assert abs(log.mean() + 1.2) < 0.03 and abs(log.std() - 1.2) < 0.03
    whole = draw_times(VPDiscrete.linear(7), 5000, generator=generator) * 7
    assert torch.allclose(whole, whole.round()) and whole.round().int().unique().tolist() == list(range(1, 8))
    assert draw_times(FlowMatching(), 1000).min() > 0


def test_gradients_reach_the_net_in_half_precision() -> None:
    net = nn.Linear(3, 3).bfloat16()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.inner(x)

    loss = dsm_loss(Denoiser(Net(), VP()), torch.randn(8, 3, dtype=torch.bfloat16))
    loss.backward()
    assert loss.dtype == torch.float32 and net.weight.grad.abs().sum() > 0


# --- the bound ---


def test_kl_of_gaussians() -> None:
    first, second = torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(-0.2, 1.9)
    got = gaussian_kl(*(torch.tensor(v) for v in (0.3, 2 * math.log(0.7), -0.2, 2 * math.log(1.9))))
    assert torch.allclose(got, torch.distributions.kl_divergence(first, second))


def test_discretized_gaussian() -> None:
    x = torch.linspace(-1, 1, 16, dtype=torch.float64)
    mean, std = torch.tensor(0.2, dtype=torch.float64), 0.31
    p = (-discretized_gaussian_nll(x, mean, torch.tensor(math.log(std)), 16)).exp()
    normal = torch.distributions.Normal(mean, torch.tensor(std, dtype=torch.float64))
    edges = normal.cdf(x[:-1] + 1 / 15)
    assert torch.allclose(p, torch.cat([edges[:1], edges.diff(), 1 - edges[-1:]]), rtol=1e-9)
    far = discretized_gaussian_nll(x[3:4], x[3:4] - 1.2, torch.tensor([math.log(0.1)]), 16)  # 12 deviations away
    assert far.item() == pytest.approx(-math.log(_tail(12 - 2 / 3) - _tail(12 + 2 / 3)), rel=1e-6)


def _tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


class Coins(nn.Module):
    """E[x_0 | x_t] for fair coins of -1 and 1."""

    def __init__(self, chain: VPDiscrete, doubt: float = 0.0) -> None:
        super().__init__()
        self.chain, self.doubt = chain, doubt

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        at = ((t.double() + 1) / len(self.chain))[:, None]
        return (1 - self.doubt) * torch.tanh(self.chain.alpha(at) * x / self.chain.sigma(at).square())


def test_bound_of_coins() -> None:
    """The best denoiser of a fine chain comes near one bit a coin, and none falls below; a worse one pays."""
    chain = VPDiscrete.linear(300, 1e-4, 0.06)
    x0 = torch.where(torch.rand(400, 4) < 0.5, -1.0, 1.0).double()
    best = bits_per_dim(Denoiser(Coins(chain), chain, pred="x0"), x0, bins=2)
    assert best.shape == (400,)
    assert 1 - 4 * best.std() / 20 < best.mean() < 1.1
    worse = bits_per_dim(Denoiser(Coins(chain, 0.3), chain, pred="x0"), x0, bins=2)
    assert worse.mean() > best.mean() + 0.1


def test_the_bound_is_the_sum_of_its_parts() -> None:
    """All terms with the same draws, and what the last state says about the data, which here is much."""
    chain, x0 = VPDiscrete.linear(5, 0.05, 0.2), torch.where(torch.rand(7, 2) < 0.5, -1.0, 1.0).double()
    model = Denoiser(Coins(chain), chain, pred="x0")
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    terms = [vlb_term(model, x0, torch.full((7,), i), bins=2, generator=first) for i in range(5)]
    kept = (1 - chain.betas).prod()
    last = torch.distributions.Normal(kept.sqrt() * x0, (1 - kept).sqrt())
    prior = torch.distributions.kl_divergence(last, torch.distributions.Normal(0.0, 1.0)).mean(1) / math.log(2)
    assert prior.min() > 0.1
    assert torch.allclose(bits_per_dim(model, x0, bins=2, generator=second), sum(terms) + prior, rtol=1e-10)


def test_terms_by_distributions() -> None:
    chain, x0 = VPDiscrete.linear(50, 1e-3, 0.2), torch.rand(6, 2, dtype=torch.float64) * 2 - 1
    noise, index = torch.randn_like(x0), torch.tensor([1, 2, 10, 30, 48, 49])
    model = Denoiser(Coins(chain), chain, pred="x0")
    got = vlb_term(model, x0, index, noise=noise, variance="beta")
    kept = torch.cat([torch.ones(1, dtype=torch.float64), (1 - chain.betas).cumprod(0)])
    for row, i in enumerate(index.tolist()):
        beta, now, before = chain.betas[i], kept[i + 1], kept[i]
        x = now.sqrt() * x0[row] + (1 - now).sqrt() * noise[row]
        data_part, x_part = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
        true = torch.distributions.Normal(data_part * x0[row] + x_part * x, (beta * (1 - before) / (1 - now)).sqrt())
        predicted = model.x0(x[None], torch.tensor((i + 1) / 50, dtype=torch.float64))[0]
        guess = torch.distributions.Normal(data_part * predicted + x_part * x, beta.sqrt())
        wanted = torch.distributions.kl_divergence(true, guess).mean() / math.log(2)
        assert torch.allclose(got[row], wanted, rtol=1e-9)


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.data, self.share = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.data * x, self.share.expand_as(x)], 1)


def test_hybrid_loss() -> None:
    """Only the variances learn from the bound; the learned variance interpolates the two fixed ones."""
    chain, x0 = VPDiscrete.linear(20, 1e-3, 0.3), torch.rand(32, 2) * 2 - 1
    net = Learned()
    model = Denoiser(net, chain, variance=True)
    grads = []
    for share in (0.0, 1e-3):
        net.zero_grad()
        hybrid_loss(model, x0, share=share, generator=torch.Generator().manual_seed(0)).backward()
        grads.append((net.data.grad.item(), net.share.grad.item()))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-6)
    assert grads[0][1] == 0 and grads[1][1] != 0
    index, noise = torch.full((32,), 9), torch.randn_like(x0)
    for value, variance in ((-1.0, "posterior"), (1.0, "beta")):
        net.share.data.fill_(value)
        pair = [vlb_term(model, x0, index, noise=noise, variance=v) for v in ("learned", variance)]
        assert torch.allclose(*pair, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: dsm_loss(nn.Identity(), x), TypeError),
        (lambda x: dsm_loss(gaussian(), x, weight="simple"), ValueError),
        (lambda x: dsm_loss(gaussian(), x.long()), TypeError),
        (lambda x: dsm_loss(gaussian(), x, times="even"), ValueError),
        (lambda x: loss_weight(VP(), x, "none"), ValueError),
        (lambda x: bits_per_dim(gaussian(), x), ValueError),
        (lambda x: vlb_term(gaussian(VPDiscrete.linear()), x, torch.full((4,), 1000)), ValueError),
        (lambda x: vlb_term(gaussian(VPDiscrete.linear()), x, torch.zeros(3, dtype=torch.int64)), ValueError),
        (lambda x: vlb_term(gaussian(VPDiscrete.linear()), x, torch.zeros(4).long(), variance="x"), ValueError),
        (lambda x: hybrid_loss(gaussian(VPDiscrete.linear()), x), ValueError),
        (lambda x: discretized_gaussian_nll(x, x, x, bins=1), ValueError),
    ],
)
def test_wrong_input_raises(call: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        call(torch.randn(4, 1))


# --- where no signal is left ---

ENDED = [VPDiscrete.linear(50).zero_terminal_snr(), FlowMatching()]
WEIGHTS = ["eps", "x0", "v", "score", "flow", "edm", "min_snr", "likelihood"]


def near_the_end(pred: str, process: Process, weight: str | None, t: float, **options: Any) -> Tensor:
    torch.manual_seed(0)
    x0, noise = data(4)[:2]

    class Shifted(nn.Module):
        """Any output that is not right, and finite at any time."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(x) + t[:, None]

    return dsm_loss(
        Denoiser(Shifted(), process, pred=pred, **options), x0, weight=weight, t=torch.tensor(t), noise=noise
    )


@pytest.mark.parametrize("process", ENDED, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("pred", PREDICTIONS)
def test_losses_without_signal_are_limits(pred: str, weight: str, process: Process) -> None:
    end = near_the_end(pred, process, weight, 1.0)
    near = near_the_end(pred, process, weight, 1.0 - 1e-9)
    no_limit = pred in ("eps", "score") and weight in ("x0", "v", "flow", "edm", "likelihood")
    assert end.isinf() if no_limit else torch.allclose(end, near, rtol=1e-5, atol=1e-6)
    assert not no_limit or near > 1e6  # it grows beyond all bounds, and is no NaN


@pytest.mark.parametrize("process", ENDED, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_weights_without_signal_are_limits(weight: str, process: Process) -> None:
    end, near = (loss_weight(process, torch.tensor([t]).double(), weight) for t in (1.0, 1.0 - 1e-9))
    assert torch.allclose(end, near, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [*WEIGHTS, None])
@pytest.mark.parametrize("pred", [*PREDICTIONS, "edm"])
def test_losses_without_noise_are_limits(pred: str, weight: str | None) -> None:
    """For edm at both ends, if ``time`` spares its net log(rho) / 4. A net that is wrong about the data at t = 0 has
    infinite losses there, and one that gives a finite score."""
    for end, inside in ((0.0, 1e-9), (1.0, 1.0 - 1e-9))[: 2 if pred == "edm" else 1]:
        at, near = (near_the_end(pred, FlowMatching(), weight, t, time=lambda t: t) for t in (end, inside))
        if near < 1e6:
            assert torch.allclose(at, near, rtol=1e-5, atol=1e-6)
        else:
            assert at.isinf()


def test_training_reaches_the_end_of_a_chain() -> None:
    """Whole batches at t = 1, forward and backward."""
    for weight in ("min_snr", "likelihood"):
        net = nn.Linear(3, 3).double()

        class Net(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                return self.inner(x)

        loss = dsm_loss(Denoiser(Net(net), ENDED[0], pred="v"), data(8)[0], weight=weight, t=torch.ones(8))
        loss.backward()
        assert loss.isfinite() and net.weight.grad.isfinite().all()


def test_what_has_no_limit_is_refused() -> None:
    chain, x0 = ENDED[0], torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="'t': expected times with some signal left, as pred is 'edm'"):
        dsm_loss(Denoiser(nn.Identity(), chain, pred="edm"), x0, t=torch.ones(2))
    model = Denoiser(Known(mixture(VPDiscrete.linear(50)), "eps"), chain, time=lambda t: t)
    for call in (
        lambda: vlb_term(model, x0, torch.tensor([3, 49])),
        lambda: bits_per_dim(model, x0),
        lambda: hybrid_loss(model, x0),
    ):
        with pytest.raises(ValueError, match="'model': expected some signal after the last step, as pred is 'eps'"):
            call()
    assert vlb_term(model, x0, torch.tensor([3, 48])).isfinite().all()


def test_the_bound_of_a_chain_that_ends_without_signal() -> None:
    chain = ENDED[0]
    x0 = torch.zeros(2, 3, dtype=torch.float64)
    net = Known(mixture(VPDiscrete.linear(50)), "v")
    assert bits_per_dim(Denoiser(net, chain, pred="v", time=lambda t: t), x0).isfinite().all()


def test_the_bound_has_no_gradient_and_says_so() -> None:
    model = Denoiser(nn.Identity(), VPDiscrete.linear(5), pred="x0")
    x0 = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(NotImplementedError, match=r"'x0': expected a tensor that requires no gradient.*vlb_term"):
        bits_per_dim(model, x0)
    with torch.no_grad():
        known = Known(gaussian(model.process), "x0")  # which takes times, not steps
        assert not bits_per_dim(Denoiser(known, model.process, pred="x0", time=lambda t: t), x0).requires_grad
