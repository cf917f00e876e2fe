"""PV-RNN: the printed numbers of two steps, closed forms, and what it reduces to; all in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.sequence import PVRNN, GaussianOutput, PosteriorBank, PVLayer, SoftmaxCode, fit_pvrnn
from torch import Tensor, nn

F64 = torch.float64


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=F64)


def two_steps() -> PVRNN:
    """One layer of two units and one latent, with the weights of the printed example."""
    model = PVRNN([PVLayer(2, 1, tau=2.0, w=0.1)], SoftmaxCode(1, bins=2, low=0.0, high=1.0)).double()
    with torch.no_grad():
        model.weight.copy_(tensor([[0.5, -0.2], [0.1, 0.3], [0.3, -0.6], [0.2, 0.4], [-0.5, 0.25], [0.1, -0.3]]))
        model.bias.copy_(tensor([0.05, -0.1, 0.1, -0.3, 0.0, -0.2]))
        model.z_weight.copy_(tensor([[0.7], [-0.4]]))
        model.readout.weight.copy_(tensor([[1, -1], [-0.5, 0.8]]))
        model.readout.bias.copy_(tensor([0.2, -0.1]))
    return model


A = [[[0.4, -0.1], [-0.3, 0.2]]]
NOISE = [[[0.5], [-1.0]]]
TARGET = [[[[1.0, 0.0]], [[0.0, 1.0]]]]  # symbols 0 and 1


def small(posterior: str = "state", **how: Any) -> PVRNN:
    """Two layers with their own time constants."""
    torch.manual_seed(0)
    return PVRNN(
        [PVLayer(4, 2, 2.0, 0.1), PVLayer(3, 1, 5.0, 0.3)], GaussianOutput(2), posterior=posterior, **how
    ).double()


def drawn(model: PVRNN, rows: int = 3, steps: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A, values and noise."""
    generator = torch.Generator().manual_seed(1)
    shapes = (2 * model.latents, model.output.dims, model.latents)
    a, x, noise = (torch.randn(rows, steps, n, generator=generator, dtype=F64) for n in shapes)
    return a.requires_grad_(), x, noise


def test_the_printed_example() -> None:
    model, a = two_steps(), tensor(A).requires_grad_()
    found = model.loss(a, tensor(TARGET), tensor(NOISE))
    run = model(a, tensor(NOISE))
    stats = run.scan.stats[0, :, :, 0]
    close = {"rtol": 0, "atol": 6e-11}
    torch.testing.assert_close(stats[:, 2], tensor([0.3799489623, -0.4536883810]), **close)
    torch.testing.assert_close(stats[:, 3], tensor([-0.3, 0.0872280133]), **close)
    torch.testing.assert_close(run.scan.z.flatten(), tensor([0.7503580726, -1.5448338280]), **close)
    potentials = tensor([[0.2876253254, -0.2000716145], [-0.2821478374, 0.1433117218]])
    torch.testing.assert_close(run.scan.d[0].atanh(), potentials, **close)
    torch.testing.assert_close(run.scan.last[0], potentials[1], **close)
    torch.testing.assert_close(run.scan.kl.flatten(), tensor([0.1465864250, 0.7581682068]), **close)
    torch.testing.assert_close(found.rec, tensor([0.8193127033]), **close)
    torch.testing.assert_close(found.total, tensor(0.9097881665), **close)
    (grad,) = torch.autograd.grad(found.total, a)
    expected = tensor([[[0.0334341303, -0.0447187367], [0.1589153096, -0.2467499438]]])
    torch.testing.assert_close(grad, expected, **close)


def test_softmax_code() -> None:
    code = SoftmaxCode(1, bins=5, sigma=0.05)
    found = code.encode(tensor([0.3]))
    expected = tensor([[3.4e-15, 4.4914e-6, 0.268915952, 0.730989345, 9.0211e-5]])
    torch.testing.assert_close(found[..., 1:], expected[..., 1:], rtol=2e-5, atol=1e-9)
    assert abs(found[0, 0].item() - 3.4e-15) < 1e-16
    assert code.decode(found).item() == pytest.approx(0.3655826, abs=1e-7)


def test_kl_is_that_of_torch() -> None:
    model = small()
    a, _, noise = drawn(model)
    scan = model(a, noise).scan
    prior_mean, prior_log, mean, log_sigma = scan.stats.unbind(2)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_sigma.exp()), normal(prior_mean, prior_log.exp()))
    torch.testing.assert_close(scan.kl, expected)
    assert (prior_mean[:, 0] == 0).all() and (prior_log[:, 0] == 0).all()  # N(0, I) at first
    assert model.kl_per_layer(scan.kl).sum().item() == pytest.approx(scan.kl.sum().item())


