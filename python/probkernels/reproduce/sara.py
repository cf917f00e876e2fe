"""SaRA: a diffusion model learns a new class through the weights that it does not use, and keeps the old ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from .. import ops, optim, sparse
from . import _ddpm, _peers, _sara_cost
from ._method import Claim, Method, Progress, Result, Table
from ._workers import run_jobs

METHOD = Method(
    title="SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation",
    paper="Hu, Zhang, Yi, Huang, Wang, Ma. ICLR 2025, arXiv:2409.06633",
    experiment=(
        "A conditional diffusion model of 149,538 weights learns eight classes of points in the plane, then a ninth"
        " class of another shape from data of that class alone, as one fine-tunes an image model to a new style. Only"
        " what is trained differs: the 5.8 % smallest weights (SaRA), as many random or largest ones, or all. The loss"
        " on the new data tells how well it fits, the loss on the old classes how much of the prior is left."
    ),
)

SEEDS = (0, 1)
DENSITY = 0.058
PRETRAIN_STEPS = 4000
TRACE_EVERY = 200  # steps between two looks at both losses
SHARES = (0.02, DENSITY, 0.1, 0.2, 0.4)  # of the weights, set to zero
QUICK_SHARES = (DENSITY, 0.2, 0.4)
CHOICES = ("smallest", "random", "largest")


@dataclass(frozen=True)
class Recipe:
    """One way to fine-tune."""

    trains: str  # a member of CHOICES, "all", "LoRA" or "SHiRA"
    lr: float = 1e-3
    progressive: bool = False
    rank_penalty: float = 0.0
    steps: int = 1000
    draw: int = 0  # of random weights


RECIPES = {
    "smallest (SaRA)": Recipe("smallest"),
    "smallest, progressive": Recipe("smallest", progressive=True),
    "smallest, lr 3e-3": Recipe("smallest", lr=3e-3),
    "random": Recipe("random"),
    "random, second draw": Recipe("random", draw=1),
    "largest": Recipe("largest"),
    "all weights": Recipe("all"),
    "all weights, lr 1e-4": Recipe("all", lr=1e-4),
    "LoRA": Recipe("LoRA"),
    "LoRA, lr 3e-4": Recipe("LoRA", lr=3e-4),
    "SHiRA (peft)": Recipe("SHiRA"),
    "300 steps, λ = 0": Recipe("smallest", steps=300),
    "300 steps, λ = 1e-3": Recipe("smallest", steps=300, rank_penalty=1e-3),
}
SARA, LARGEST, RANDOM = "smallest (SaRA)", "largest", ("random", "random, second draw")
QUICK = (SARA, *RANDOM, LARGEST)
SAMPLED = (SARA, "random", LARGEST, "all weights")

# What another program gave: loss on new data, on old data, and the share of trained weights still below the threshold.
# Means of seeds 0 and 1, but for the runs of 300 steps, whose seeds are not known.
EXPECTED: dict[str, tuple[float, float, float | None]] = {
    "smallest (SaRA)": (0.416, 0.249, 0.012),
    "smallest, progressive": (0.440, 0.249, 0.001),
    "smallest, lr 3e-3": (0.387, 0.276, 0.011),
    "random": (0.444, 0.267, None),
    "largest": (0.413, 0.405, None),
    "all weights": (0.371, 0.438, None),
    "all weights, lr 1e-4": (0.413, 0.280, None),
    "300 steps, λ = 0": (0.7544, 0.2214, None),
    "300 steps, λ = 1e-3": (0.7579, 0.2200, None),
}
EXPECTED_BEFORE = (6.97, 0.0617)
EXPECTED_ZEROED = {  # seed 0; untouched 0.0616
    ("smallest", DENSITY): 0.0617,
    ("smallest", 0.2): 0.0624,
    ("random", DENSITY): 0.1351,
    ("random", 0.2): 0.3271,
    ("largest", DENSITY): 0.9383,
    ("largest", 0.2): 0.9860,
}


@dataclass
class Pretrained:
    """A model that knows the old classes."""

    seed: int
    state: dict[str, Tensor]
    new: float  # loss
    old: float
    zeroed: dict[tuple[str, float], float]  # loss on old data by (choice, share)


@dataclass
class Tuned:
    """A fine-tuned model, as told by its losses."""

    recipe: str
    seed: int
    trained: int  # numbers
    new: float
    old: float
    below: float | None  # share of the trained weights that are still below the threshold
    trace: list[tuple[int, float, float]]  # step, loss on new data, loss on old data
    points: list[list[float]]  # samples: x, y, class


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Every recipe, and what each costs; ``quick`` leaves out all but the recipes of the claims. Two seeds either way:
    one alone does not tell these recipes apart.
    """
    bases = pretrain_all(SEEDS, progress, QUICK_SHARES if quick else SHARES)
    names = QUICK if quick else [name for name in RECIPES if name != "SHiRA (peft)" or _peers.has_shira()]
    tuned = tune_all(names, bases, progress)
    return summarise(bases, tuned, [] if quick else _sara_cost.measure_all(progress))


