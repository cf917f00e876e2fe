"""AdjointDPM: what gradients through a diffusion sampler are good for, and what exact ones are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion import Denoiser, decode, invert, sample
from . import _adjoint_dpm_model as trained
from . import _adjoint_dpm_peers as peers
from . import _circuits_data as data_sets
from ._adjoint_dpm_model import State
from ._method import Method, Progress, Result
from ._workers import run_jobs

METHOD = Method(
    title="AdjointDPM: Adjoint Sensitivity Method for Gradient Backpropagation of Diffusion Probabilistic Models",
    paper="Pan, Liew, Tan, Feng, Yan. ICLR 2024, arXiv:2307.10711",
    experiment=(
        "A diffusion model of scikit-learn's 8 × 8 digits is changed through gradients of what it samples: its noise"
        " is moved until a classifier takes each sample for the next digit (the paper's attack), and its weights until"
        " it draws one image. The gradient comes from the paper's continuous adjoint or from the exact discrete adjoint"
        " of the same sampler, at the same memory. Both are compared with automatic differentiation of all steps."
    ),
)

EXACT, CONTINUOUS, ONE_STEP = "exact", "continuous", "one step"
SEEDS = {10: (0, 1, 2, 3, 4), 20: (0, 1, 2, 3, 4), 50: (0, 1, 2)}
QUICK_SEEDS: dict[int, tuple[int, ...]] = {10: (0, 1), 20: (0,)}
ATTACKS, STEP_LENGTH, ATTACKED = 15, 0.5, 64  # steps of the attack, their length, images
TUNINGS, RATE = 15, 1e-3
METHODS = (("ddim", 10), ("ddim", 20), ("ddim", 50), ("midpoint", 20), ("rk4", 20))
QUICK_METHODS = (("ddim", 10), ("ddim", 20), ("midpoint", 20))
SOLVERS = ("ddim", "dpmpp_2m", "ab3", "unipc", "heun", "alf", "obelm")  # held against automatic differentiation
LENGTHS = (10, 20, 50, 100)  # steps at which bytes are counted
NAMES = {"ddim": "Euler (DDIM)"}

# Another program's figures: success of the attack by steps and gradient; relative error of the continuous adjoint to
# x_T, condition and weights; loss before tuning and after.
EXPECTED_ATTACK = {(10, EXACT): 0.966, (10, CONTINUOUS): 0.0, (20, EXACT): 0.984, (20, CONTINUOUS): 0.981,
                   (50, EXACT): 0.994, (50, CONTINUOUS): 0.984, (20, ONE_STEP): 0.03}  # fmt: skip
EXPECTED_ERRORS = {("ddim", 10): "1.03 / 0.34 / 0.46", ("ddim", 20): "0.92 / 0.16 / 0.21",
                   ("ddim", 50): "0.49 / 0.06 / 0.08", ("midpoint", 20): "0.53 / 0.006 / 0.037",
                   ("rk4", 20): "1e-4"}  # fmt: skip
EXPECTED_TUNING = {EXACT: 0.1941, CONTINUOUS: 0.1965}
EXPECTED_BEFORE = 0.3575


@dataclass
class Attack:
    """Images whose noise was moved towards another digit."""

    steps: int
    gradient: str
    seed: int
    success: list[float]  # share taken for the target before each step of the attack, and after the last
    before: list[list[float]] = field(default_factory=list)  # some of the samples, 64 pixels each
    after: list[list[float]] = field(default_factory=list)


@dataclass
class Errors:
    """|gradient - exact| / |exact| to x_T, the condition and the weights, and the cosine of both gradients to x_T."""

    solver: str
    steps: int
    way: str  # "continuous adjoint" or "torchdiffeq"
    errors: tuple[float, float, float]
    cosine: float


@dataclass
class Agreement:
    """The exact gradient's largest relative gap to automatic differentiation over all inputs, in float64."""

    solver: str
    gap: float


@dataclass
class Tuning:
    """Mean squared distance of samples from the goal, before each step of tuning and after the last."""

    gradient: str
    losses: list[float]


@dataclass
class Bytes:
    """What autograd keeps of one run, for each of LENGTHS."""

    gradient: str
    saved: list[int]
    state: int  # bytes of one state