def test_no_divergence_where_posterior_and_prior_have_the_same_weights() -> None:
    model = small()
    size, z = model.units, model.latents
    with torch.no_grad():
        model.weight[size + 2 * z :] = model.weight[size : size + 2 * z]
        model.bias[size:] = 0.3
    a, _, noise = drawn(model)
    kl = model(torch.zeros_like(a), noise).scan.kl
    assert kl[:, 0].min() > 0
    assert kl[:, 1:].abs().max() < 1e-15


def test_without_latents_and_leak_it_is_an_elman_network() -> None:
    torch.manual_seed(0)
    model = PVRNN([PVLayer(5, 0, tau=1.0)], GaussianOutput(1)).double()
    elman = nn.RNN(1, 5, batch_first=True).double()
    h0 = torch.randn(2, 5, dtype=F64)
    with torch.no_grad():
        elman.weight_hh_l0.copy_(model.weight)
        elman.bias_hh_l0.copy_(model.bias.normal_())
        elman.bias_ih_l0.zero_()
    found = model(None, torch.empty(2, 6, 0, dtype=F64), h0=h0).scan.d
    torch.testing.assert_close(found, elman(torch.zeros(2, 6, 1, dtype=F64), h0.tanh()[None])[0])


def test_an_endless_time_constant_freezes_the_state() -> None:
    model = PVRNN([PVLayer(3, 1, tau=1e30)], GaussianOutput(1)).double()
    h0 = torch.randn(2, 3, dtype=F64)
    torch.testing.assert_close(model.generate(5, h0=h0).last, h0, rtol=0, atol=1e-25)


def test_without_weight_the_loss_is_the_reconstruction() -> None:
    model = small()
    model.weights.zero_()
    a, x, noise = drawn(model)
    found = model.loss(a, x, noise)
    assert found.total.item() == found.rec.mean().item()
    found.total.backward()
    prior = slice(model.units, model.units + 2 * model.latents)
    assert model.weight.grad is not None
    assert model.bias.grad is not None
    assert not model.weight.grad[prior].any() and not model.bias.grad[prior].any()
    assert model.weight.grad[prior.stop :].any()


def test_a_vanishing_deviation_makes_runs_equal() -> None:
    model = small("free", log_sigma=(-60.0, 5.0))
    a, _, noise = drawn(model)
    a = a.detach()
    a[..., model.latents :] = -50
    assert torch.equal(model(a, noise).raw, model(a, -noise).raw)


def test_connections_that_do_not_exist_stay_zero() -> None:
    model = PVRNN([PVLayer(2, 1), PVLayer(2, 1), PVLayer(2, 1)], GaussianOutput(1), posterior="free").double()
    bank = PosteriorBank(3, 4, model, lr=0.1)
    fit_pvrnn(model, bank, torch.randn(3, 4, 1, dtype=F64), 3, lr=0.1)
    assert not model.weight[:2, 4:].any() and not model.weight[4:6, :2].any()  # the first and the third layer
    assert model.weight[:2, 2:4].all()
    assert not model.weight[-6:].any() and not model.bias[-6:].any()  # a free posterior reads A alone


@pytest.mark.parametrize("posterior", ["state", "free"])
def test_gradients(posterior: str) -> None:
    """Against differences; two layers, sequences of two lengths."""
    model, lengths = small(posterior), torch.tensor([3, 2])
    a, x, noise = drawn(model, 2, 3)
    names = ("weight", "bias", "z_weight")

    def loss(a: Tensor, *weights: Tensor) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        how = {"lengths": lengths}
        run = torch.func.functional_call(model, state, (a, noise), how)
        return (run.scan.kl * model.weights).sum() - model.log_prob(run.raw, x, lengths).sum()

    inputs = [a, *(getattr(model, name).detach().requires_grad_() for name in names)]
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


