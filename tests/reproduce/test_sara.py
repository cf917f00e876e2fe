"""The SaRA experiment: its data and model, each way to fine-tune, a miniature run, its plots; the claims are slow."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.reproduce import Progress, _ddpm, _peers, _report, _sara_cost
from probkernels.reproduce import sara as experiment
from probkernels.reproduce.sara import CHOICES, EXPECTED, EXPECTED_ZEROED, RECIPES, SHARES, Pretrained, Tuned
from torch import nn

# --- data and model ---


def test_old_data_are_eight_blobs_on_a_circle() -> None:
    points, classes = _ddpm.draw_old(20_000, torch.Generator().manual_seed(0))
    assert classes.unique().tolist() == list(range(8))
    for k in range(8):
        own = points[classes == k]
        centre = torch.tensor([2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)])
        torch.testing.assert_close(own.mean(0), centre, atol=0.01, rtol=0)
        torch.testing.assert_close(own.std(0), torch.tensor([0.1, 0.1]), atol=0.005, rtol=0)


def test_new_data_are_two_half_moons() -> None:
    points, classes = _ddpm.draw_new(20_000, torch.Generator().manual_seed(0))
    assert classes.unique().tolist() == [_ddpm.NEW_CLASS]
    # Both moons have radius 1.5; their centres are (-0.75, -0.375) and (0.75, 0.375).
    centres = torch.tensor([[-0.75, -0.375], [0.75, 0.375]])
    radii = torch.cdist(points, centres)
    assert ((radii - 1.5).abs().amin(1) < 0.3).all()
    upper = points[:, 1] > 0.5
    torch.testing.assert_close(radii[upper, 0].mean(), torch.tensor(1.5), atol=0.01, rtol=0)
    assert 0.2 < float(upper.float().mean()) < 0.4
    torch.testing.assert_close(points.mean(0), torch.zeros(2), atol=0.03, rtol=0)


def test_schedule() -> None:
    assert len(_ddpm.BETAS) == 200
    assert float(_ddpm.BETAS[0]) == pytest.approx(1e-4) and float(_ddpm.BETAS[-1]) == pytest.approx(0.05)
    assert float(_ddpm.KEPT[0]) == pytest.approx(1 - 1e-4)
    assert float(_ddpm.KEPT[-1]) == pytest.approx(math.exp(sum(math.log1p(-float(b)) for b in _ddpm.BETAS)))


def test_model_size_and_selection() -> None:
    torch.manual_seed(0)
    model = _ddpm.Denoiser()
    sizes = [p.numel() for p in model.parameters()]
    assert sum(sizes) == 149_538
    torch.testing.assert_close(model.frequencies[[0, -1]], torch.tensor([1.0, 1000.0]))
    limit = experiment.threshold(model)
    assert sum(int((p.abs() < limit).sum()) for p in model.parameters()) == 8672


def test_loss_of_a_perfect_and_of_a_silent_model() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.zeros(20_000, 2)  # of a known point the noise is known

    class Perfect(nn.Module):
        def forward(self, x, t, classes):
            return x / (1 - _ddpm.KEPT.float()[t, None]).sqrt()

    batch = points, torch.zeros(20_000, dtype=torch.long)
    assert float(_ddpm.noise_loss(Perfect(), batch, generator)) < 1e-10
    silent = _ddpm.noise_loss(lambda x, t, c: torch.zeros_like(x), batch, generator)
    assert float(silent) == pytest.approx(1, abs=0.03)


def test_sampling_with_the_exact_noise_finds_the_point() -> None:
    goal = torch.tensor([1.0, -2.0])

    def exact(x, t, classes):
        kept = _ddpm.KEPT.float()[t, None]
        return (x - kept.sqrt() * goal) / (1 - kept).sqrt()

    points = _ddpm.sample(exact, torch.zeros(50, dtype=torch.long))
    torch.testing.assert_close(points, goal.expand(50, 2), atol=1e-3, rtol=0)


# --- ways to fine-tune ---


@pytest.mark.parametrize("name", [name for name in RECIPES if "peft" not in name])
def test_a_recipe_moves_what_it_says_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    model = _ddpm.Denoiser()
    before = [p.detach().clone() for p in model.parameters()]
    limit = experiment.threshold(model)
    recipe = RECIPES[name]
    old = list(model.parameters())
    optimizer, trained = experiment.prepare(model, recipe, seed=0, steps=4)
    _ddpm.train(model, optimizer, _ddpm.draw_new, 4, 0, lambda step, loss: None)
    moved = [p.detach() != b for p, b in zip(old, before, strict=True)]
    small = [b.abs() < limit for b in before]
    if recipe.trains == "smallest":
        assert trained == 8672
        assert not any((m & ~s).any() for m, s in zip(moved, small, strict=True))
        assert sum(int(m.sum()) for m in moved) > 0.9 * trained
    elif recipe.trains in CHOICES:
        assert trained == pytest.approx(experiment.DENSITY * 149_538, abs=1)
        assert 0.9 * trained < sum(int(m.sum()) for m in moved) <= trained
    elif recipe.trains == "all":
        assert trained == 149_538
    else:
        assert trained == 5 * 1604 and not any(m.any() for m in moved)


def test_lora_starts_as_the_model_and_learns() -> None:
    torch.manual_seed(0)
    model = _ddpm.Denoiser(32)
    x, t, classes = torch.randn(7, 2), torch.arange(7), torch.arange(7)
    y = model(x, t, classes)
    _peers.add_lora(model, 2)
    torch.testing.assert_close(model(x, t, classes), y)
    model(x, t, classes).square().sum().backward()
    learners = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learners == {
        f"{name}.{part}" for name in ("enter", "middle.0", "middle.1", "leave") for part in ("down", "up")
    }
    assert all(model.get_parameter(name).grad is not None for name in learners)


def test_shira_trains_as_many_numbers_as_lora() -> None:
    """But for the last layer (2, 32), which has fewer entries than LoRA of rank 2 would train."""
    pytest.importorskip("peft")
    lora, shira = _ddpm.Denoiser(32), _ddpm.Denoiser(32)
    _peers.add_lora(lora, 2)
    _peers.add_shira(shira, 2, seed=0)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (lora, shira)]
    assert counts[0] - counts[1] == 2 * (2 + 32)


# --- the run ---


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, as test_workers.py sees to the others."""

    class Sum(Progress):
        done, total = 0.0, 0.0

        def bar(self, text: str, total: float):
            self.total += total
            return self.advance

        def advance(self, amount: float) -> None:
            self.done += amount

    def run_here(function, jobs, advance):
        return [function(*job, advance) for job in jobs]

    monkeypatch.setattr(experiment, "run_jobs", run_here)
    progress = Sum()
    (base,) = experiment.pretrain_all((0,), progress, (0.2,), steps=20)
    (run,) = experiment.tune_all(("smallest (SaRA)",), [base], progress, share=0.01)
    assert progress.done == progress.total == 20 + 10
    assert set(base.zeroed) == {(choice, 0.2) for choice in CHOICES}
    assert run.trained == 8672 and 0 <= run.below <= 1 and len(run.points) == 16
    assert experiment.tune("smallest (SaRA)", 0, base.state, 10, 1, lambda amount: None) == run


