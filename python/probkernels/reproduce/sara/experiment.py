"""SaRA: a diffusion model learns a new class through the weights that it does not use, and keeps the old ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from ... import ops, optim, sparse
from ..harness.method import Progress
from ..harness.workers import Run, Workers
from . import cost, peers
from . import model as toy
from .records import (
    CHOICES,
    DENSITY,
    QUICK,
    QUICK_SHARES,
    RECIPES,
    SAMPLED,
    SEEDS,
    SHARES,
    Pretrained,
    Recipe,
    Record,
    Tuned,
)

PRETRAIN_STEPS = 4000
TRACE_EVERY = 200  # steps between two looks at both losses


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Pre-trains, fine-tunes by every recipe and, unless ``quick``, measures what each costs."""
    shares, names = QUICK_SHARES if quick else SHARES, recipes(quick)
    with Workers(len(names) * len(SEEDS)) as workers:
        bases = pretrain_all(workers.run, SEEDS, progress, shares)
        tuned = tune_all(workers.run, names, bases, progress)
    return [*bases, *tuned, *([] if quick else cost.measure_all(progress))]


def recipes(quick: bool) -> list[str]:
    """The recipes of a run; those of a quick run are those of the claims."""
    return list(QUICK) if quick else [name for name in RECIPES if name != "SHiRA (peft)" or peers.has_shira()]


# --- pre-training, and what zeroing shows ---


def pretrain_all(
    run: Run, seeds: Sequence[int], progress: Progress, shares: Sequence[float] = SHARES, steps: int = PRETRAIN_STEPS
) -> list[Pretrained]:
    """Pre-trains one model per seed, in parallel."""
    jobs = [(seed, shares, steps) for seed in seeds]
    return run(pretrain, jobs, progress.bar("pre-training", len(jobs) * steps))


def pretrain(seed: int, shares: Sequence[float], steps: int, advance: Callable[[float], None]) -> Pretrained:
    """Trains all weights on the old classes, then zeroes some in copies."""
    torch.manual_seed(seed)
    model = toy.Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    toy.train(model, optimizer, toy.draw_old, steps, seed, lambda step, loss: advance(1))
    zeroed = {(choice, share): zeroed_loss(model, choice, share, seed) for choice in CHOICES for share in shares}
    return Pretrained(seed, model.state_dict(), *losses(model), zeroed)


def losses(model: nn.Module, size: int = 20_000) -> tuple[float, float]:
    """The losses on new and on old data."""
    return toy.evaluate(model, toy.draw_new, size), toy.evaluate(model, toy.draw_old, size)


def zeroed_loss(model: nn.Module, choice: str, share: float, seed: int) -> float:
    """Loss on old data without a share of the weights; for random ones the mean of three draws."""
    draws = 3 if choice == "random" else 1
    return fmean(_zeroed_loss(model, choice, share, seed * draws + draw) for draw in range(draws))


def _zeroed_loss(model: nn.Module, choice: str, share: float, seed: int) -> float:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = sparse.attach(model, density=share, select=choice, seed=seed)
    with torch.no_grad():
        for values in adapter.parameters():
            values.zero_()
    adapter.sync()
    loss = toy.evaluate(model, toy.draw_old)
    adapter.detach()
    model.load_state_dict(before)
    return loss


# --- fine-tuning ---


def tune_all(
    run: Run, names: Sequence[str], bases: Sequence[Pretrained], progress: Progress, share: float = 1.0
) -> list[Tuned]:
    """Runs every recipe from every base in parallel, with a share of its steps and samples.

    Only samples from the first base are shown, so only those are drawn.
    """
    steps = {name: max(2, round(share * RECIPES[name].steps)) for name in names}
    each = math.ceil(40 * share)
    jobs = [
        (name, base.seed, base.state, steps[name], each if name in SAMPLED and base is bases[0] else 0)
        for base in bases
        for name in steps
    ]
    return run(tune, jobs, progress.bar("fine-tuning", sum(job[3] for job in jobs)))


def tune(
    name: str, seed: int, state: dict[str, Tensor], steps: int, each: int, advance: Callable[[float], None]
) -> Tuned:
    """Fine-tunes a pre-trained model on the new class alone; ``each`` points of every old class are sampled."""
    torch.manual_seed(seed)  # LoRA's start
    model = toy.Net()
    model.load_state_dict(state)
    recipe, limit = RECIPES[name], threshold(model)
    weights = list(model.parameters())  # without those that an adapter adds
    optimizer, trained = prepare(model, recipe, seed, steps)
    trace = [(0, *losses(model, 4000))]

    def after(step: int, loss: float) -> None:
        advance(1)
        if (step + 1) % TRACE_EVERY == 0:
            trace.append((step + 1, *losses(model, 4000)))

    toy.train(model, optimizer, toy.draw_new, steps, 1000 + seed, after)
    below = None
    if recipe.trains == "smallest":  # the other weights were not below the limit and have not moved
        below = sum(int((w.detach().abs() < limit).sum()) for w in weights) / trained
    return Tuned(name, seed, trained, *losses(model), below, trace, samples(model, seed, each))


def threshold(model: nn.Module) -> float:
    """The bound below which the chosen share of all weights lies."""
    parameters = [p.detach() for p in model.parameters()]
    return ops.magnitude_kth(parameters, int(DENSITY * sum(p.numel() for p in parameters)))


def prepare(model: nn.Module, recipe: Recipe, seed: int, steps: int) -> tuple[torch.optim.Optimizer, int]:
    """The optimizer of a recipe, and its number of trained parameters."""
    if recipe.trains in CHOICES:
        smallest = recipe.trains == "smallest"
        sara = optim.SaRAAdamW(
            model,
            lr=recipe.lr,
            rank_penalty=recipe.rank_penalty,
            progressive_iter=steps // 2 if recipe.progressive else None,
            select=recipe.trains,
            seed=seed + 100 * recipe.draw,
            threshold=threshold(model) if smallest else None,
            density=None if smallest else DENSITY,
        )
        return sara, sara.adapter.count
    peers.add(recipe.trains, model, DENSITY, seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=recipe.lr), sum(p.numel() for p in parameters)


def samples(model: nn.Module, seed: int, each: int) -> list[list[float]]:
    """Points of the eight old classes, and as many of the new one: x, y, class."""
    if not each:
        return []
    old = torch.arange(toy.OLD_CLASSES).repeat(each)
    classes = torch.cat([old, torch.full_like(old, toy.NEW_CLASS)])
    return torch.cat([toy.sample(model, classes, seed), classes[:, None]], 1).tolist()
