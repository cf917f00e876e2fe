"""Training of neural processes on tasks that a prior draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..training import cosine, minimize
from .neural_process import NeuralProcess


class TaskPrior(Protocol):
    """A distribution of tasks. The points of a task must be exchangeable: the first ones become contexts."""

    def sample(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draws tasks: x (batch, n, x_dim) and y (batch, n) or (batch, n, y_dim)."""


def fit_neural_process(
    model: NeuralProcess,
    prior: TaskPrior,
    steps: int,
    *,
    batch_size: int = 16,
    n_context: tuple[int, int] = (3, 46),
    n_target: tuple[int, int] = (3, 46),
    most_points: int | None = 49,
    n_samples: int | None = None,
    lr: float = 5e-4,
    max_norm: float | None = None,
    lr_schedule: Callable[[float], float] | None = cosine,
    after: Callable[[int, float], Any] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Trains a neural process in place, with Adam. Each step draws tasks with one number of contexts and of targets.

    Args:
        model: any neural process of this room.
        prior: an object with ``sample(batch, n, generator)`` that draws tasks: x (batch, n, x_dim) and y (batch, n) or
            (batch, n, y_dim), in the dtype of the model, drawn on the CPU. Points of a task must be exchangeable: the
            first ones are contexts.
        steps: number of steps.
        batch_size: tasks in a step.
        n_context: least and most number of contexts, drawn uniformly.
        n_target: the same of targets, drawn after it.
        most_points: bound on contexts and targets together, which shortens the range of targets; None for no bound.
        n_samples: functions in a step, see :meth:`NeuralProcess.loss`.
        lr: learning rate.
        max_norm: bound on the norm of the gradient.
        lr_schedule: maps the finished fraction of the training to a factor on the learning rate; None for a constant.
        after: called as ``after(step, loss)``; return True to stop.
        seed: decides all tasks and draws.
        progress: whether to show a progress bar.

    Returns:
        The loss of every step, in nats a point.

    Raises:
        TypeError, ValueError: an argument is out of range, the prior returns something else, or a loss is not finite.

    Example:
        >>> import torch
        >>> from probkernels.amortized import CNP, fit_neural_process
        >>> class Constants:
        ...     def sample(self, batch, n, generator):
        ...         x = torch.rand(batch, n, 1, generator=generator)
        ...         return x, torch.randn(batch, 1, generator=generator).expand(batch, n)
        >>> losses = fit_neural_process(CNP(x_dim=1, width=32), Constants(), 100, lr=5e-3)
        >>> losses[-1] < losses[0]
        True
    """
    name = "fit_neural_process"
    if not isinstance(model, NeuralProcess):
        raise TypeError(message(name, "model", "a neural process, such as CNP or MPNP", checks.describe(model)))
    if not callable(getattr(prior, "sample", None)):
        expected = "an object with a method sample(batch, n, generator)"
        raise TypeError(message(name, "prior", expected, checks.describe(prior)))
    checks.integer(name, "steps", steps)
    checks.integer(name, "batch_size", batch_size)
    checks.positive(name, "lr", lr)
    contexts, targets = _range("n_context", n_context), _range("n_target", n_target)
    if most_points is not None:
        checks.integer(name, "most_points", most_points, contexts[1] + targets[0], wanted=(
            f"None or at least the most contexts and the least targets together, {contexts[1] + targets[0]}"
        ))  # fmt: skip
    device = model.decoder.first.weight.device
    tasks = torch.Generator().manual_seed(seed)
    draws = tasks if device.type == "cpu" else torch.Generator(device).manual_seed(seed)

    def count(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=tasks))

    def loss(step: int) -> Tensor:
        n = count(*contexts)
        most = targets[1] if most_points is None else min(targets[1], most_points - n)
        x, y = _drawn(prior, batch_size, n + count(targets[0], most), tasks, device)
        return model.loss(x[:, :n], y[:, :n], x[:, n:], y[:, n:], n_samples=n_samples, generator=draws)

    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    return minimize(
        loss, optimizer, steps, lr_schedule=lr_schedule, max_norm=max_norm, after=after, progress=progress, name=name
    )


def _range(name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        expected = "two numbers: the least and the most"
        raise TypeError(message("fit_neural_process", name, expected, checks.describe(value)))
    least = checks.integer("fit_neural_process", name, value[0])
    return least, checks.integer("fit_neural_process", name, value[1], least)


def _drawn(
    prior: TaskPrior, batch: int, n: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    found = prior.sample(batch, n, generator)
    if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(t, Tensor) for t in found):
        expected = "a pair of tensors (x, y) of 'sample'"
        raise TypeError(message("fit_neural_process", "prior", expected, checks.describe(found)))
    for part, t in zip("xy", found, strict=True):
        if t.ndim < 2 or tuple(t.shape[:2]) != (batch, n):
            expected = f"{part} of shape ({batch}, {n}, ...) of 'sample'"
            raise ValueError(message("fit_neural_process", "prior", expected, f"shape {tuple(t.shape)}"))
    x, y = found
    return x.to(device), y.to(device)
