"""Trains both networks from one autoencoder, and judges them on known and unknown classes."""

from __future__ import annotations

from pathlib import Path

import torch

from ... import uncertainty as un
from ..harness import datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from .records import DISTANCE, EPISTEMIC, PERCENTILE, POINT, PROB, QUICK_SEEDS, SEEDS, TOTAL, Judged

EPOCHS, SHOWN = 60, 7  # of each of three trainings; draws of a prototype in the plot


def jobs(quick: bool) -> list[tuple[int]]:
    """Seeds."""
    return [(seed,) for seed in (QUICK_SEEDS if quick else SEEDS)]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Judged]:
    """Runs all jobs in parallel."""
    datasets.require_sklearn()
    todo = jobs(quick)
    found = run_jobs(work, todo, progress.bar("training", 3 * EPOCHS * len(todo)))
    return [record for records in found for record in records]


def work(seed: int, advance: toy.Advance) -> list[Judged]:
    """Trains the networks of one seed and judges them."""
    torch.manual_seed(seed)
    data = toy.draw(seed)
    generator = torch.Generator().manual_seed(seed)
    start = toy.pretrained(data.train, EPOCHS, generator, advance)
    trained = {
        way: train(start, data.train, EPOCHS, generator, advance)
        for way, train in ((POINT, toy.points), (PROB, toy.gaussians))
    }
    return [judge(model, data, way, seed) for way, model in trained.items()]


@torch.no_grad()
def judge(model: un.ProbPSENN, data: toy.Data, way: str, seed: int) -> Judged:
    """Compares predictions and uncertainties on known and unknown classes."""
    (x, labels), every = data.test, torch.cat([data.test[0], data.unknown])
    generator = torch.Generator().manual_seed(seed)
    unknown = torch.arange(len(every)) >= len(x)
    model.remember_(*data.train)
    scores = model.uncertainty(every, 100, generator=generator)
    scores[EPISTEMIC] = scores[EPISTEMIC].round(decimals=6)  # 0 for points, whose spread is 1e-5
    scores[PERCENTILE] = scores.pop("expl_epistemic")
    del scores["expl_aleatoric"]
    scores[DISTANCE] = model.prototypes.mean_distances(model.encode(every)).amin(1)
    out = model(x, None if way == POINT else 100, generator=generator)
    assert model.decoder is not None and out.recon is not None
    wrong = out.mean_probs.argmax(1) != labels
    gallery = model.gallery(100, generator=generator)
    again = model.encode(gallery.flatten(0, 1))
    nearest = torch.cdist(again, model.prototypes.centers()).argmin(1).view(gallery.shape[:2])
    own = nearest == torch.arange(toy.KNOWN)[:, None]
    shown = torch.cat([model.decoder(model.prototypes.centers())[:, None], gallery[:, :SHOWN]], 1)
    spread = scores[EPISTEMIC]
    return Judged(
        way,
        seed,
        1 - float(wrong.float().mean()),
        {name: float(un.auroc(score, unknown)) for name, score in scores.items()},
        float(un.auroc(scores[TOTAL][: len(x)], wrong)),
        (float(spread[~unknown].mean()), float(spread[unknown].mean())),
        float((out.recon - x).square().mean()),
        float(own.float().mean()),
        shown.tolist() if seed == SEEDS[0] else [],
    )
