"""Judges scores on drawn questions and on texts that GAAP perturbs; measures the variance of the lemma."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import uncertainty as un
from ..harness import data_files, image_jobs
from ..harness.method import Progress
from . import model
from .records import (
    DEGMAT,
    DISPERSION,
    DRAWN,
    EIGV,
    INV,
    KLE,
    MAX,
    NI,
    NR,
    POOLED,
    QUICK_SEEDS,
    SEEDS,
    SEMANTIC,
    WD,
    WORDNET,
    Judged,
    Lemma,
    Record,
)  # fmt: skip

QUESTIONS, TEXTS, OF_TSU, BOOTSTRAPS = 300, 100, 150, 30
TEMPERATURES = (0.3, 0.7, 1.0, 1.4)
DRAWS, SIGMA = 100_000, 1e-2
WALKS = {INV: "inv", NI: "ni", MAX: "max", WD: "wd"}
ORIGINAL = {
    DISPERSION: "dispersion", SEMANTIC: "semantic_entropy", DEGMAT: "degmat", EIGV: "eigv", KLE: "kle",
}  # fmt: skip
Advance = Callable[[float], None]


def jobs(quick: bool, data: Path | None = None) -> list[tuple[Any, ...]]:
    """All jobs, the longest first. A job is a task, its number of progress steps, and its arguments."""
    planned: list[tuple[Any, ...]] = []
    if data is not None and not quick:
        data_files.load(data, "wordnet")  # a file that cannot be used shows now
        planned += [("wordnet", 1, seed, data) for seed in QUICK_SEEDS]
    seeds = QUICK_SEEDS if quick else SEEDS
    return planned + [(task, 1, seed) for task in ("drawn", "lemma") for seed in seeds]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Runs all jobs in parallel."""
    found: list[Record] = image_jobs.run("questions", work, jobs(quick, data), progress)
    return found


def work(task: str, steps: int, *arguments: Any) -> list[Record]:
    """Runs one job. The last argument advances the progress bar."""
    *given, advance = arguments
    tasks: dict[str, Callable[..., list[Record]]] = {"drawn": _drawn, "wordnet": _wordnet, "lemma": _lemma}
    found = tasks[task](*given)
    advance(steps)
    return found


def _drawn(seed: int) -> list[Record]:
    generator = torch.Generator().manual_seed(seed)
    return judge(DRAWN, seed, model.draw(QUESTIONS, generator), generator)


def _wordnet(seed: int, folder: Path) -> list[Record]:
    generator = torch.Generator().manual_seed(seed)
    substitutes = model.synonyms(data_files.load(folder, "wordnet"))
    gaap = un.GAAP(substitutes, model.ngrams, count=model.VERSIONS - 1, generator=generator)
    versions = [[text, *gaap(text)] for text in model.texts(TEXTS, generator)]
    x = torch.stack([model.ngrams(texts) for texts in versions])
    return judge(WORDNET, seed, model.of_texts(x, generator), generator)


def judge(source: str, seed: int, questions: model.Questions, generator: torch.Generator) -> list[Record]:
    """Scores replies at temperature 1 and at four others, and judges the scores."""
    right = questions.ask(1.0, 1, generator)[:, 0, 0] == 0
    found = scores(questions, 1.0, generator)
    some = model.Questions(questions.x[:OF_TSU], questions.logits[:OF_TSU], questions.answers[:OF_TSU])
    each = [scores(some, temperature, generator) for temperature in TEMPERATURES]
    records: list[Record] = []
    for name, values in found.items():
        rising = torch.stack([one[name] for one in each], -1)
        two, four = un.tsu(rising[:, [0, -1]]).item(), un.tsu(rising).item()
        records.append(Judged(source, name, seed, un.auroc(-values, right).item(), two, four))
    return records


def scores(questions: model.Questions, temperature: float, generator: torch.Generator) -> dict[str, Tensor]:
    """All scores (Q,) of replies at a temperature."""
    replies = questions.ask(temperature, model.REPLIES, generator)
    sx = un.similarity_matrix(questions.x)
    sy = un.similarity_matrix(questions.embed(replies, generator))
    start, found = generator.get_state(), {}
    for name, measure in WALKS.items():
        generator.set_state(start)  # the same bootstraps for all measures
        draws = un.bootstrap_inv_entropy(sx, sy, model.REPLIES, BOOTSTRAPS, measure, generator=generator)
        found[name] = draws.mean(-1)
    first = torch.arange(model.VERSIONS) * model.REPLIES
    found[NR] = un.inv_entropy(sx, sy[:, first][..., first])
    found[POOLED] = un.blackbox_uncertainty(sy, "semantic_entropy")
    original = sy[:, : model.REPLIES, : model.REPLIES]
    return found | {name: un.blackbox_uncertainty(original, measure) for name, measure in ORIGINAL.items()}


def _lemma(seed: int) -> list[Record]:
    """Noise that is orthogonal to the gradient of a network ``truth``, through another network ``fitted``."""
    torch.manual_seed(seed)
    truth, fitted = (nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).double() for _ in range(2))
    x = torch.randn(8, dtype=torch.float64, requires_grad=True)
    h, g = (torch.autograd.grad(f(x)[0], x)[0] for f in (truth, fitted))
    z = SIGMA * torch.randn(DRAWS, 8, dtype=torch.float64)
    with torch.no_grad():
        measured = fitted(x + z - torch.outer(z @ h, h) / h.dot(h)).var().item()
    return [Lemma(seed, (g.dot(h) / g.norm() / h.norm()).item(), measured, variance(g, h, SIGMA))]


def variance(g: Tensor, h: Tensor, sigma: float) -> float:
    """Variance of a function of gradient ``g`` under noise that is orthogonal to ``h``, to first order: that of
    Lemma 2.1."""
    return (sigma**2 * (g.dot(g) - g.dot(h) ** 2 / h.dot(h))).item()
