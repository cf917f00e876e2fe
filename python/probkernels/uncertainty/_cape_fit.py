"""The training of CaPE: its data, one epoch, the loop over epochs and the state that is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .._core import checks, digests
from .._core.errors import ModelMismatchError, message
from ..training import Checkpoint, EarlyStopping, Loop
from . import _heads
from ._inputs import all_samples

OP = "CaPE.fit"
PAIR = "(inputs, labels), two tensors of equal length, or a dataset of such pairs"


@dataclass
class CaPEFit:
    """The result of :meth:`CaPE.fit`.

    Args:
        best_epoch: number of epochs after which the kept state was reached; 0 is the network as it was given.
        train: the loss of each epoch: on frequencies in a calibration epoch, on outcomes otherwise.
        validation: log-loss on the validation set, before the first epoch and after each one.
        last: ``state_dict`` of the network after the last epoch; the network itself keeps the best state.

    Example:
        >>> from probkernels.uncertainty import CaPEFit
        >>> CaPEFit(1, [0.5], [0.6, 0.4]).best_loss
        0.4
    """

    best_epoch: int = 0
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    last: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def best_loss(self) -> float:
        """Log-loss of the kept state on the validation set."""
        return self.validation[self.best_epoch]


class Method(Protocol):
    """What the training asks of a CaPE."""

    head: str

    def is_calibration_epoch(self, epoch: int) -> bool: ...

    def targets(self, probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor: ...


class Settings(NamedTuple):
    """The arguments of :meth:`CaPE.fit`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: Any
    validation: Any
    epochs: int
    batch_size: int
    sample_weight: Tensor | None
    scheduler: Any
    patience: int | None
    seed: int
    workers: int
    checkpoint: str | Path | None
    progress: bool


# --- data ---


def _check_data(name: str, data: object) -> None:
    if isinstance(data, (tuple, list)):
        if len(data) != 2 or not all(isinstance(part, Tensor) and part.ndim for part in data):
            got = " and ".join(checks.describe(part) for part in data[:3]) or "nothing"
            raise TypeError(message(OP, name, PAIR, got, checks.AS_TENSOR))
        if len(data[0]) != len(data[1]):
            raise ValueError(message(OP, name, PAIR, f"lengths {len(data[0])} and {len(data[1])}"))
    elif isinstance(data, Tensor) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise TypeError(message(OP, name, PAIR, checks.describe(data)))
    if not _length(data):
        raise ValueError(message(OP, name, "at least one sample", "none"))


def _length(data: Any) -> int:
    return len(data[1]) if isinstance(data, (tuple, list)) else len(data)


