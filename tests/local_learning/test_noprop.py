"""NoProp in discrete time: its coefficients, its bound, its steps, and that blocks learn alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from probkernels.diffusion import VP, VPDiscrete
from probkernels.local_learning import LabelSchedule, NoPropDT
from probkernels.local_learning._denoising import prior_kl
from torch import Tensor, nn

from tests.local_learning.noprop_nets import CLASSES, Always, Block, data, model

TEN = LabelSchedule.cosine(10)


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- coefficients ---


@pytest.mark.parametrize(
    "schedule",
    [
        TEN,
        LabelSchedule.cosine(1),
        LabelSchedule.cosine(500),
        LabelSchedule.of_process(VP(), 20),
        LabelSchedule.of_process(VPDiscrete(VPDiscrete.linear().betas, t_min=0.01), 20),
    ],
    ids=str,
)
def test_identities_hold_for_every_step(schedule: LabelSchedule) -> None:
    before, after = schedule.abar[:-1], schedule.abar[1:]
    torch.testing.assert_close(schedule.a + schedule.b * before.sqrt(), after.sqrt(), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(schedule.b**2 * (1 - before) + schedule.c, 1 - after, rtol=1e-13, atol=1e-15)
    assert float(schedule.dsnr.sum()) == pytest.approx(float(schedule.snr[-1] - schedule.snr[0]), rel=1e-13)
    assert schedule.a.dtype is torch.float64


def test_ten_cosine_steps_are_those_of_the_sheet() -> None:
    abar = [0.001, 0.02408798, 0.0940, 0.2031, 0.3408, 0.49376684, 0.6474, 0.7868, 0.8986, 0.97194167, 0.99]
    assert TEN.abar.tolist() == pytest.approx(abar, abs=6e-5)
    assert TEN.abar[[1, 5, 9]].tolist() == pytest.approx([abar[1], abar[5], abar[9]], abs=6e-9)
    dsnr = [0.024, 0.079, 0.151, 0.262, 0.458, 0.861, 1.854, 5.168, 25.781, 64.36]
    assert TEN.dsnr.tolist() == pytest.approx(dsnr, abs=6e-4)
    assert float(TEN.dsnr.sum()) == pytest.approx(98.998999, abs=1e-6)
    for t, wanted in {
        1: (0.1489087641, 0.1990421193, 0.9363338724),
        5: (0.3303038142, 0.6379197827, 0.2379595914),
        10: (0.6468419990, 0.3531348742, 0.0065010067),
    }.items():
        got = [float(x[t - 1]) for x in (TEN.a, TEN.b, TEN.c)]
        assert got == pytest.approx(wanted, abs=6e-11)


def test_levels_of_a_process_are_its_own() -> None:
    chain = VPDiscrete(VPDiscrete.cosine(10).betas, t_min=0.1)
    levels = LabelSchedule.of_process(chain, 9)
    assert levels.abar.tolist() == pytest.approx((1 - chain.betas).cumprod(0).flip(0).tolist(), rel=1e-12)


def test_kl_of_the_noisiest_level() -> None:
    u = torch.eye(10, dtype=torch.float64)
    assert prior_kl(u, TEN.abar[0]).tolist() == pytest.approx([0.00050250167] * 10, abs=6e-12)
    mean, var = 0.3**0.5 * torch.tensor([1.0, -2.0]).double(), 0.7  # against torch's own
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, math.sqrt(var)), normal(torch.zeros(2).double(), 1.0)).sum()
    assert float(prior_kl(torch.tensor([1.0, -2.0]).double(), 0.3)) == pytest.approx(float(kl), rel=1e-12)


# --- the bound ---


def test_block_loss_by_hand() -> None:
    m, (x, y) = model(), data()
    for t in (1, 3, 4):
        noise = torch.randn(2, len(x), CLASSES, generator=source(t))
        u, s = torch.eye(CLASSES)[y], m.schedule
        z = s.abar[t - 1].sqrt().float() * u + (1 - s.abar[t - 1]).sqrt().float() * noise[0]
        last = s.abar[-1].sqrt().float() * u + (1 - s.abar[-1]).sqrt().float() * noise[1]
        error = (m.blocks[t - 1](z, x).softmax(1) - u).square().sum(1).mean()
        read_out = nn.functional.cross_entropy(m.head(last), y)
        kl = 0.5 * (0.001 * (1 - CLASSES) - CLASSES * math.log(0.999))
        wanted = read_out + kl + 4 / 2 * 0.1 * float(s.dsnr[t - 1]) * error
        assert m.block_loss(t, x, y, source(t)).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_loss_is_the_mean_of_block_losses_with_equal_gradients(norm: bool) -> None:
    m, (x, y) = model(norm=norm), data()
    other = copy.deepcopy(m)
    m.loss(x, y, [source(t) for t in range(4)]).backward()
    losses = [other.block_loss(t, x, y, source(t - 1)) / 4 for t in range(1, 5)]
    torch.stack(losses).sum().backward()
    for (name, p), q in zip(m.named_parameters(), other.parameters(), strict=True):
        if p.requires_grad:
            assert p.grad is not None, name
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
    for (name, p), q in zip(m.named_buffers(), other.buffers(), strict=True):  # running statistics
        torch.testing.assert_close(p, q, msg=name)


def test_constant_error_telescopes() -> None:
    x, y = torch.zeros(5, 1), torch.tensor([0, 1, 2, 3, 0])
    m = NoPropDT([Always(torch.zeros(CLASSES)) for _ in range(10)], CLASSES)
    parts = [m.block_loss(t, x, y, source(0)) for t in range(1, 11)]
    same = m._ends(torch.eye(CLASSES)[y], y, 0.001, 0.99, torch.randn(2, 5, CLASSES, generator=source(0))[1])
    denoising = sum((part - same).item() for part in parts) / 10
    error = 1 - 1 / CLASSES  # of the uniform mixture
    assert denoising == pytest.approx(0.05 * error * 98.998999, rel=1e-5)


def test_a_block_without_x_learns_the_bayes_denoiser() -> None:
    """Exact posterior of the classes given z, and a linear block that must find it."""
    abar = 0.5
    noisy = math.sqrt(abar) * torch.eye(3)[torch.arange(3000) % 3] + math.sqrt(1 - abar) * torch.randn(3000, 3)
    u = torch.eye(3)[torch.arange(3000) % 3]
    bayes = (math.sqrt(abar) * noisy / (1 - abar) - abar / (2 * (1 - abar))).softmax(1)
    best = float((bayes - u).square().sum(1).mean())
    layer = nn.Linear(3, 3)
    m = NoPropDT([Wrap(layer)], 3, schedule=LabelSchedule([abar, 0.9]))
    optimizer = torch.optim.Adam(m.parameters(), lr=0.05)
    y, x = torch.arange(3000) % 3, torch.zeros(3000, 1)
    for n in range(150):
        optimizer.zero_grad()
        m.block_loss(1, x, y, source(n)).backward()
        optimizer.step()
    with torch.no_grad():
        learned = float((layer(noisy).softmax(1) - u).square().sum(1).mean())
    assert best * 0.98 < learned < best * 1.02
    assert best < 1 - 1 / 3
    slope = layer.weight - layer.weight.mean(0)  # softmax ignores what all logits share
    wanted = math.sqrt(abar) / (1 - abar) * (torch.eye(3) - 1 / 3)
    assert (slope - wanted).abs().max() < 0.15


class Wrap(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.layer(z)
        return out


# --- inference ---


def test_perfect_denoiser_ends_where_the_recursion_says() -> None:
    mean, var = 0.0, 1.0
    for a, b, c in zip(TEN.a.tolist(), TEN.b.tolist(), TEN.c.tolist(), strict=True):
        mean, var = a + b * mean, b * b * var + c
    assert mean == pytest.approx(0.99497737666, abs=1e-11)
    assert var == pytest.approx(0.0100000001, abs=6e-11)
    mean, var = math.sqrt(0.001), 0.999  # from q(z_0 | y) it is exact
    for a, b, c in zip(TEN.a.tolist(), TEN.b.tolist(), TEN.c.tolist(), strict=True):
        mean, var = a + b * mean, b * b * var + c
    assert (mean, var) == pytest.approx((math.sqrt(0.99), 0.01), rel=1e-13)
    m = NoPropDT([Always(100 * torch.eye(2)[0]) for _ in range(10)], 2)
    z = m.sample(torch.zeros(20_000, 1), generator=source(0))
    assert z.mean(0).tolist() == pytest.approx([0.994977, 0], abs=5 * 0.1 / 20_000**0.5)
    assert z.var(0).tolist() == pytest.approx([0.01, 0.01], rel=5 * (2 / 20_000) ** 0.5)


def test_sampling_by_hand() -> None:
    m, (x, _) = model(), data(5)
    path = m.sample(x, return_path=True, generator=source(3))
    drawn = source(3)
    z = torch.randn(5, CLASSES, generator=drawn)
    assert path.shape == (5, 5, CLASSES) and torch.equal(path[0], z)
    with torch.no_grad():
        for t, block in enumerate(m.blocks):
            a, b, c = (float(k[t]) for k in (m.schedule.a, m.schedule.b, m.schedule.c))
            z = a * block(z, x).softmax(1) + b * z + math.sqrt(c) * torch.randn(5, CLASSES, generator=drawn)
            torch.testing.assert_close(path[t + 1], z)
    assert torch.equal(m.sample(x, generator=source(3)), path[-1])
    assert torch.equal(m.predict(x, generator=source(3)), m.head(path[-1]).argmax(1))


def test_without_noise_the_start_decides() -> None:
    m, (x, _) = model(norm=True), data(5)
    z0 = torch.zeros(5, CLASSES)
    assert torch.equal(m.sample(x, noise=False, z0=z0), m.sample(x, noise=False, z0=z0))
    assert not torch.equal(m.sample(x, z0=z0), m.sample(x, z0=z0))
    assert m.training and all(part.training for part in m.modules())  # evaluated, and restored
    assert int(m.blocks[0].net[1].num_batches_tracked) == 0


# --- locality ---


def test_a_block_reaches_no_other_block() -> None:
    m, (x, y) = model(), data()
    m.block_loss(2, x, y).backward()
    reached = [any(p.grad is not None for p in block.parameters()) for block in m.blocks]
    assert reached == [False, True, False, False]
    assert m.head.weight.grad is not None and m.embedding.weight.grad is None


def test_the_order_of_blocks_changes_no_bit() -> None:
    x, y = data()

    def trained(order: list[int]) -> NoPropDT:
        m = model(norm=True)
        for t in order:
            noise = source(100 + t)
            optimizer = torch.optim.AdamW(m.blocks[t - 1].parameters(), lr=0.01)
            for _ in range(3):
                optimizer.zero_grad()
                m.block_loss(t, x, y, noise).backward()
                optimizer.step()
        return m

    one, other = trained([1, 2, 3, 4]), trained([3, 1, 4, 2])
    for name, value in one.blocks.state_dict().items():
        assert torch.equal(value, other.blocks.state_dict()[name]), name


def test_bytes_kept_for_backward_do_not_grow_with_the_number_of_blocks() -> None:
    x, y = data()

    def kept(steps: int) -> int:
        found: list[int] = []
        m = model(steps)

        def pack(t: Tensor) -> Tensor:
            found.append(t.nbytes)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            m.block_loss(1, x, y)
        return sum(found)

    assert kept(2) == kept(4) == kept(16) > 0


def test_learned_vectors_get_gradients_of_all_terms() -> None:
    torch.manual_seed(0)
    m = NoPropDT([Block(dim=3) for _ in range(2)], CLASSES, embed=3, head="radial")
    x, y = data()
    m.loss(x, y).backward()
    assert m.embedding.weight.grad is not None and bool(m.embedding.weight.grad.any())
    assert m.head.embedding is m.embedding
    assert [name for name, _ in m.named_parameters() if "embedding" in name] == ["embedding.weight"]
