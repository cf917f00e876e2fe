"""Trains every way on every split, and counts the bytes that are kept for backward passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from ... import local_learning as ll
from ..harness import data_files
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from . import peers
from .records import BLOCKS, BP, DEPTHS, LINEAR, MEMORY_DEPTHS, QUICK_SPLITS, SF, SPLITS, Memory, Trained  # fmt: skip

EPOCHS, PATIENCE = 1000, 100  # of each layer; validations, one every second epoch
QUICK_EPOCHS = 300


def jobs(quick: bool) -> list[tuple[str, int, str]]:
    """Data set, split and way."""
    splits = {BLOCKS: QUICK_SPLITS} if quick else SPLITS
    return [(data, split, way) for data, own in splits.items() for split in own for way in (SF, BP)]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Trained | Memory]:
    """Runs all jobs in parallel, those of files only if ``data`` is given, and counts bytes."""
    todo = [job for job in jobs(quick) if job[0] == BLOCKS or data is not None]
    for name in {job[0] for job in todo} - {BLOCKS}:
        assert data is not None
        data_files.load(data, toy.FILES[name])  # a missing file shows before the training
    full = [(*job, str(data), QUICK_EPOCHS if quick else EPOCHS) for job in todo]
    found = run_jobs(work, full, progress.bar("training", len(DEPTHS) * len(todo)))
    return [*(record for records in found for record in records), *memory()]


def work(name: str, split: int, way: str, folder: str, epochs: int, advance: Callable[[float], None]) -> list[Trained]:
    """Trains one way at all depths; a single-forward network contains the shallower ones."""
    data = toy.load(name, split, folder)
    torch.manual_seed(10100 + 3 * split)
    if way == SF:
        model = ll.SingleForward(toy.gcn(data.x.shape[1], max(DEPTHS)), data.classes, seed=split)
        model.fit(
            data.x, data.edges, data.y, data.train, data.val, epochs=epochs, patience=PATIENCE, progress=False
        )  # fmt: skip
        advance(len(DEPTHS))
        found = model.layer_accuracy(data.y, data.test, cumulative=True)
        return [Trained(name, split, SF, depth, 100 * value) for depth, value in zip(DEPTHS, found, strict=True)]
    records = [Trained(name, split, LINEAR, 1, peers.linear(data, epochs, PATIENCE))]
    for depth in DEPTHS:
        records.append(Trained(name, split, BP, depth, peers.back_propagation(data, depth, epochs, PATIENCE)))
        advance(1)
    return records


def memory() -> list[Memory]:
    """Bytes kept in one training step, with as many features as hidden units, so that all layers are alike."""
    data = toy.blocks(0, width=toy.HIDDEN)
    graph, x = ll.Graph(data.edges, len(data.y)), ll.graph.as_features(data.x)
    found = []
    for depth in MEMORY_DEPTHS:
        torch.manual_seed(0)
        model = ll.SingleForward(toy.gcn(toy.HIDDEN, depth), data.classes)
        fit = (data.x, data.edges, data.y, data.train)
        found.append(Memory(SF, depth, toy.Kept().of(lambda: model.fit(*fit, epochs=1, progress=False))))  # noqa: B023
        net = peers.Network(toy.gcn(toy.HIDDEN, depth, data.classes))
        step = toy.Kept().of(lambda: F.cross_entropy(net(x, graph)[data.train], data.y[data.train]).backward())  # noqa: B023
        found.append(Memory(BP, depth, step))
    return found
