"""Class-incremental learners: a softmax and ProtoCL, both with a memory that is replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import bnn
from ...training import minimize
from .records import ACCUMULATE, MIXED, REFRESH

CLASSES = 10
Advance = Callable[[float], None]
Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """The network and its training."""

    hidden: int = 256
    width: int = 128  # of an embedding
    epochs: int = 15  # of a task
    batch: int = 32
    lr: float = 1e-3
    support: int = 256  # random examples from which a refreshed posterior is computed in each step


def split(x: Tensor, y: Tensor) -> list[Examples]:
    """Tasks of two classes: 0 and 1, 2 and 3, and so on."""
    return [(x[y // 2 == t], y[y // 2 == t]) for t in range(CLASSES // 2)]


class Learner(nn.Module):
    """An encoder with a softmax or with a ``ProtoHead``, and a memory."""

    def __init__(self, way: str, pixels: int, memory: int, setting: Setting, seed: int) -> None:
        super().__init__()
        self.way, self.setting = way, setting
        hidden, width = setting.hidden, setting.width
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU())
        self.proto = way in (REFRESH, MIXED, ACCUMULATE)
        self.head: nn.Module = bnn.ProtoHead(width, CLASSES) if self.proto else nn.Linear(width, CLASSES)
        self.memory = bnn.ReplayMemory(memory, "task_balanced", seed=seed)
        self.generator = torch.Generator().manual_seed(seed)

    def learn(self, number: int, task: Examples, advance: Advance) -> None:
        """Learns a task, mixed with the memory repeated to its size, and remembers some of it."""
        x, y = task
        if len(self.memory):
            kept = self.memory.contents()
            repeats = max(len(x) // len(kept.x), 1)
            x, y = torch.cat([x, kept.x.repeat(repeats, 1)]), torch.cat([y, kept.y.repeat(repeats)])
        batches: list[Tensor] = []
        steps = -(-len(x) // self.setting.batch)

        def loss(n: int) -> Tensor:
            if n % steps == 0:
                batches[:] = torch.randperm(len(x), generator=self.generator).split(self.setting.batch)
                advance(1)
            rows = batches[n % steps]
            return self._loss(self.encoder(x[rows]), y[rows], (x, y))

        optimizer = torch.optim.Adam(self.parameters(), lr=self.setting.lr)
        minimize(loss, optimizer, self.setting.epochs * steps, after=lambda *_: self._after())
        self.memory.add(*task, number)
        self._refresh(x, y)

    @torch.no_grad()
    def accuracy(self, data: Examples) -> float:
        """Share of right predictions among the classes seen."""
        z = self.encoder(data[0])
        scores = self.head(z, seen=True) if self.proto else self.head(z)
        return float((scores.argmax(1) == data[1]).float().mean())

    def _loss(self, z: Tensor, y: Tensor, everything: Examples) -> Tensor:
        if not isinstance(self.head, bnn.ProtoHead):
            return F.cross_entropy(self.head(z), y)
        if self.way == ACCUMULATE:  # predicts by the posterior before the batch, then adds the embeddings
            loss = self.head.loss(z, y)
            self._pending = (z.detach(), y)
            return loss
        x, labels = everything
        rows = torch.randperm(len(x), generator=self.generator)[: self.setting.support]
        support = self.encoder(x[rows]), labels[rows]
        here = torch.bincount(labels[rows], minlength=CLASSES)[y] > 0  # a rare class may miss in the support
        return self.head.loss(z[here], y[here], support=support, seen=True)

    def _after(self) -> None:
        if self.way == ACCUMULATE and isinstance(self.head, bnn.ProtoHead):
            self.head.accumulate(*self._pending)

    def _refresh(self, x: Tensor, y: Tensor) -> None:
        """Statistics of the current encoder."""
        if self.way == MIXED:
            data = x, y
        elif self.way == REFRESH:
            data = self.memory.contents()[:2]
        else:
            return
        assert isinstance(self.head, bnn.ProtoHead)
        with torch.no_grad():
            self.head.refresh(self.encoder(data[0]), data[1])


def trained(
    way: str, memory: int, seed: int, train: Examples, test: Examples, setting: Setting, advance: Advance
) -> list[float]:
    """Accuracy after each task on the classes so far."""
    torch.manual_seed(seed)
    learner, found = Learner(way, train[0].shape[1], memory, setting, seed), []
    for number, task in enumerate(split(*train)):
        learner.learn(number, task, advance)
        so_far = test[1] // 2 <= number
        found.append(learner.accuracy((test[0][so_far], test[1][so_far])))
    return found