def _moved(value: Any, device: torch.device) -> Any:
    """Inputs on the device of the model, whatever they are nested in."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return type(value)(_moved(item, device) for item in value) if isinstance(value, (tuple, list)) else value


def _batches(data: Any, rows: list[Tensor], workers: int, device: torch.device) -> Iterator[tuple[Any, Tensor]]:
    """Inputs and labels of each tensor of rows, on the device of the model."""
    if isinstance(data, (tuple, list)):
        x, y = data
        for chosen in rows:
            yield x[chosen.to(x.device)].to(device), y[chosen.to(y.device)].to(device)
        return
    order = [chosen.tolist() for chosen in rows]
    for batch in torch.utils.data.DataLoader(data, batch_sampler=order, num_workers=workers):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise TypeError(message(OP, "train", PAIR, f"batches that are {checks.describe(batch)}"))
        yield _moved(batch[0], device), batch[1].to(device)


# --- one pass over the data ---


class _Trainer:
    def __init__(self, method: Method, given: Settings) -> None:
        self.method, self.given, self.model = method, given, given.model
        self.device = next((p.device for p in given.model.parameters()), torch.device("cpu"))
        self.weight: Tensor | None = None  # of training samples, of mean 1 to keep the size of the steps

    @torch.no_grad()
    def predict(self, data: Any) -> tuple[Tensor, Tensor]:
        """Logits and labels of all samples, in evaluation mode."""
        self.model.eval()
        rows = list(torch.arange(_length(data)).split(self.given.batch_size))
        parts = []
        for x, y in _batches(data, rows, self.given.workers, self.device):
            parts.append((self._logits(x, y), y))
        logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        wrong = ~logits.isfinite()
        if wrong.any():
            raise ValueError(message(OP, "model", "finite logits", checks.offender(logits, wrong)))
        return logits, labels

    def _logits(self, x: Any, labels: Tensor) -> Tensor:
        logits = _heads.check_logits(OP, "model", self.model(x))
        if len(logits) != len(labels):
            wanted = f"logits of {len(labels)} samples"
            raise ValueError(message(OP, "model", wanted, f"shape {tuple(logits.shape)}"))
        return logits

    def validation_loss(self) -> float:
        """Log-loss on the validation set."""
        logits, labels = self.predict(self.given.validation)
        return float(self._losses(logits.double(), self._hard(logits.double(), labels)).mean())

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return _heads.losses(logits, targets, self.method.head)

    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _heads.hard_targets(labels, logits, self.method.head)

    def targets(self) -> Tensor:
        """Targets of all training samples, from the network as it is."""
        logits, labels = self.predict(self.given.train)
        return self.method.targets(_heads.probabilities(logits, self.method.head), labels, self.weight)

    def epoch(self, epoch: int, seed: int, loop: Loop) -> float:
        """Trains one epoch and returns its mean loss."""
        targets = self.targets() if self.method.is_calibration_epoch(epoch) else None
        order = torch.randperm(_length(self.given.train), generator=torch.Generator().manual_seed(seed))
        rows = list(order.split(self.given.batch_size))
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for chosen, (x, y) in zip(rows, _batches(self.given.train, rows, self.given.workers, self.device), strict=True):
            loop.check()
            logits, own = self._logits(x, y), chosen.to(self.device)
            losses = self._losses(logits, self._hard(logits, y) if targets is None else targets[own])
            if self.weight is not None:
                losses = losses * self.weight[own].to(losses)
            self.given.optimizer.zero_grad()
            losses.mean().backward()
            self.given.optimizer.step()
            total += losses.detach().sum()
        return float(total) / len(order)


# --- the loop over epochs ---


def _check(method: Method, given: Settings) -> _Trainer:
    """Checks the arguments, and labels and logits of all samples by a first look at them."""
    if not isinstance(given.model, nn.Module):
        raise TypeError(message(OP, "model", "a torch.nn.Module", checks.describe(given.model)))
    if not isinstance(given.optimizer, torch.optim.Optimizer):
        raise TypeError(message(OP, "optimizer", "a torch optimizer", checks.describe(given.optimizer)))
    trained = {id(parameter) for parameter in given.model.parameters()}
    if not any(id(parameter) in trained for group in given.optimizer.param_groups for parameter in group["params"]):
        raise ValueError(message(OP, "optimizer", "an optimizer of parameters of 'model'", "one of other tensors"))
    if not (given.scheduler in (None, "plateau") or isinstance(given.scheduler, LRScheduler)):
        wanted = "'plateau', None or a scheduler of torch.optim.lr_scheduler"
        raise TypeError(message(OP, "scheduler", wanted, checks.describe(given.scheduler)))
    if isinstance(given.scheduler, LRScheduler) and given.scheduler.optimizer is not given.optimizer:
        raise ValueError(message(OP, "scheduler", "a scheduler of 'optimizer'", "one of another optimizer"))
    checks.integer(OP, "epochs", given.epochs, least=0)
    checks.integer(OP, "batch_size", given.batch_size)
    checks.integer(OP, "seed", given.seed, least=0, most=2**63 - 1)
    checks.integer(OP, "workers", given.workers, least=0)
    if given.patience is not None:
        checks.integer(OP, "patience", given.patience)
    for name in ("train", "validation"):
        _check_data(name, getattr(given, name))
    trainer, weight = _Trainer(method, given), given.sample_weight
    weight = weight.to(trainer.device) if isinstance(weight, Tensor) else weight
    for data, own in ((given.validation, None), (given.train, weight)):
        logits, labels = trainer.predict(data)
        checked = all_samples(OP, _heads.probabilities(logits, method.head), labels, own)
    trainer.weight = None if weight is None else checked.weight / checked.weight.mean()
    return trainer


def _facts(method: Method, given: Settings) -> dict[str, Any]:
    def digest(data: Any) -> str:
        return digests.of_data(*data) if isinstance(data, (tuple, list)) else f"{_length(data)} samples"

    optimizer = [type(given.optimizer).__name__, *(group["lr"] for group in given.optimizer.param_groups)]
    scheduler = given.scheduler if isinstance(given.scheduler, str | None) else type(given.scheduler).__name__
    return {
        "method": repr(method), "optimizer": optimizer, "scheduler": scheduler, "epochs": given.epochs,
        "batch_size": given.batch_size, "patience": given.patience, "seed": given.seed, "train": digest(given.train),
        "validation": digest(given.validation), "sample_weight": digests.of_data(given.sample_weight),
    }  # fmt: skip


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _load(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelMismatchError(f"'{path}': a checkpoint of another model: {error}") from None


def fit(method: Method, given: Settings) -> CaPEFit:
    """See :meth:`CaPE.fit`."""
    trainer = _check(method, given)
    model, optimizer, scheduler = given.model, given.optimizer, given.scheduler
    saved = None if given.checkpoint is None else Checkpoint(given.checkpoint, OP, _facts(method, given))
    if scheduler == "plateau":
        scheduler = ReduceLROnPlateau(optimizer, patience=5, factor=0.5, min_lr=1e-6)
    done = CaPEFit(validation=[])
    if saved is not None and saved.exists():
        state = saved.load()
        _load(model, state["best"], saved.path)
        best = _snapshot(model)
        _load(model, state["model"], saved.path)
        optimizer.load_state_dict(state["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        done.train, done.validation = state["train"], state["validation"]
    else:
        best, done.validation = _snapshot(model), [trainer.validation_loss()]
    stopping = EarlyStopping(given.patience)
    for step, value in enumerate(done.validation):  # step 0 is the network as it was given
        stopping.improved(step, value)
    seeds = torch.randint(2**62, (given.epochs,), generator=torch.Generator().manual_seed(given.seed)).tolist()

    def save() -> None:
        assert saved is not None
        parts = {"model": model.state_dict(), "best": best, "optimizer": optimizer.state_dict()}
        later = None if scheduler is None else scheduler.state_dict()
        saved.save({**parts, "scheduler": later, "train": done.train, "validation": done.validation})

    with Loop(
        given.epochs, start=len(done.train), save=None if saved is None else save, progress=given.progress, unit="epoch"
    ) as loop:
        loop.stopped = stopping.stop
        for epoch in loop:
            done.train.append(trainer.epoch(epoch, seeds[epoch], loop))
            checks.finite_loss(OP, epoch, done.train[-1])
            done.validation.append(trainer.validation_loss())
            if stopping.improved(epoch + 1, done.validation[-1]):
                best = _snapshot(model)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(done.validation[-1])
            elif scheduler is not None:
                scheduler.step()
            loop.show(loss=done.train[-1], validation=done.validation[-1], best=stopping.best)
            if stopping.stop:
                loop.stop()
    done.last = _snapshot(model)
    model.load_state_dict(best)
    model.eval()
    done.best_epoch = stopping.best_step
    return done