def made_up(seed: int) -> tuple[Pretrained, list[Tuned]]:
    """Runs that sit exactly at the expected figures."""
    zeroed = {(choice, share): EXPECTED_ZEROED.get((choice, share), 0.1) for choice in CHOICES for share in SHARES}
    tuned = []
    for name in RECIPES:
        new, old, below = EXPECTED.get(name.partition(", second")[0], (0.5, 0.3, None))
        trace = [(0, 7.0, 0.06), (100, 1.0, 0.2), (200, new, old)]
        tuned.append(Tuned(name, seed, 8672, new, old, below, trace, [[1.0, 0.0, 0.0], [0.0, 1.0, 8.0]]))
    return Pretrained(seed, {}, 6.97, 0.0616, zeroed), tuned


def test_full_summary_and_plots() -> None:
    runs = [made_up(seed) for seed in experiment.SEEDS]
    bases, tuned = [base for base, _ in runs], [run for _, more in runs for run in more]
    costs = [
        _sara_cost.Cost("full AdamW", 100, 2**20, None, 0.2, 400),
        _sara_cost.Cost("SaRA", 6, 2**16, 2**20, 0.1, 30),
    ]
    result = experiment.summarise(bases, tuned, costs)
    assert all(claim.holds for claim in result.claims)
    measured = [claim.measured for claim in result.claims[:3]]
    assert measured == pytest.approx([0.267 / 0.249, 0.249 / 0.405, 0.444 / 0.416])
    assert len(result.tables[0].rows) == 1 + len(RECIPES)
    assert result.tables[-1].rows[1][:3] == ["SaRA", "6", "0.1"]
    pytest.importorskip("matplotlib")
    for figure in result.figures:
        assert _report.png(figure).startswith(b"\x89PNG")


def test_claims_fail_when_the_order_is_wrong() -> None:
    base, _ = made_up(0)
    base.zeroed["smallest", 0.2], base.zeroed["random", 0.2] = 0.07, 0.1
    figures = {
        "smallest (SaRA)": (0.5, 0.3),
        "random": (0.45, 0.29),
        "random, second draw": (0.4, 0.3),
        "largest": (0.4, 0.31),
    }
    tuned = [
        Tuned(name, 0, 1, *losses, 0.1, [(0, 1.0, 1.0), (100, 1.0, 1.0)], [[0.0, 0.0, 0.0], [0.0, 0.0, 8.0]])
        for name, losses in figures.items()
    ]
    assert [claim.holds for claim in experiment.summarise([base], tuned, []).claims] == [False] * 5


def test_costs_are_measured() -> None:
    full, *others = _sara_cost.measure_all(Progress(), 64)
    size = sum(p.numel() for p in _ddpm.Denoiser(64).parameters())
    assert full.trained == size and full.file == 4 * size
    assert 12 * size <= full.held < 14 * size
    for cost in (full, *others):
        assert cost.seconds > 0 and cost.file > 0
    assert {"SaRA", "SaRA, 8-bit moments", "LoRA"} <= {cost.way for cost in others}
    assert all(cost.trained < 0.1 * size for cost in others)
