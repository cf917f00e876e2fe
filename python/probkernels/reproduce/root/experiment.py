"""ROOT and gradient ascent on TF-Bind-8 and GB1, or on an Ehrlich function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...blackbox import ROOT, DiscreteDesigns, Ehrlich
from ...kernel_methods import GPPosteriorMean
from ..harness import data_files
from ..harness.method import Progress
from ..harness.workers import run_jobs
from .records import ASCENT, AWAY, BEST, EHRLICH, GB1, LABELS, NO_LABELS, SEEDS, SIZES, SWAPPED, TF_BIND, Proposals

Job = tuple[str, int, int, Path | None]
STARTS, NOISE_SEEDS = 128, 4
TARGET = 0.8  # the label asked for, as a share of the way from the mean of the data to the largest score that exists


class Problem(NamedTuple):
    """Known designs and their scores, and what scores proposals."""

    letters: int
    x: Tensor
    y: Tensor
    score: Callable[[Tensor], Tensor]
    largest: float | None  # score that exists; None: the label asked for is the default of ROOT.propose


class Swapped(nn.Module):
    """A network that gets its labels in the wrong order, as the official sampling does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The output for swapped labels."""
        found: Tensor = self.net(x, t, labels.flip(1))
        return found


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Proposals]:
    """Runs all jobs in parallel."""
    planned = jobs(quick, data)
    return [r for found in run_jobs(work, planned, progress.bar("experiments", len(planned))) for r in found]


def jobs(quick: bool, data: Path | None = None) -> list[Job]:
    """(task, epochs, seed, folder of the data) of every experiment, the longest first."""
    sizes = [(EHRLICH, 3)]
    if data_files.has(data, "tf_bind_8"):
        sizes = [(TF_BIND, 3)] if quick else [(TF_BIND, 20), (TF_BIND, 6), (TF_BIND, 3)]
    if not quick and data_files.has(data, "gb1_landscape"):
        sizes.append((GB1, 3))
    seeds = SEEDS[:1] if quick and sizes == [(EHRLICH, 3)] else SEEDS
    return [(task, epochs, seed, None if task == EHRLICH else data) for task, epochs in sizes for seed in seeds]


def work(task: str, epochs: int, seed: int, folder: Path | None, advance: Callable[[float], None]) -> list[Proposals]:
    """Fits ROOT and the Gaussian process, and scores their proposals."""
    problem = ehrlich() if folder is None else gb1(folder) if task == GB1 else tf_bind(folder)
    found = compare(task, epochs, seed, problem, *SIZES[epochs])
    advance(1)
    return found


def tf_bind(folder: Path) -> Problem:
    """The poorer half of all DNA sequences of length 8, their scores, and the table of all scores."""
    data = data_files.load(folder, "tf_bind_8")
    return poorer_half(4, torch.from_numpy(data["x"]).long(), torch.from_numpy(data["y"]).float())


def gb1(folder: Path) -> Problem:
    """The poorer half of the measured variants of GB1 at four sites, and the table of all; unmeasured ones score 0."""
    data = data_files.load(folder, "gb1_landscape")
    problem = poorer_half(20, torch.from_numpy(data["variant"]).long(), torch.from_numpy(data["fitness"]).float())
    return problem._replace(largest=None)  # 8.8 is thousands of standard deviations above the poorer half


def poorer_half(letters: int, x: Tensor, y: Tensor) -> Problem:
    """The designs with a score up to the median, their scores, and a function that looks up the score of a design."""
    place = letters ** torch.arange(x.shape[1])
    table = torch.zeros(letters ** x.shape[1])
    table[(x * place).sum(1)] = y
    offline = y <= y.double().quantile(0.5).float()
    return Problem(letters, x[offline], y[offline], lambda designs: table[(designs * place).sum(1)], float(y.max()))


def ehrlich() -> Problem:
    """Feasible sequences of an Ehrlich function with a score below 0.4, their scores, and the function."""
    f = Ehrlich(letters=4, length=12, motifs=2, motif_length=4)
    x = f.random_designs(10_000, torch.Generator().manual_seed(0))
    y = f(x)
    return Problem(f.letters, x[y < 0.4][:5000], y[y < 0.4][:5000], f, 1.0)


def compare(
    task: str, epochs: int, seed: int, problem: Problem, points: int, starts: int, **settings: int
) -> list[Proposals]:
    """The scores of all methods' proposals."""
    letters, x, y, score, largest = problem

    def record(method: str, drawn: list[Tensor]) -> Proposals:
        scores = torch.stack([score(designs).float() for designs in drawn])
        top, upper, middle = (float(scores.quantile(q, 1).mean()) for q in (1.0, 0.8, 0.5))
        return Proposals(task, epochs, method, seed, top, upper, middle, sorted(scores[0].tolist()))

    best = x[y.argsort(descending=True, stable=True)[:STARTS]]
    found = [record(BEST, [best]), record(ASCENT, [ascend(letters, x, y, best, points, seed)])]
    chosen = {"points": points, "starts": starts, "width": 256, "epochs": epochs, **settings}
    root = ROOT(letters, seed=seed, **chosen).fit(x, y)  # type: ignore[arg-type]
    assert root.net is not None
    right = root.net
    mean = float(y.double().mean())
    target = None if largest is None else mean + TARGET * (largest - mean)
    for method, guidance in ((LABELS, 1.0), (NO_LABELS, 0.0), (AWAY, -0.5), (SWAPPED, 1.0)):
        root.net = Swapped(right) if method == SWAPPED else right
        options: dict[str, Any] = {"guidance": guidance, "target": target, "steps": 50}
        drawn = [root.propose(len(best), seed=s, **options) for s in range(NOISE_SEEDS)]
        found.append(record(method, drawn))
    return found


def ascend(letters: int, x: Tensor, y: Tensor, best: Tensor, points: int, seed: int) -> Tensor:
    """100 steps of gradient ascent from the best designs, on the posterior mean of one Gaussian process."""
    designs = DiscreteDesigns(letters, x.shape[1])
    codes, state = designs.encode(x), designs.encode(best)
    mean, std = codes.mean(0), codes.std(0)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:points]
    gp = GPPosteriorMean((codes[rows] - mean) / std, (y[rows] - y.mean()) / y.std(), 6.25, 6.25)
    state = (state - mean) / std
    for _ in range(100):
        state = state + 0.05 * gp.value_and_grad(state)[1]
    return designs.decode(state * std + mean)