@dataclass
class RoundTrip:
    """Pixels that differ after images were inverted and decoded."""

    steps: int
    differing: int


Record = Attack | Errors | Agreement | Tuning | Bytes | RoundTrip
Kind = TypeVar("Kind", bound=Record)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains a model, then everything else side by side; ``quick`` trains less and takes fewer seeds and methods."""
    data_sets.require_sklearn()
    steps, batch = (2000, 128) if quick else (8000, 256)
    (found,) = run_jobs(trained.train, [(steps, batch)], progress.bar("training", steps))
    *states, accuracy = found
    jobs = [(*job, tuple(states)) for job in make_jobs(quick)]
    records = run_jobs(work, jobs, progress.bar("gradients", len(jobs)))
    return summarise([record for part in records for record in part], accuracy)


def make_jobs(quick: bool) -> list[tuple[Any, ...]]:
    """A task and its arguments; the longest first."""
    jobs: list[tuple[Any, ...]] = []
    for steps, seeds in sorted((QUICK_SEEDS if quick else SEEDS).items(), reverse=True):
        jobs += [("attack", steps, way, seed) for seed in seeds for way in (EXACT, CONTINUOUS)]
    jobs += [("attack", 20, ONE_STEP, 0)]
    jobs += [("tune", way) for way in (EXACT, CONTINUOUS)]
    jobs += [("errors", solver, steps) for solver, steps in (QUICK_METHODS if quick else METHODS)]
    return [*jobs, ("agree",), ("bytes",), ("round_trip",)]


def work(task: str, *arguments: Any) -> list[Record]:
    """One job; its last arguments are the trained states, and what moves the progress bar on."""
    *rest, states, advance = arguments
    found = TASKS[task](*rest, states)
    advance(1)
    return found


# --- tasks ---


def _attack(steps: int, way: str, seed: int, states: tuple[State, State]) -> list[Record]:
    model, judge = trained.restore(states)
    labels = torch.arange(ATTACKED) % 10
    target = (labels + 1) % 10
    x_T = torch.randn(ATTACKED, 64, generator=torch.Generator().manual_seed(seed))
    done = Attack(steps, way, seed, [])
    shown = slice(0, 10)
    for _ in range(ATTACKS):
        x_T.requires_grad_()
        x0 = sample(model, x_T, solver="ddim", steps=steps, cond=labels, grad=None if way == ONE_STEP else way)
        done.success.append(_share(judge, x0, target))
        done.before = done.before or x0.detach()[shown].tolist()
        judged = model.x0(x_T, model.process.t_max, labels) if way == ONE_STEP else x0
        (grad,) = torch.autograd.grad(F.cross_entropy(judge(judged), target, reduction="sum"), x_T)
        x_T = x_T.detach() - STEP_LENGTH * F.normalize(grad)
    x0 = sample(model, x_T, solver="ddim", steps=steps, cond=labels)
    done.success.append(_share(judge, x0, target))
    done.after = x0[shown].tolist()
    return [done]


def _share(judge: nn.Module, x: Tensor, target: Tensor) -> float:
    return float((judge(x.detach()).argmax(1) == target).float().mean())


def _tune(way: str, states: tuple[State, State]) -> list[Record]:
    """To the mean image of the zeros."""
    model, _ = trained.restore(states)
    images, labels = trained.digits()
    goal = images[labels == 0].mean(0)
    optimizer = torch.optim.Adam(model.requires_grad_().parameters(), lr=RATE)
    x_T = torch.randn(ATTACKED, 64, generator=torch.Generator().manual_seed(0))
    asked = torch.arange(ATTACKED) % 10
    done = Tuning(way, [])
    for step in range(TUNINGS + 1):
        optimizer.zero_grad()
        loss = (sample(model, x_T, solver="ddim", steps=20, cond=asked, grad=way) - goal).square().mean()
        done.losses.append(float(loss.detach()))
        if step < TUNINGS:
            loss.backward()
            optimizer.step()
    return [done]


def _leaves(states: tuple[State, State], rows: int = 16) -> tuple[Denoiser, nn.Module, Tensor, Tensor, Tensor]:
    """Model and classifier in float64, x_T (B, 64), embeddings (B, 32) and targets (B,)."""
    model, judge = trained.restore(states, torch.float64)
    model.requires_grad_()
    labels = torch.arange(rows) % 10
    x_T = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    cond = model.net.classes(labels).detach().requires_grad_()  # type: ignore[operator]
    return model, judge, x_T, cond, (labels + 1) % 10


def _gradient(states: tuple[State, State], draw: Callable[[Denoiser, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Of the attack's loss to x_T, the embeddings and all weights as one vector."""
    model, judge, x_T, cond, target = _leaves(states)
    loss = F.cross_entropy(judge(draw(model, x_T, cond)), target, reduction="sum")
    wanted = [x_T, cond, *model.parameters()]
    grads = torch.autograd.grad(loss, wanted, materialize_grads=True)  # the table of embeddings has no part in it
    return [grads[0], grads[1], torch.cat([g.flatten() for g in grads[2:]])]


