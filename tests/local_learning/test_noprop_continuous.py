"""NoProp in continuous time, the vectors of classes, the learned curve."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.local_learning import (
    LabelEmbedding,
    LabelSchedule,
    LearnedSchedule,
    NoPropCT,
    NoPropFM,
    RadialHead,
    prototypes,
)
from torch import Tensor, nn

from tests.local_learning.noprop_nets import CLASSES, Always, TimeNet, data

# --- the learned curve ---


def test_curve_falls_between_its_ends() -> None:
    curve = LearnedSchedule(generator=torch.Generator().manual_seed(1))
    gamma = curve(torch.linspace(0, 1, 101))
    assert gamma.dtype is torch.float64 and bool((gamma.diff() < 0).all())
    assert (-gamma[[0, -1]]).sigmoid().tolist() == pytest.approx([0.001, 0.99])


def test_slope_of_snr_is_the_limit_of_its_steps() -> None:
    """T dSNR tends to SNR'(t), as does the discrete loss to the continuous one."""
    m = NoPropCT(TimeNet(), CLASSES)
    gaps = []
    for steps in (50, 100, 200):
        levels = LabelSchedule.of_curve(m.schedule, steps)
        middles = (torch.arange(steps).double() + 0.5) / steps
        _, slope = m._level(middles)
        gaps.append(float((steps * levels.dsnr / slope.detach() - 1).abs().max()))
    assert gaps[2] < 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1) and gaps[1] / gaps[2] == pytest.approx(4, rel=0.1)


def test_loss_by_hand() -> None:
    m, (x, y) = NoPropCT(TimeNet(), CLASSES, eta=0.7), data()
    drawn = torch.Generator().manual_seed(3)
    got = m.loss(x, y, torch.Generator().manual_seed(3))
    t, u = torch.rand(len(x), 1, generator=drawn), torch.eye(CLASSES)[y]
    noise, last = (torch.randn(len(x), CLASSES, generator=drawn) for _ in range(2))
    snr = lambda s: (-m.schedule(s.double())).exp()  # noqa: E731
    slope = (snr(t.double() + 1e-6) - snr(t.double() - 1e-6)) / 2e-6
    abar = (snr(t) / (1 + snr(t))).float()
    z = abar.sqrt() * u + (1 - abar).sqrt() * noise
    error = (m.net(z, x, t[:, 0]).softmax(1) - u).square().sum(1)
    kl = 0.5 * (0.001 * (1 - CLASSES) - CLASSES * math.log(0.999))
    read_out = nn.functional.cross_entropy(m.head(0.99**0.5 * u + 0.1 * last), y)
    wanted = read_out + kl + 0.35 * (slope[:, 0] * error).mean()
    assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
    got.backward()
    assert all(p.grad is not None for p in m.schedule.parameters())


def test_loss_works_without_gradients() -> None:
    m, (x, y) = NoPropCT(TimeNet(), CLASSES), data()
    with torch.no_grad():
        assert m.loss(x, y).isfinite()


# --- sampling ---


def test_euler_steps_of_the_flow_converge_to_its_exact_step() -> None:
    levels = LabelSchedule([0.2, 0.7])
    z, uhat = torch.tensor([0.3, -1.0]).double(), torch.tensor([0.8, 0.1]).double()
    exact = levels.flow_step(1, z, uhat)
    gaps = []
    for steps in (200, 400):
        at, abar = z.clone(), 0.2
        for _ in range(steps):
            d = 0.5 / steps
            at = at + d / (2 * (1 - abar)) * (uhat / math.sqrt(abar) - at)
            abar += d
        gaps.append(float((at - exact).abs().max()))
    assert gaps[1] < 1e-3 and gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)


def test_perfect_denoiser_of_continuous_time_lands() -> None:
    m = NoPropCT(Always(100 * torch.eye(2)[1]), 2)
    x, z0 = torch.zeros(4000, 1), torch.randn(4000, 2)
    z = m.sample(x, steps=50, z0=z0)
    assert z.mean(0).tolist() == pytest.approx([0, 0.995], abs=0.01)
    assert z.var(0).tolist() == pytest.approx([0.01, 0.01], rel=0.12)
    flown = m.sample(x, steps=50, way="flow", z0=z0)
    wanted = 0.99**0.5 * torch.eye(2)[1] + math.sqrt(0.01 / 0.999) * (z0 - 0.001**0.5 * torch.eye(2)[1])
    torch.testing.assert_close(flown, wanted, rtol=1e-4, atol=1e-5)
    path = m.sample(x[:3], steps=5, return_path=True, z0=z0[:3])
    assert path.shape == (6, 3, 2) and torch.equal(path[0], z0[:3])


