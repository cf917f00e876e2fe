"""AdjointDPM: gradients through a diffusion sampler, exact ones compared with the continuous adjoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion import Denoiser, decode, invert, sample
from ...training import minimize
from ..harness import datasets
from ..harness.method import Progress
from ..harness.workers import Workers
from . import model as trained
from . import peers
from .model import State
from .records import (
    ATTACKED,
    ATTACKS,
    CONTINUOUS,
    EXACT,
    LENGTHS,
    METHODS,
    ONE_STEP,
    QUICK_METHODS,
    QUICK_SEEDS,
    RATE,
    SEEDS,
    SOLVERS,
    STEP_LENGTH,
    TUNINGS,
    Agreement,
    Attack,
    Bytes,
    Errors,
    Judge,
    Record,
    RoundTrip,
    Tuning,
)


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Trains the model, then runs all jobs in parallel."""
    datasets.require_sklearn()
    steps, batch = (2000, 128) if quick else (8000, 256)
    planned = jobs(quick)
    with Workers(len(planned)) as workers:
        (found,) = workers.run(trained.train, [(steps, batch)], progress.bar("training", steps))
        *states, accuracy = found
        with_states = [(*job, tuple(states)) for job in planned]
        parts = workers.run(work, with_states, progress.bar("gradients", len(planned)))
    return [Judge(accuracy), *(record for part in parts for record in part)]


def jobs(quick: bool) -> list[tuple[Any, ...]]:
    """A task and its arguments; the longest first."""
    found: list[tuple[Any, ...]] = []
    for steps, seeds in sorted((QUICK_SEEDS if quick else SEEDS).items(), reverse=True):
        found += [("attack", steps, way, seed) for seed in seeds for way in (EXACT, CONTINUOUS)]
    found += [("attack", 20, ONE_STEP, 0)]
    found += [("tune", way) for way in (EXACT, CONTINUOUS)]
    found += [("errors", solver, steps) for solver, steps in (QUICK_METHODS if quick else METHODS)]
    return [*found, ("agree",), ("bytes",), ("round_trip",)]


def work(task: str, *arguments: Any) -> list[Record]:
    """Runs one job. Its last arguments are the trained states and the function that advances the progress bar."""
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
    """Tunes the weights towards the mean image of the zeros."""
    model, _ = trained.restore(states)
    images, labels = trained.digits()
    goal = images[labels == 0].mean(0)
    optimizer = torch.optim.Adam(model.requires_grad_().parameters(), lr=RATE)
    x_T = torch.randn(ATTACKED, 64, generator=torch.Generator().manual_seed(0))
    asked = torch.arange(ATTACKED) % 10

    def loss(step: int) -> Tensor:
        return (sample(model, x_T, solver="ddim", steps=20, cond=asked, grad=way) - goal).square().mean()

    losses = minimize(loss, optimizer, TUNINGS)
    return [Tuning(way, [*losses, loss(TUNINGS).item()])]


def _leaves(states: tuple[State, State], rows: int = 16) -> tuple[Denoiser, nn.Module, Tensor, Tensor, Tensor]:
    """Model and classifier in float64, x_T (B, 64), embeddings (B, 32) and targets (B,)."""
    model, judge = trained.restore(states, torch.float64)
    model.requires_grad_()
    labels = torch.arange(rows) % 10
    x_T = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    cond = model.net.classes(labels).detach().requires_grad_()  # type: ignore[operator]
    return model, judge, x_T, cond, (labels + 1) % 10


def _gradient(states: tuple[State, State], draw: Callable[[Denoiser, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Gradient of the attack's loss to x_T, the embeddings and all weights, as one vector."""
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
