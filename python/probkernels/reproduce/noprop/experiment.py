"""Trains digits in six ways, and counts the bytes that autograd keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...local_learning import LabelSchedule, NoPropCT, NoPropDT, NoPropFM, fit_noprop
from ...training import minimize
from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from .records import BP, CHAIN, CT, DEPTHS, DIGITS, DT, FM, LINEAR, ONE_BLOCK, QUIET, SEEDS, Kept, Trained

BLOCKS, BATCH, EPOCHS, RUNS = 10, 128, 60, 3
LARGER = {  # of --data: files, epochs
    "mnist1d": (("mnist1d",), 60),
    "fashion": (("fashion_mnist_train", "fashion_mnist_test", "fashion_mnist_labels"), 5),
    "mnist": (("mnist",), 5),
}

Job = tuple[str, str, int, int]


def jobs(quick: bool) -> list[Job]:
    """Data set, way, seed and epochs. DT is judged with and without noise."""
    seeds = SEEDS[:1] if quick else SEEDS
    return [(DIGITS, way, seed, EPOCHS) for way in (DT, CT, FM, BP, LINEAR) for seed in seeds]


def larger_jobs(data: Path) -> list[Job]:
    """What --data adds to the full run."""
    return [
        (name, way, 0, epochs)
        for name, (files, epochs) in LARGER.items()
        for way in (DT, FM, BP, LINEAR)
        if all(data_files.has(data, file) for file in files)
    ]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Trained | Kept]:
    """Runs all jobs in parallel, then counts bytes."""
    datasets.require_sklearn()
    planned = jobs(quick) + (larger_jobs(data) if data is not None and not quick else [])
    todo: list[tuple[Any, ...]] = [(*job, data) for job in planned]
    found = run_jobs(work, todo, progress.bar("training", len(todo)))
    return [*(record for records in found for record in records), *memory()]


def work(
    name: str, way: str, seed: int, epochs: int, folder: Path | None, advance: Callable[[float], None]
) -> list[Trained]:
    """Trains one classifier and judges it."""
    data = toy.load(name, folder)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    if way in (BP, LINEAR):
        net = toy.mlp(data.x.shape[1]) if way == BP else nn.Linear(data.x.shape[1], toy.CLASSES)
        back_propagation(net, data, epochs, generator)
        with torch.no_grad():
            found = {way: [_right(net(data.x_test).argmax(1), data)]}
    else:
        found = no_prop(way, data, epochs, generator)
    advance(1)
    return [Trained(name, key, seed, epochs, values) for key, values in found.items()]


def no_prop(way: str, data: toy.Data, epochs: int, generator: torch.Generator) -> dict[str, list[float]]:
    """Trains one of the NoProp models; accuracies of inference runs."""
    inputs = data.x.shape[1]
    made: NoPropDT | NoPropCT | NoPropFM
    if way == DT:
        made = NoPropDT([toy.Block(inputs) for _ in range(BLOCKS)], toy.CLASSES)
    else:
        made = (NoPropCT if way == CT else NoPropFM)(toy.TimeNet(inputs), toy.CLASSES)
    fit_noprop(made, data.x, data.y, epochs=epochs, batch_size=BATCH, generator=generator, progress=False)

    def runs(**options: Any) -> list[float]:
        return [_right(made.predict(data.x_test, **options, generator=generator), data) for _ in range(RUNS)]

    if way == DT:
        return {DT: runs(), QUIET: runs(noise=False)}
    return {way: runs(steps=1000 if way == CT else 100)}


def back_propagation(net: nn.Module, data: toy.Data, epochs: int, generator: torch.Generator) -> None:
    """Trains a network in the usual way, with the optimizer of the blocks."""
    batches: list[Tensor] = []

    def loss(n: int) -> Tensor:
        if not batches:
            batches.extend(torch.randperm(len(data.x), generator=generator).split(BATCH))
        rows = batches.pop()
        return nn.functional.cross_entropy(net(data.x[rows]), data.y[rows])

    steps = epochs * -(-len(data.x) // BATCH)
    minimize(loss, torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3), steps)


def _right(predicted: Tensor, data: toy.Data) -> float:
    return (predicted == data.y_test).double().mean().item()


def memory() -> list[Kept]:
    """Bytes kept for backward by one block's step, and by back-propagation through the chain of blocks."""
    x, y = torch.rand(BATCH, 64), torch.arange(BATCH) % toy.CLASSES
    found = []
    for count in DEPTHS:
        made = NoPropDT([toy.Block(64) for _ in range(count)], toy.CLASSES, schedule=LabelSchedule.cosine(count))

        def through(made: NoPropDT = made) -> Tensor:
            z, table = torch.randn(BATCH, toy.CLASSES), made.embedding.table()
            for t, block in enumerate(made.blocks, 1):
                z = made.schedule.step(t, z, block(z, x).softmax(1) @ table)
            return nn.functional.cross_entropy(made.head(z), y)

        def alone(made: NoPropDT = made) -> Tensor:
            return made.block_loss(1, x, y)

        found += [Kept(ONE_BLOCK, count, saved_bytes(alone)), Kept(CHAIN, count, saved_bytes(through))]
    return found


def saved_bytes(loss: Callable[[], Tensor]) -> int:
    """Bytes of the storages that autograd keeps while it waits for backward."""
    storages: dict[int, int] = {}
    alive = []

    def pack(t: Tensor) -> Tensor:
        alive.append(t)  # so that no address is used twice
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss()
    return sum(storages.values())