# --- pre-training, and what zeroing shows ---


def pretrain_all(
    seeds: Sequence[int], progress: Progress, shares: Sequence[float] = SHARES, steps: int = PRETRAIN_STEPS
) -> list[Pretrained]:
    """One model a seed, side by side."""
    jobs = [(seed, shares, steps) for seed in seeds]
    return run_jobs(pretrain, jobs, progress.bar("pre-training", len(jobs) * steps))


def pretrain(seed: int, shares: Sequence[float], steps: int, advance: Callable[[float], None]) -> Pretrained:
    """Trains all weights on the old classes, then zeroes some in copies."""
    torch.manual_seed(seed)
    model = _ddpm.Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    _ddpm.train(model, optimizer, _ddpm.draw_old, steps, seed, lambda step, loss: advance(1))
    zeroed = {(choice, share): zeroed_loss(model, choice, share, seed) for choice in CHOICES for share in shares}
    return Pretrained(seed, model.state_dict(), *losses(model), zeroed)


def losses(model: nn.Module, size: int = 20_000) -> tuple[float, float]:
    """On new and on old data."""
    return _ddpm.evaluate(model, _ddpm.draw_new, size), _ddpm.evaluate(model, _ddpm.draw_old, size)


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
    loss = _ddpm.evaluate(model, _ddpm.draw_old)
    adapter.detach()
    model.load_state_dict(before)
    return loss


# --- fine-tuning ---


def tune_all(names: Sequence[str], bases: Sequence[Pretrained], progress: Progress, share: float = 1.0) -> list[Tuned]:
    """Every recipe from every base, side by side, for a share of its steps and samples."""
    steps = {name: max(2, round(share * RECIPES[name].steps)) for name in names}
    each = {name: math.ceil(40 * share) if name in SAMPLED else 0 for name in names}
    jobs = [(name, base.seed, base.state, steps[name], each[name]) for base in bases for name in steps]
    return run_jobs(tune, jobs, progress.bar("fine-tuning", sum(job[3] for job in jobs)))


def tune(
    name: str, seed: int, state: dict[str, Tensor], steps: int, each: int, advance: Callable[[float], None]
) -> Tuned:
    """Fine-tunes a pre-trained model on the new class alone; ``each`` points of every old class are sampled."""
    torch.manual_seed(seed)  # LoRA's start
    model = _ddpm.Denoiser()
    model.load_state_dict(state)
    recipe, limit = RECIPES[name], threshold(model)
    weights = list(model.parameters())  # without those that an adapter adds
    optimizer, trained = prepare(model, recipe, seed, steps)
    trace = [(0, *losses(model, 4000))]

    def after(step: int, loss: float) -> None:
        advance(1)
        if (step + 1) % TRACE_EVERY == 0:
            trace.append((step + 1, *losses(model, 4000)))

    _ddpm.train(model, optimizer, _ddpm.draw_new, steps, 1000 + seed, after)
    below = None
    if recipe.trains == "smallest":  # the other weights were not below the limit and have not moved
        below = sum(int((w.detach().abs() < limit).sum()) for w in weights) / trained
    return Tuned(name, seed, trained, *losses(model), below, trace, samples(model, seed, each))


def threshold(model: nn.Module) -> float:
    """The bound below which the chosen share of all weights lies."""
    parameters = [p.detach() for p in model.parameters()]
    return ops.magnitude_kth(parameters, int(DENSITY * sum(p.numel() for p in parameters)))


def prepare(model: nn.Module, recipe: Recipe, seed: int, steps: int) -> tuple[torch.optim.Optimizer, int]:
    """The optimizer of a recipe, and how many numbers it trains."""
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
    _peers.add(recipe.trains, model, DENSITY, seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=recipe.lr), sum(p.numel() for p in parameters)


def samples(model: nn.Module, seed: int, each: int) -> list[list[float]]:
    """Points of the eight old classes, and as many of the new one: x, y, class."""
    old = torch.arange(_ddpm.OLD_CLASSES).repeat(each)
    classes = torch.cat([old, torch.full_like(old, _ddpm.NEW_CLASS)])
    return torch.cat([_ddpm.sample(model, classes, seed), classes[:, None]], 1).tolist()


# --- what the runs show ---


def mean(tuned: Sequence[Tuned], which: str, *recipes: str) -> float:
    """Mean of one figure over the seeds of some recipes."""
    return fmean(getattr(run, which) for run in tuned if run.recipe in recipes)


