"""Training of networks on data sets that a prior draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..training import Checkpoint, copy_state_, cosine, minimize
from ..training.loop import moving
from .pfn import PFN
from .pfn_heads import prior_generator

SIZES = ("weighted", "uniform")


class Prior(Protocol):
    """What :func:`fit_prior` draws from."""

    def sample(self, batch: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs x (B, n, F) and targets y (B, n) of B data sets."""


def fit_prior(
    model: PFN,
    prior: Prior,
    steps: int,
    *,
    n_points: int = 30,
    batch_size: int = 64,
    context_sizes: str = "weighted",
    max_context: int | None = None,
    own_sizes: bool = False,
    lr: float = 1e-3,
    warmup: int | None = None,
    max_norm: float | None = 1.0,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
    after: Callable[[int, float], Any] | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 1000,
    progress: bool = False,
) -> list[float]:
    """Trains a PFN to predict hidden targets of data sets from a prior.

    Each step draws a context size n, then data sets of N points; the loss is the mean negative log-likelihood of the
    N - n targets that are hidden. It is, up to a constant, the KL divergence from the exact posterior predictive
    distribution. All data are new, so there is no overfitting. The rate rises linearly, then falls along a cosine.

    Args:
        model: the network; it is in evaluation mode afterwards.
        prior: has ``sample(batch, n, generator)``, which returns x (B, n, F) and y (B, n), points in random order.
        steps: number of steps.
        n_points: N, points of a data set.
        batch_size: data sets in a step.
        context_sizes: "weighted": P(n) proportional to 1 / (N - n), so that every n gets equally many targets;
            "uniform": all n alike.
        max_context: largest n, below N; None for N - 1.
        own_sizes: whether every data set of a batch draws its own n; it costs time, as all points become queries.
        lr: learning rate of Adam, if no ``optimizer`` is given.
        warmup: steps in which the rate rises; None for a fifth of all, 200 at most.
        max_norm: bound on the norm of the gradient; None for none.
        optimizer: one of the model's parameters; None for Adam.
        seed: of sizes and data sets. Dropout draws from torch's own generator.
        after: called as ``after(step, loss)``; return True to stop.
        checkpoint: a file that is written every ``save_every`` steps, at the end and on Ctrl-C. If it exists, training
            goes on from it, with the losses and draws of a training that was never interrupted (on a GPU dropout draws
            anew). Of the prior only the name of its class is compared.
        save_every: steps between two checkpoints.
        progress: whether to show a progress bar.

    Returns:
        The loss of every step, also of those before a checkpoint.

    Raises:
        TypeError, ValueError: an argument is out of range, the prior returns other shapes, or a loss is not finite.
        ModelMismatchError, CorruptStreamError: the checkpoint is of another training, or damaged.
        KeyboardInterrupt: on Ctrl-C, after the current step; the model keeps what it has learned.

    Example:
        >>> import torch
        >>> from probkernels.amortized import PFN, GaussianHead, fit_prior
        >>> class Lines:
        ...     def sample(self, batch, n, generator):
        ...         x = torch.rand(batch, n, 1, generator=generator)
        ...         return x, x[..., 0] * torch.randn(batch, 1, generator=generator)
        >>> torch.manual_seed(0) and None
        >>> model = PFN(1, GaussianHead(), d=16, layers=1)
        >>> losses = fit_prior(model, Lines(), 30, n_points=10, batch_size=16, lr=1e-2)
        >>> losses[-1] < losses[0]
        True
    """
    op = "fit_prior"
    if not isinstance(model, PFN):
        raise TypeError(message(op, "model", "a PFN", checks.describe(model)))
    if not callable(getattr(prior, "sample", None)):
        hint = "give it a method sample(batch, n, generator)"
        raise TypeError(message(op, "prior", "an object that samples data sets", checks.describe(prior), hint))
    for name, value in (("steps", steps), ("n_points", n_points), ("batch_size", batch_size)):
        checks.integer(op, name, value)
    warmup = min(200, steps // 5) if warmup is None else checks.integer(op, "warmup", warmup, 0, steps)
    checks.positive(op, "lr", lr)
    weights = _size_weights(op, context_sizes, n_points, max_context)
    draw = torch.Generator().manual_seed(checks.integer(op, "seed", seed, 0))
    data = prior_generator(prior, seed)
    shape = (batch_size, n_points, model.n_features)

    def loss(step: int) -> Tensor:
        sizes = torch.multinomial(weights, batch_size if own_sizes else 1, replacement=True, generator=draw)
        x, y = _drawn(prior.sample(batch_size, n_points, data), shape, model.of_x.bias)
        return _hidden_loss(model, x, y, sizes)

    def rate(fraction: float) -> float:
        step = round(fraction * steps)
        return (step + 1) / warmup if step < warmup else cosine((step - warmup) / (steps - warmup))

    facts = {"steps": steps, "n_points": n_points, "batch_size": batch_size, "sizes": weights.tolist(), "lr": lr}
    facts |= {"own_sizes": own_sizes, "warmup": warmup, "max_norm": max_norm, "seed": seed}
    optimizer = torch.optim.Adam(model.parameters(), lr=lr) if optimizer is None else moving(op, model, optimizer)
    run = _Run(model, optimizer, (draw, data))
    save = None if checkpoint is None else run.resume(checkpoint, facts | {"prior": type(prior).__name__})

    def note(step: int, number: float) -> Any:
        run.losses.append(number)
        return None if after is None else after(step, number)

    model.train()
    options: dict[str, Any] = {"lr_schedule": rate, "max_norm": max_norm, "progress": progress, "name": op}
    try:
        minimize(loss, optimizer, steps, start=len(run.losses), after=note, save=save, save_every=save_every, **options)
        return run.losses
    finally:
        model.eval()


class _Run:
    """What a checkpoint holds: the model, the optimizer, the generators, and the losses so far."""

    def __init__(self, model: PFN, optimizer: torch.optim.Optimizer, draws: tuple[torch.Generator, ...]) -> None:
        self.model, self.optimizer, self.draws = model, optimizer, draws
        self.losses: list[float] = []

    def resume(self, path: str | Path, facts: dict[str, Any]) -> Callable[[], None]:
        """Goes on from the file if there is one; returns the function that writes it."""
        own = {"model": self.model.config, "head": type(self.model.head).__name__}
        file = Checkpoint(path, "fit_prior", facts | own | {"optimizer": type(self.optimizer).__name__})
        if file.exists():
            state = file.load()
            copy_state_(self.model.state_dict(), state["model"], "fit_prior")
            self.optimizer.load_state_dict(state["optimizer"])
            for generator, saved in zip(self.draws, state["draws"], strict=True):
                generator.set_state(saved)
            torch.set_rng_state(state["torch"])  # of dropout
            self.losses = state["losses"].tolist()
        return lambda: file.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "draws": [generator.get_state() for generator in self.draws],
            "torch": torch.get_rng_state(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }


def _size_weights(op: str, rule: str, points: int, most: int | None) -> Tensor:
    """Weights of the context sizes 0, 1, ..."""
    checks.one_of(op, "context_sizes", rule, SIZES)
    most = points - 1 if most is None else checks.integer(op, "max_context", most, 0, points - 1)
    hidden = points - torch.arange(most + 1, dtype=torch.float64)
    return 1 / hidden if rule == "weighted" else torch.ones_like(hidden)


def _drawn(found: object, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Checked x and y in the model's dtype and on its device."""
    wanted = f"tensors x {shape} and y {shape[:2]} from sample"
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(t, Tensor) for t in found)):
        raise TypeError(message("fit_prior", "prior", wanted, checks.describe(found)))
    x, y = found
    if x.shape != shape or y.shape != shape[:2]:
        got = f"x {tuple(x.shape)} and y {tuple(y.shape)}"
        raise ValueError(message("fit_prior", "prior", wanted, got))
    return x.to(like), y.to(like) if y.is_floating_point() else y.to(like.device)


def _hidden_loss(model: PFN, x: Tensor, y: Tensor, sizes: Tensor) -> Tensor:
    """Mean negative log-likelihood of the targets after the context: of those of each data set first."""
    if len(sizes) == 1:
        n = int(sizes)
        return -_log_prob(model(x[:, :n], y[:, :n], x[:, n:]), y[:, n:]).mean()
    counts, first = sizes.to(x.device), int(sizes.min())
    found = model(x[:, : int(sizes.max())], y[:, : int(sizes.max())], x[:, first:], counts=counts)
    hidden = torch.arange(first, x.shape[1], device=x.device) >= counts[:, None]
    terms = torch.where(hidden, -_log_prob(found, y[:, first:]), 0)
    return (terms.sum(1) / hidden.sum(1)).mean()


def _log_prob(found: Any, y: Tensor) -> Tensor:
    targets = y if y.is_floating_point() or not isinstance(found, torch.distributions.Bernoulli) else y.to(found.logits)
    result = found.log_prob(targets)
    assert isinstance(result, Tensor)
    return result