def _by(solver: str, steps: int, way: str) -> Callable[[Denoiser, Tensor, Tensor], Tensor]:
    return lambda model, x_T, cond: sample(model, x_T, solver=solver, steps=steps, cond=cond, grad=way)


def _gaps(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(one, other, strict=True)]


def _errors(solver: str, steps: int, states: tuple[State, State]) -> list[Record]:
    exact = _gradient(states, _by(solver, steps, EXACT))
    ways = {"continuous adjoint": _by(solver, steps, CONTINUOUS)}
    if solver in peers.TORCHDIFFEQ and peers.has_torchdiffeq():
        ways["torchdiffeq"] = lambda model, x_T, cond: peers.by_torchdiffeq(model, x_T, cond, solver, steps)
    found: list[Record] = []
    for name, draw in ways.items():
        grads = _gradient(states, draw)
        to_x, to_cond, to_weights = _gaps(grads, exact)
        cosine = float(F.cosine_similarity(grads[0].flatten(), exact[0].flatten(), dim=0))
        found.append(Errors(solver, steps, name, (to_x, to_cond, to_weights), cosine))
    return found


def _agree(states: tuple[State, State]) -> list[Record]:
    found: list[Record] = []
    for solver in SOLVERS:
        grads = [_gradient(states, _by(solver, 20, way)) for way in (EXACT, "autograd")]
        found.append(Agreement(solver, max(_gaps(*grads))))
    return found


def _bytes(states: tuple[State, State]) -> list[Record]:
    model, _ = trained.restore(states)
    x_T = torch.zeros(ATTACKED, 64, requires_grad=True)
    asked = torch.zeros(ATTACKED, dtype=torch.long)
    found: list[Record] = []
    for way, solver in (("autograd", "ddim"), (EXACT, "ddim"), (CONTINUOUS, "ddim"), ("reversible", "alf")):
        saved = []
        for steps in LENGTHS:
            with peers.counting_saved_bytes() as count:
                sample(model, x_T, solver=solver, steps=steps, cond=asked, grad=way)
            saved.append(count())
        found.append(Bytes(way, saved, x_T.numel() * x_T.element_size()))
    return found


def _round_trip(states: tuple[State, State]) -> list[Record]:
    model, _ = trained.restore(states)
    images, labels = (part[:ATTACKED] for part in trained.digits())
    found: list[Record] = []
    for steps in LENGTHS:
        back = decode(model, invert(model, images, steps=steps, cond=labels), cond=labels)
        found.append(RoundTrip(steps, int((back != images).sum())))
    return found


TASKS: dict[str, Callable[..., list[Record]]] = {
    "attack": _attack,
    "tune": _tune,
    "errors": _errors,
    "agree": _agree,
    "bytes": _bytes,
    "round_trip": _round_trip,
}


# --- what they show ---


def of_kind(records: Sequence[Record], kind: type[Kind]) -> list[Kind]:
    """The records of one kind, in order."""
    return [record for record in records if isinstance(record, kind)]


def summarise(records: Sequence[Record], accuracy: float) -> Result:
    """Claims, tables and pictures; ``accuracy`` is the classifier's."""
    from . import _adjoint_dpm_plots as plots
    from ._adjoint_dpm_claims import claims, tables

    return Result(claims(records), tables(records, accuracy), plots.figures(records))