def test_a_batch_is_its_sequences_and_a_roll_is_two_chained_ones() -> None:
    model = small()
    a, x, noise = drawn(model)
    whole = model(a, noise)
    for s in range(len(a)):
        torch.testing.assert_close(model(a[s : s + 1], noise[s : s + 1]).raw[0], whole.raw[s])
        one = model.loss(a[s : s + 1], x[s : s + 1], noise[s : s + 1])
        torch.testing.assert_close(one.kl[0], model.loss(a, x, noise).kl[s])
    first = model(a[:, :2], noise[:, :2])
    second = model(a[:, 2:], noise[:, 2:], h0=first.scan.last)
    torch.testing.assert_close(torch.cat([first.raw, second.raw], 1), whole.raw)
    torch.testing.assert_close(torch.cat([first.scan.kl, second.scan.kl], 1), whole.scan.kl)


def test_lengths_cut_sequences() -> None:
    model, lengths = small(), torch.tensor([2, 4, 1])
    a, x, noise = drawn(model)
    x[0, 2:] = math.nan  # padding is not read
    found = model.loss(a, x, noise, lengths=lengths)
    for s, end in enumerate(lengths.tolist()):
        one = model.loss(a[s : s + 1, :end], x[s : s + 1, :end], noise[s : s + 1, :end])
        torch.testing.assert_close(found.rec[s], one.rec[0])
        torch.testing.assert_close(found.kl[s], one.kl[0])
    (grad,) = torch.autograd.grad(found.total, a)
    assert grad.isfinite().all() and not grad[0, 2:].any()


def test_generation_goes_on_with_the_prior() -> None:
    model = small()
    a, _, noise = drawn(model)
    made = model.generate(4, adapt=a[:, :2], noise=noise)
    torch.testing.assert_close(made.code[:, :2], model(a, noise).raw[:, :2])
    scan = model(a[:, :2], noise).scan
    assert not scan.kl[:, 2:].any() and torch.equal(scan.stats[:, 2:, :2], scan.stats[:, 2:, 2:])
    torch.testing.assert_close(model.generate(2, h0=scan.last, noise=noise[:, :2]).last.shape, (3, model.units))


def test_importance_weights_reach_the_marginal_likelihood() -> None:
    """One step of a linear-Gaussian model: x = c tanh(h) with h linear in z, where quadrature gives log p(x)."""
    torch.manual_seed(0)
    model = PVRNN([PVLayer(1, 1, tau=1.0)], GaussianOutput(1, sigma=0.5), posterior="free").double()
    x, a = tensor([[[0.7]]]), tensor([[[0.3, -0.2]]])
    grid = torch.linspace(-9, 9, 20001, dtype=F64)
    with torch.no_grad():
        code = model.readout((model.bias[0] + model.z_weight[0, 0] * grid).tanh()[:, None])
        logs = model.output.log_prob(code, x[0]) - grid.square() / 2 - math.log(2 * math.pi) / 2
        expected = logs.logsumexp(0) + math.log(grid[1] - grid[0])
        found = model.log_likelihood(a, x, 40000, generator=torch.Generator().manual_seed(0))
    assert abs(found.item() - expected.item()) < 0.01
    longer = model.log_likelihood(a.expand(1, 3, 2), x.expand(1, 3, 1), 5, lengths=torch.tensor([1]))
    assert longer.isfinite().all()


def test_errors() -> None:
    model = small()
    a, x, noise = drawn(model)
    with pytest.raises(ValueError, match=r"'layers\[0\].tau'.*>= 1"):
        PVRNN([PVLayer(2, 1, 0.5)], GaussianOutput(1))
    with pytest.raises(ValueError, match=r"'adapt'.*\(sequences, steps, 6\)"):
        model(a[..., :4])
    with pytest.raises(ValueError, match=r"'adapt'.*at least one step"):
        model(a[:, :0])
    with pytest.raises(ValueError, match=r"'x'.*finite"):
        model.loss(a, x.fill_(math.nan), noise)
    with pytest.raises(ValueError, match=r"'x'"):
        model.loss(a, torch.zeros(3, 3, 2, dtype=F64), noise)
    with pytest.raises(ValueError, match=r"'posterior'.*'state', 'free'"):
        PVRNN([PVLayer(2, 1)], GaussianOutput(1), posterior="stat")
    with pytest.raises(ValueError, match="'high'"):
        SoftmaxCode(1, low=1.0, high=-1.0)


def test_lengths_of_one_byte() -> None:
    model = PVRNN([PVLayer(2, 1)], GaussianOutput(1))
    run = model(torch.zeros(2, 200, 2), torch.ones(2, 200, 1), lengths=torch.tensor([3, 100], dtype=torch.int8))
    assert (run.scan.d[1] != 0).any(1).sum() == 100
