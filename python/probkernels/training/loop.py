"""The training loop: progress bar, checkpoints, early stopping, Ctrl-C between steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from .interrupt import DeferredInterrupt


class Loop:
    """Iterates over the steps of a training, with a progress bar, checkpoints and deferred Ctrl-C.

    The loop calls ``save`` every ``save_every`` steps and after the last one. It holds back Ctrl-C until the current
    step is over; then it saves and raises KeyboardInterrupt. A long step may call :meth:`check` where it can be
    abandoned; the loop then raises without saving.

    Args:
        steps: total number of steps, including steps before ``start``.
        start: number of steps that are already done.
        save: function that writes a checkpoint; None for no checkpoints.
        save_every: steps between two calls of ``save``.
        progress: whether to show a progress bar. It appears in a terminal only, not in a log file.
        unit: name of a step in the bar.

    Example:
        >>> from probkernels.training import Loop
        >>> saved = []
        >>> with Loop(5, save=lambda: saved.append(loop.done), save_every=2, progress=False) as loop:
        ...     for n in loop:
        ...         loop.show(loss=1 / (n + 1))
        >>> saved
        [2, 4, 5]
    """

    def __init__(
        self,
        steps: int,
        *,
        start: int = 0,
        save: Callable[[], None] | None = None,
        save_every: int = 1,
        progress: bool = True,
        unit: str = "step",
    ) -> None:
        self.steps, self.done, self.save = steps, start, save
        self.save_every = checks.integer("Loop", "save_every", save_every)
        self.bar = tqdm(total=steps, initial=start, disable=checks.hidden(progress), unit=unit)
        self.interrupt = DeferredInterrupt()
        self.stopped = False

    def __enter__(self) -> Loop:
        self.interrupt.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt.__exit__()
        self.bar.close()

    def __iter__(self) -> Iterator[int]:
        while self.done < self.steps and not self.stopped:
            yield self.done
            self.done += 1
            self.bar.update()
            last = self.stopped or self.done == self.steps
            if self.save is not None and (last or self.interrupt.pending or self.done % self.save_every == 0):
                self.save()
            self.check()

    def stop(self) -> None:
        """Ends the loop after the current step."""
        self.stopped = True

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed inside the block."""
        self.interrupt.check()

    def show(self, **figures: float) -> None:
        """Shows figures beside the bar with six digits: late in a training only the last digits change."""
        self.bar.set_postfix({name: f"{value:.6g}" for name, value in figures.items()}, refresh=False)


def minimize(
    loss: Callable[[int], Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    lr_schedule: Callable[[float], float] | None = None,
    max_norm: float | None = None,
    start: int = 0,
    after: Callable[[int, float], Any] | None = None,
    save: Callable[[], None] | None = None,
    save_every: int = 1000,
    progress: bool = False,
    name: str = "minimize",
) -> list[float]:
    """Minimizes a loss by gradient steps.

    Args:
        loss: function of the step number that returns the loss, a 0-d tensor.
        optimizer: optimizer of the parameters.
        steps: total number of steps, including steps before ``start``.
        lr_schedule: maps the finished fraction of the training to a factor on the optimizer's learning rates. It
            holds during the step alone, so that ``after`` and ``save`` see the rates themselves.
        max_norm: bound on the total norm of all gradients; None for no clipping.
        start: number of steps that are already done, when resuming.
        after: called as ``after(step, loss)`` after every step. Return True to stop, else None or False.
        save: function that writes a checkpoint, see :class:`Loop`.
        save_every: steps between two calls of ``save``.
        progress: whether to show a progress bar.
        name: name of the function that the user called, for errors.

    Returns:
        The loss of every step from ``start`` on.

    Raises:
        TypeError: ``after`` returns something else than a bool or None.
        ValueError: the loss of a step is not finite (the message names the step), or ``max_norm`` is not positive.

    Example:
        >>> import torch
        >>> from probkernels.training import minimize
        >>> x = torch.nn.Parameter(torch.ones(()))
        >>> losses = minimize(lambda n: x.square(), torch.optim.SGD([x], lr=0.1), 50)
        >>> round(losses[0], 3), bool(losses[-1] < 1e-8)
        (1.0, True)
    """
    if max_norm is not None:
        checks.positive(name, "max_norm", max_norm, finite=False)
    losses: list[float] = []
    with Loop(steps, start=start, save=save, save_every=save_every, progress=progress) as loop:
        for n in loop:
            value = loss(n)
            number = value.item()
            checks.finite_loss(name, n, number)
            factor = 1.0 if lr_schedule is None else lr_schedule(n / steps)
            optimizer.zero_grad()
            value.backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(_parameters(optimizer), max_norm)
            with _scaled_rates(optimizer, factor):
                optimizer.step()
            losses.append(number)
            loop.show(loss=number)
            if after is not None and checks.says_stop(name, "after", after(n, number)):
                loop.stop()
    return losses


@contextlib.contextmanager
def _scaled_rates(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Scales the learning rates for one step. What ``save`` stores, and what another training with this optimizer
    starts from, are the rates themselves."""
    if factor == 1:  # they stay as they are, bit for bit, also tensors
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])


def moving(op: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, if it moves any parameter of the model: that of a copy would train the copy."""
    moved = {id(p) for p in _parameters(optimizer)}
    if not any(id(p) in moved for p in model.parameters()):
        hint = "make it after the last copy or replacement of the model, from model.parameters()"
        raise ValueError(message(op, "optimizer", "one of the model's parameters", "one of other tensors", hint))
    return optimizer


def cosine(fraction: float) -> float:
    """A learning-rate schedule that falls from 1 to 0 along half a cosine.

    Example:
        >>> from probkernels.training import cosine
        >>> cosine(0.0), round(cosine(0.5), 6), round(cosine(1.0), 6)
        (1.0, 0.5, 0.0)
    """
    return (1 + math.cos(math.pi * fraction)) / 2
