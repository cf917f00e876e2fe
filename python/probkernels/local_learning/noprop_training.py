"""Trains NoProp models: all blocks at once as batched products, one after the other, or on several processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import DataParallel, Loop
from ._block_stack import BlockStack
from ._denoising import check_batch_norm
from .noprop import NoPropDT
from .noprop_continuous import NoPropCT, NoPropFM

OP = "fit_noprop"


def fit_noprop(
    model: NoPropDT | NoPropCT | NoPropFM,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 1e-3,
    stacked: bool = True,
    generator: torch.Generator | None = None,
    group: dist.ProcessGroup | None = None,
    progress: bool = True,
) -> list[float]:
    """Trains a model in place, with the paper's optimizers: AdamW for the blocks of NoPropDT, Adam for one network.

    Each block has a noise stream of its own, seeded from ``generator``. With fixed vectors of the classes a block then
    becomes the same whether blocks are stacked, or train one after the other, or on other processes: up to rounding
    and unless it draws numbers itself, as dropout does.

    Args:
        model: the model. It is left in training mode.
        x: (N, ...) inputs on the model's device.
        y: (N,) classes.
        epochs: number of passes over the data.
        batch_size: rows of a batch. A last batch of one row joins the one before.
        lr: learning rate. What blocks share takes one step a batch instead of the T of the paper, at T times this rate.
        weight_decay: weight decay, of the vectors of classes too if they are learned.
        stacked: whether all T blocks of a NoPropDT train as one batched product. They must be alike and must not depend
            on Python values that differ. Else one after the other, which keeps one block's activations at a time.
        generator: source of the order of rows, of noise and of times.
        group: processes that share the blocks of a NoPropDT: process r of R trains blocks r + 1, r + 1 + R, ... All
            get the same data, the same model and generators in the same state, and end with the same model.
        progress: whether to show a progress bar.

    Returns:
        The loss of every step: for NoPropDT the mean over its blocks.

    Raises:
        TypeError, ValueError: data of a wrong dtype or shape or not finite, no rows, labels out of range, batch
            normalization over one row, blocks that are not alike, a group without a generator or with unequal ones, or
            more processes than blocks; or the loss of a step is not finite (the message names the step).

    Example:
        >>> import torch
        >>> from probkernels.local_learning import NoPropFM, fit_noprop
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2 + 2 + 1, 2)
        ...     def forward(self, z, x, t):
        ...         return self.layer(torch.cat([z, x, t[:, None]], 1))
        >>> x = torch.randn(64, 2)
        >>> losses = fit_noprop(NoPropFM(Net(), 2), x, (x[:, 0] > 0).long(), epochs=3, batch_size=32, progress=False)
        >>> len(losses)
        6
    """
    _check(model, x, y, group, generator)
    checks.integer(OP, "epochs", epochs)
    checks.integer(OP, "batch_size", batch_size)
    checks.positive(OP, "lr", lr)
    checks.non_negative(OP, "weight_decay", weight_decay)
    model.train()
    check_batch_norm(OP, model, min(len(x), batch_size))
    batches = _batches(len(x), batch_size, epochs, generator)
    steps = epochs * len(_parts(torch.arange(len(x)), batch_size))
    team = DataParallel(group)
    work = _Blocks(model, team, stacked, lr, generator) if isinstance(model, NoPropDT) else _OneNet(model, generator)
    kind = torch.optim.AdamW if isinstance(model, NoPropDT) else torch.optim.Adam
    optimizer = kind(work.parameters, lr=lr, weight_decay=weight_decay, fused=x.device.type in ("cpu", "cuda"))
    losses: list[float] = []
    try:
        with Loop(steps, progress=progress) as loop:
            for n in loop:
                rows = next(batches).to(x.device)
                optimizer.zero_grad()
                losses.append(work.backward(x[rows], y[rows]))
                checks.finite_loss(OP, n, losses[-1])
                optimizer.step()
                loop.show(loss=losses[-1])
    finally:  # also after Ctrl-C
        work.write()
    work.exchange()  # not after an error: the other processes might not come
    return losses


def _check(model: object, x: object, y: object, group: object, generator: object) -> None:
    if not isinstance(model, (NoPropDT, NoPropCT, NoPropFM)):
        raise TypeError(message(OP, "model", "a NoPropDT, NoPropCT or NoPropFM", checks.describe(model)))
    model._check(OP, x, y)
    if group is None:
        return
    if not isinstance(model, NoPropDT):
        raise TypeError(message(OP, "group", "None: only a NoPropDT has blocks to share", checks.describe(group)))
    if generator is None:
        hint = "torch.Generator().manual_seed(0) on each: all processes need the same batches"
        raise ValueError(message(OP, "generator", "a generator in a distributed run", "None", hint))


def _parts(order: Tensor, batch_size: int) -> list[Tensor]:
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _batches(n: int, batch_size: int, epochs: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    for _ in range(epochs):
        device = None if generator is None else generator.device
        yield from _parts(torch.randperm(n, generator=generator, device=device), batch_size)


class _OneNet:
    """The network of a continuous model."""

    def __init__(self, model: NoPropCT | NoPropFM, generator: torch.Generator | None) -> None:
        self.model, self.generator = model, generator
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def backward(self, x: Tensor, y: Tensor) -> float:
        loss = self.model.loss(x, y, self.generator)
        loss.backward()
        return loss.item()

    def write(self) -> None:
        """The network itself was trained."""

    def exchange(self) -> None:
        """There are no other processes."""


class _Blocks:
    """The blocks of a NoPropDT that this process trains, and what all blocks share."""

    def __init__(
        self, model: NoPropDT, team: DataParallel, stacked: bool, lr: float, generator: torch.Generator | None
    ) -> None:
        count = len(model.blocks)
        if team.size > count:
            raise ValueError(message(OP, "group", f"at most {count} processes, one a block", f"{team.size}"))
        self.model, self.team = model, team
        self.numbers = range(1, count + 1)[team.rank :: team.size]
        self.sources = _streams(model, generator, team)
        own = [model.blocks[t - 1] for t in self.numbers]
        self.stack = BlockStack(OP, own) if stacked else None
        self.stacked = self.stack.copied() if self.stack else {}
        values = list(self.stacked.values()) if self.stack else [p for block in own for p in block.parameters()]
        of_blocks = set(model.blocks.parameters())
        self.shared = [p for p in model.parameters() if p.requires_grad and p not in of_blocks]
        of_own = [p for p in dict.fromkeys(values) if p.requires_grad]
        self.parameters = [{"params": of_own, "lr": lr}, {"params": self.shared, "lr": lr * count}]

    def backward(self, x: Tensor, y: Tensor) -> float:
        """Adds the gradients of a batch; returns the mean loss of all blocks."""
        total = torch.zeros((), device=x.device)
        for loss in self._losses(x, y):
            loss.backward()
            total += loss.detach()
        self.team.sum_([total])
        self.team.sum_([p.grad for p in self.shared if p.grad is not None])
        return total.item() / len(self.model.blocks)

    def _losses(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        if self.stack is not None:
            yield self.model.stacked_loss(self.stack, self.stacked, self.numbers, x, y, self.sources)
            return
        for t, source in zip(self.numbers, self.sources, strict=True):
            yield self.model.block_loss(t, x, y, source)  # its activations end with its backward pass

    def write(self) -> None:
        """Writes stacked numbers back to the blocks."""
        if self.stack is not None:
            self.stack.write(self.stacked)

    def exchange(self) -> None:
        """Every process gets the blocks of all."""
        if self.team.size > 1:
            _exchange(self.model.blocks, self.numbers, self.team)


def _streams(model: NoPropDT, generator: torch.Generator | None, team: DataParallel) -> list[torch.Generator]:
    """The noise streams of the blocks of this process."""
    place = None if generator is None else generator.device
    seeds = torch.randint(2**62, (len(model.blocks),), generator=generator, device=place)
    first, device = seeds.clone(), model.embedding.weight.device
    team.broadcast_([first])
    unequal = (first != seeds).any().long()
    team.sum_([unequal])
    if unequal:
        hint = "torch.Generator().manual_seed(0) on each"
        raise ValueError(message(OP, "generator", "the same state on all processes", "different states", hint))
    own = seeds.tolist()[team.rank :: team.size]
    return [torch.Generator(device).manual_seed(seed) for seed in own]


@torch.no_grad()
def _exchange(blocks: nn.ModuleList, own: range, team: DataParallel) -> None:
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for t, block in enumerate(blocks, 1):
        for value in (*block.parameters(), *block.buffers()):
            by_dtype.setdefault(value.dtype, []).append(value if t in own else value.zero_())
    for values in by_dtype.values():
        team.sum_(values)  # all but the owner's are 0