class Exact(nn.Module):
    """Logits whose velocity is (u - z) / (1 - t), for one-hot vectors."""

    def forward(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return (torch.eye(3)[x[:, 0].long()] - z) / (1 - t[:, None])


@pytest.mark.parametrize("steps", [1, 7])
def test_exact_velocity_lands_on_the_vector(steps: int) -> None:
    m, y = NoPropFM(Exact(), 3), torch.arange(6) % 3
    z = m.sample(y[:, None].float(), steps=steps)
    torch.testing.assert_close(z, torch.eye(3)[y], rtol=1e-5, atol=1e-5)
    assert torch.equal(m.predict(y[:, None].float(), steps=steps), y)
    assert m.loss(y[:, None].float(), y).item() == pytest.approx(0, abs=1e-6)
    assert m.sample(y[:, None].float(), steps=steps, return_path=True).shape == (steps + 1, 6, 3)


def test_noise_around_the_path_has_its_width() -> None:
    m, y = NoPropFM(Exact(), 3, sigma=0.5), torch.zeros(4000, dtype=torch.long)
    seen = []
    m.net.register_forward_pre_hook(lambda net, args: seen.append(args))
    generator = torch.Generator().manual_seed(0)
    m.loss(y[:, None].float(), y, generator)
    z, _, t = seen[0]
    middle = (t - 0.5).abs() < 0.1
    width = ((1 - t[middle]).square().mean() + 0.25).sqrt()
    assert float((z[middle] - t[middle][:, None] * torch.eye(3)[0]).std() / width) == pytest.approx(1, abs=0.05)


def test_flow_with_learned_vectors_trains_the_read_out() -> None:
    x, y = data()
    fixed, learned = NoPropFM(TimeNet(), CLASSES), NoPropFM(TimeNet(dim=3), CLASSES, 3)
    fixed.loss(x, y).backward()
    learned.loss(x, y).backward()
    assert fixed.head.weight.grad is None and fixed.embedding.weight.grad is None
    assert learned.head.weight.grad is not None and learned.embedding.weight.grad is not None


# --- vectors of classes ---


def test_learned_vectors_start_orthogonal() -> None:
    e = LabelEmbedding(5, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(e.table() @ e.table().T, torch.eye(5), rtol=0, atol=1e-5)
    assert e.learned and e.dim == 20 and not LabelEmbedding(5).learned


def test_normalized_vectors_have_length_one() -> None:
    e = LabelEmbedding(2, torch.tensor([[3.0, 4.0], [0.1, 0.0]]), normalize=True)
    assert e(torch.tensor([0, 1])).tolist() == [pytest.approx([0.6, 0.8]), [1, 0]]


def test_nearest_counts_the_length_of_vectors() -> None:
    e = LabelEmbedding(3, torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 1.0]]))
    z = torch.randn(50, 2)
    assert torch.equal(e.nearest(z), torch.cdist(z, e.table()).argmin(1))


def test_prototypes_are_the_most_central_images() -> None:
    x, y = torch.randn(40, 2, 3), torch.arange(40) % 4
    found = prototypes(x, y, 4)
    for k in range(4):
        own = x[y == k].flatten(1)
        medians = [torch.cdist(own[i : i + 1], own[torch.arange(10) != i]).median() for i in range(10)]
        assert torch.equal(found[k].flatten(), own[int(torch.stack(medians).argmin())])
    assert LabelEmbedding(4, found).dim == 6
    with pytest.raises(ValueError, match="expected a sample of every class, got none of class 4"):
        prototypes(x, y, 5)


def test_radial_read_out_by_hand() -> None:
    e, z = LabelEmbedding(3, torch.randn(3, 2)), torch.randn(4, 3)
    head = RadialHead(nn.Identity(), e, sigma=0.7)
    for row, logits in zip(z, head(z), strict=True):
        guess = row.softmax(0) @ e.weight
        for k in range(3):
            assert logits[k].item() == pytest.approx(-float((guess - e.weight[k]).square().sum()) / 0.98, rel=1e-4)


@pytest.mark.parametrize(
    ("embed", "kind", "match"),
    [
        ("one-hot", ValueError, "'embed'"),
        (0, ValueError, "'embed': expected 'onehot', a whole number >= 1 or a tensor, got 0"),
        (torch.zeros(3, 2), ValueError, r"'embed': expected shape \(4, \*S\)"),
        (torch.full((4, 2), torch.nan), ValueError, r"nan at \[0, 0\]"),
        (LabelEmbedding(3), ValueError, "'embed': expected vectors of 4 classes, got 3 classes"),
    ],
    ids=str,
)
def test_bad_vectors_are_named(embed: object, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        NoPropFM(TimeNet(), 4, embed)  # type: ignore[arg-type]
