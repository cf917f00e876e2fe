"""The SaRA experiment: its data and model, each way to fine-tune, a miniature run, its plots; the claims are slow."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.reproduce import Progress, sara
from probkernels.reproduce.sara import cost, experiment, model, peers
from probkernels.reproduce.sara.records import CHOICES, DENSITY, RECIPES
from torch import nn

from tests.reproduce.made_up import of_sara
from tests.reproduce.support import Sum, run_here

# --- data and model ---


def test_old_data_are_eight_blobs_on_a_circle() -> None:
    points, classes = model.draw_old(20_000, torch.Generator().manual_seed(0))
    assert classes.unique().tolist() == list(range(8))
    for k in range(8):
        own = points[classes == k]
        center = torch.tensor([2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)])
        torch.testing.assert_close(own.mean(0), center, atol=0.01, rtol=0)
        torch.testing.assert_close(own.std(0), torch.tensor([0.1, 0.1]), atol=0.005, rtol=0)


def test_new_data_are_two_half_moons() -> None:
    points, classes = model.draw_new(20_000, torch.Generator().manual_seed(0))
    assert classes.unique().tolist() == [model.NEW_CLASS]
    # Both moons have radius 1.5; their centers are (-0.75, -0.375) and (0.75, 0.375).
    centers = torch.tensor([[-0.75, -0.375], [0.75, 0.375]])
    radii = torch.cdist(points, centers)
    assert ((radii - 1.5).abs().amin(1) < 0.3).all()
    upper = points[:, 1] > 0.5
    torch.testing.assert_close(radii[upper, 0].mean(), torch.tensor(1.5), atol=0.01, rtol=0)
    assert 0.2 < float(upper.float().mean()) < 0.4
    torch.testing.assert_close(points.mean(0), torch.zeros(2), atol=0.03, rtol=0)


def test_schedule() -> None:
    """Betas grow linearly from 1e-4 to 0.05 over 200 steps."""
    betas = torch.linspace(1e-4, 0.05, 200, dtype=torch.float64)
    torch.testing.assert_close(model.PROCESS.betas, betas)
    left = math.exp(sum(math.log1p(-float(b)) for b in betas))
    assert float(model.PROCESS.alpha(1.0)) ** 2 == pytest.approx(left)


def test_model_size_and_selection() -> None:
    torch.manual_seed(0)
    net = model.Net()
    sizes = [p.numel() for p in net.parameters()]
    assert sum(sizes) == 149_538
    torch.testing.assert_close(net.frequencies[[0, -1]], torch.tensor([1.0, 1000.0]))
    limit = experiment.threshold(net)
    assert sum(int((p.abs() < limit).sum()) for p in net.parameters()) == 8672


def alpha_sigma(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of time steps (B,): (B, 1) each."""
    at = (t.double() + 1) / model.NOISE_STEPS
    return model.PROCESS.alpha(at).float()[:, None], model.PROCESS.sigma(at).float()[:, None]


def test_loss_of_a_perfect_and_of_a_silent_model() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.zeros(20_000, 2)  # of a known point the noise is known

    class Perfect(nn.Module):
        def forward(self, x, t, classes):
            return x / alpha_sigma(t)[1]

    class Silent(nn.Module):
        def forward(self, x, t, classes):
            return torch.zeros_like(x)

    batch = points, torch.zeros(20_000, dtype=torch.long)
    assert float(model.noise_loss(Perfect(), batch, generator)) < 1e-10
    assert float(model.noise_loss(Silent(), batch, generator)) == pytest.approx(1, abs=0.03)


def test_sampling_with_the_exact_noise_finds_the_point() -> None:
    goal = torch.tensor([1.0, -2.0])

    class Exact(nn.Module):
        def forward(self, x, t, classes):
            alpha, sigma = alpha_sigma(t)
            return (x - alpha * goal) / sigma

    points = model.sample(Exact(), torch.zeros(50, dtype=torch.long))
    torch.testing.assert_close(points, goal.expand(50, 2), atol=1e-3, rtol=0)


# --- ways to fine-tune ---


