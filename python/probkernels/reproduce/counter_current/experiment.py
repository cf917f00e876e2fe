"""Trains networks by each rule, and measures what gradients keep for their backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...local_learning import CounterCurrent
from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from .records import (
    AUTOGRAD,
    BLOCKWISE,
    CLOSED,
    DEPTHS,
    DIGITS,
    FASHION,
    IMAGE_RULES,
    MNIST,
    MNIST1D,
    PLAIN,
    QUICK_SEEDS,
    RULES,
    SEEDS,
    Kept,
    Trained,
)  # fmt: skip

FILES = {
    MNIST: ("mnist",),
    FASHION: ("fashion_mnist_train", "fashion_mnist_test", "fashion_mnist_labels"),
    MNIST1D: ("mnist1d",),
}
WIDTH, ROWS, CLASSES = 128, 128, 10  # where memory is measured


def jobs(quick: bool) -> list[tuple[str, str, int]]:
    """Data set, rule and seed, the longest first; the larger data sets need --data."""
    large = [] if quick else [(name, rule, 0) for name in FILES for rule in IMAGE_RULES]
    return [*large, *((DIGITS, rule, seed) for rule in RULES for seed in (QUICK_SEEDS if quick else SEEDS))]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Trained | Kept]:
    """Runs all jobs whose data are there in parallel. A full run with ``data`` needs all files."""
    datasets.require_sklearn()
    if data is not None and not quick:
        for file in (file for files in FILES.values() for file in files):
            if not data_files.has(data, file):
                data_files.load(data, file)  # says what is missing, before hours of training
    todo = [(*job, data) for job in jobs(quick) if job[0] == DIGITS or data is not None]
    total = sum(toy.SETUPS[job[0]].epochs for job in todo)
    found: list[Trained] = run_jobs(work, todo, progress.bar("training", total))
    return [*found, *memory()]


def work(name: str, rule: str, seed: int, folder: Path | None, advance: Callable[[float], None]) -> Trained:
    """Trains and judges one network."""
    data = toy.load(name, folder)
    best = toy.Best(data)

    def after(epoch: int, net: nn.Module) -> None:
        best(epoch, net)
        advance(1)

    trained = toy.train(rule, data, toy.SETUPS[name], seed, after)
    assert best.net is not None
    accuracy = toy.accuracy(best.net, data.test)[0]
    cosines = [] if trained is None else [float(c) for c in trained.angles()]
    cka = [] if trained is None else [float(c) for c in trained.cka(*(part[:500] for part in data.test))]
    return Trained(name, rule, seed, accuracy, best.curve, cosines, cka)


class Meter:
    """Counts the bytes that autograd keeps: the sum over tensors that are alive, but no parameters."""

    def __init__(self, net: nn.Module) -> None:
        self.own = {p.untyped_storage().data_ptr() for p in net.parameters()}
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def pack(self, t: Tensor) -> list[Tensor] | Box:
        """Notes a tensor that autograd saves."""
        storage = t.untyped_storage()
        place = storage.data_ptr()
        if place in self.own:
            return [t]
        box = Box(t)
        self.alive[place] = self.alive.get(place, 0) + 1
        self.now += storage.nbytes() if self.alive[place] == 1 else 0
        self.most = max(self.most, self.now)
        weakref.finalize(box, self._free, place, storage.nbytes())
        return box

    def _free(self, place: int, size: int) -> None:
        self.alive[place] -= 1
        self.now -= size if self.alive[place] == 0 else 0

    @staticmethod
    def unpack(box: list[Tensor] | Box) -> Tensor:
        """The tensor of a note."""
        return box.t if isinstance(box, Box) else box[0]


class Box:
    """A saved tensor."""

    def __init__(self, t: Tensor) -> None:
        self.t = t


def memory() -> list[Kept]:
    """Bytes kept for the backward pass, for networks of growing depth."""
    generator, found = torch.Generator().manual_seed(0), []
    x = torch.randn(ROWS, WIDTH, generator=generator)
    y = torch.randint(CLASSES, (ROWS,), generator=generator)
    for depth in DEPTHS:
        net = toy.network(*[WIDTH] * depth, CLASSES)
        model = CounterCurrent(net)

        def by_back_propagation(net: nn.Module = net) -> None:
            nn.functional.cross_entropy(net(x), y).backward()

        ways: dict[str, Callable[[], object]] = {PLAIN: by_back_propagation}
        for name, form in ((AUTOGRAD, "autograd"), (BLOCKWISE, "blockwise"), (CLOSED, "closed")):
            ways[name] = lambda model=model, form=form: model.gradients(x, y, form=form)  # type: ignore[misc]
        for name, way in ways.items():
            meter = Meter(model)
            with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
                way()
            found.append(Kept(name, depth, meter.most))
    return found