def summarise(bases: Sequence[Pretrained], tuned: Sequence[Tuned], costs: Sequence[_sara_cost.Cost]) -> Result:
    """Claims, tables measured beside expected, and the plots."""
    from . import _sara_plots as plots

    tables = [_tuning_table(bases, tuned), _zeroing_table(bases)]
    if costs:
        tables.append(_sara_cost.table(costs))
    return Result(_tuning_claims(tuned) + _zeroing_claims(bases), tables, plots.figures(bases, tuned))


def _tuning_claims(tuned: Sequence[Tuned]) -> list[Claim]:
    return [
        _ratio(Claim.above, tuned, "old", RANDOM, (SARA,), 1.0),
        _ratio(Claim.at_most, tuned, "old", (SARA,), (LARGEST,), 0.8),
        _ratio(Claim.above, tuned, "new", RANDOM, (SARA,), 1.0),
    ]


def _ratio(
    kind: Callable[[str, float, float, str], Claim],
    tuned: Sequence[Tuned],
    which: str,
    one: tuple[str, ...],
    other: tuple[str, ...],
    bound: float,
) -> Claim:
    """A claim about a mean loss of some recipes over that of others."""
    found = [mean(tuned, which, *names) for names in (one, other)]
    expected = [EXPECTED[names[0]][which == "old"] for names in (one, other)]
    text = f"{one[0]} ÷ {other[0]}: loss on {which} data after fine-tuning"
    note = f"{found[0]:.4f} ÷ {found[1]:.4f}; expected {expected[0]:.3f} ÷ {expected[1]:.3f}"
    return kind(text, found[0] / found[1], bound, note)


def _zeroing_claims(bases: Sequence[Pretrained]) -> list[Claim]:
    before = fmean(base.old for base in bases)
    smallest, random = (fmean(base.zeroed[choice, 0.2] for base in bases) for choice in ("smallest", "random"))
    note = "{:.4f} from {:.4f}; expected {:.4f} from 0.0616"
    return [
        Claim.at_most(
            "the smallest 20 % of the weights set to zero: relative change of the loss on old data",
            abs(smallest / before - 1),
            0.05,
            note.format(smallest, before, EXPECTED_ZEROED["smallest", 0.2]),
        ),
        Claim.above(
            "random 20 % set to zero: loss on old data ÷ that of the whole model",
            random / before,
            3.0,
            note.format(random, before, EXPECTED_ZEROED["random", 0.2]),
        ),
    ]


def _tuning_table(bases: Sequence[Pretrained], tuned: Sequence[Tuned]) -> Table:
    seeds = ", ".join(str(base.seed) for base in bases)
    caption = (
        f"ε-prediction loss, lower is better, mean of seeds {seeds}; expected: mean of seeds 0, 1. Below θ: share of"
        " the trained weights that are still smaller than the threshold at the end."
    )
    header = ["what is trained", "numbers", "new data", "expected", "old data", "expected", "below θ", "expected"]
    new, old = fmean(base.new for base in bases), fmean(base.old for base in bases)
    rows = [["before", "", f"{new:.2f}", f"{EXPECTED_BEFORE[0]}", f"{old:.4f}", f"{EXPECTED_BEFORE[1]}", "", ""]]
    rows += [_tuning_row(tuned, name) for name in dict.fromkeys(run.recipe for run in tuned)]
    return Table(caption, header, rows)


def _tuning_row(tuned: Sequence[Tuned], name: str) -> list[str]:
    runs = [run for run in tuned if run.recipe == name]
    new, old, below = EXPECTED.get(name, (None, None, None))
    digits = 4 if RECIPES[name].steps == 300 else 3
    still = [run.below for run in runs if run.below is not None]
    return [
        name,
        f"{runs[0].trained:,}",
        f"{mean(runs, 'new', name):.{digits}f}",
        "" if new is None else f"{new:.{digits}f}",
        f"{mean(runs, 'old', name):.{digits}f}",
        "" if old is None else f"{old:.{digits}f}",
        f"{fmean(still):.1%}" if still else "",
        "" if below is None else f"{below:.1%}",
    ]


def _zeroing_table(bases: Sequence[Pretrained]) -> Table:
    base = bases[0]
    rows = [
        [choice, f"{share:.1%}", f"{loss:.4f}", f"{EXPECTED_ZEROED[choice, share]:.4f}"]
        for (choice, share), loss in base.zeroed.items()
        if (choice, share) in EXPECTED_ZEROED
    ]
    caption = f"Loss on old data after setting weights to zero, seed {base.seed}. Untouched: {base.old:.4f} (0.0616)."
    return Table(caption, ["weights set to zero", "share", "loss", "expected"], rows)