@pytest.mark.parametrize("name", [name for name in RECIPES if "peft" not in name])
def test_a_recipe_moves_what_it_says_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    net = model.Net()
    before = [p.detach().clone() for p in net.parameters()]
    limit = experiment.threshold(net)
    recipe = RECIPES[name]
    old = list(net.parameters())
    optimizer, trained = experiment.prepare(net, recipe, seed=0, steps=4)
    model.train(net, optimizer, model.draw_new, 4, 0, lambda step, loss: None)
    moved = [p.detach() != b for p, b in zip(old, before, strict=True)]
    small = [b.abs() < limit for b in before]
    if recipe.trains == "smallest":
        assert trained == 8672
        assert not any((m & ~s).any() for m, s in zip(moved, small, strict=True))
        assert sum(int(m.sum()) for m in moved) > 0.9 * trained
    elif recipe.trains in CHOICES:
        assert trained == pytest.approx(DENSITY * 149_538, abs=1)
        assert 0.9 * trained < sum(int(m.sum()) for m in moved) <= trained
    elif recipe.trains == "all":
        assert trained == 149_538
    else:
        assert trained == 5 * 1604 and not any(m.any() for m in moved)


def test_lora_starts_as_the_model_and_learns() -> None:
    torch.manual_seed(0)
    net = model.Net(32)
    x, t, classes = torch.randn(7, 2), torch.arange(7), torch.arange(7)
    y = net(x, t, classes)
    peers.add_lora(net, 2)
    torch.testing.assert_close(net(x, t, classes), y)
    net(x, t, classes).square().sum().backward()
    learners = {name for name, p in net.named_parameters() if p.requires_grad}
    assert learners == {
        f"{name}.{part}" for name in ("enter", "middle.0", "middle.1", "leave") for part in ("down", "up")
    }
    assert all(net.get_parameter(name).grad is not None for name in learners)


def test_shira_trains_as_many_numbers_as_lora() -> None:
    """But for the last layer (2, 32), which has fewer entries than LoRA of rank 2 would train."""
    pytest.importorskip("peft")
    lora, shira = model.Net(32), model.Net(32)
    peers.add_lora(lora, 2)
    peers.add_shira(shira, 2, seed=0)
    counts = [sum(p.numel() for p in net.parameters() if p.requires_grad) for net in (lora, shira)]
    assert counts[0] - counts[1] == 2 * (2 + 32)


# --- the run ---


def test_miniature_run_is_deterministic_and_complete() -> None:
    """In this process, as test_workers.py sees to the others."""
    progress = Sum()
    (base,) = experiment.pretrain_all(run_here, (0,), progress, (0.2,), steps=20)
    (run,) = experiment.tune_all(run_here, ("smallest (SaRA)",), [base], progress, share=0.01)
    assert progress.done == progress.total == 20 + 10
    assert set(base.zeroed) == {(choice, 0.2) for choice in CHOICES}
    assert run.trained == 8672 and 0 <= run.below <= 1 and len(run.points) == 16
    assert experiment.tune("smallest (SaRA)", 0, base.state, 10, 1, lambda amount: None) == run


def test_costs_are_measured() -> None:
    full, *others = cost.measure_all(Progress(), 64)
    size = sum(p.numel() for p in model.Net(64).parameters())
    assert full.trained == size and full.file == 4 * size
    assert 12 * size <= full.held < 14 * size
    assert all(way.seconds > 0 and way.file > 0 for way in (full, *others))
    assert {"SaRA", "SaRA, 8-bit moments", "LoRA"} <= {way.way for way in others}
    assert all(way.trained < 0.1 * size for way in others)


def test_claims_tell_what_was_measured() -> None:
    records = of_sara(worse=False)
    measured = [claim.measured for claim in sara.claims.claims(records)[:3]]
    assert measured == pytest.approx([0.267 / 0.249, 0.249 / 0.405, 0.444 / 0.416])
    tables = sara.claims.tables(records)
    assert len(tables[0].rows) == 1 + len(RECIPES)
    assert tables[-1].rows[1][:3] == ["SaRA", "6", "0.1"]
