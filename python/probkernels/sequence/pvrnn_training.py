"""Training of a PV-RNN: weights and the vectors A of the batch's sequences, jointly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..training import minimize
from .posterior_bank import PosteriorBank
from .pvrnn import PVRNN

NAME = "fit_pvrnn"


def fit_pvrnn(
    model: PVRNN,
    bank: PosteriorBank,
    x: Tensor,
    steps: int,
    *,
    lr: float = 1e-3,
    batch_size: int | None = None,
    lengths: Tensor | None = None,
    max_norm: float | None = None,
    generator: torch.Generator | None = None,
    after: Callable[[int, float], Any] | None = None,
    progress: bool = False,
) -> list[float]:
    """Trains a PV-RNN by Adam on its loss, and the vectors A of each batch by the bank's Adam.

    Args:
        model: the network; see :class:`PVRNN` for the loss.
        bank: A of the N sequences, with a learning rate of its own.
        x: (N, T, O) values, or (N, T, O, bins) codes.
        steps: number of gradient steps.
        lr: learning rate of the weights.
        batch_size: sequences of a step, drawn without replacement; None takes all.
        lengths: (N,) integers; what lies beyond a length does not count.
        max_norm: bound on the norm of the weights' gradient; None for no clipping.
        generator: of batches and noise. Batches take one of the CPU; None takes torch's own.
        after: called as ``after(step, loss)``; returns True to stop.
        progress: whether to show a progress bar.

    Returns:
        The loss of every step.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a shape or number is wrong, or the loss of a step is not finite.

    Example:
        >>> import torch
        >>> from probkernels.sequence import GaussianOutput, PVLayer, PVRNN, PosteriorBank, fit_pvrnn
        >>> model = PVRNN([PVLayer(8, 1)], GaussianOutput(1))
        >>> bank = PosteriorBank(4, 6, model, lr=0.01)
        >>> len(fit_pvrnn(model, bank, torch.zeros(4, 6, 1), 3, lr=0.01, batch_size=2))
        3
    """
    rows = len(bank.a)
    if not isinstance(x, Tensor) or x.dim() < 3 or x.shape[:2] != bank.a.shape[:2]:
        wanted = f"shape {tuple(bank.a.shape[:2])} + (outputs,), of the sequences and steps of 'bank'"
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else checks.describe(x)
        raise ValueError(message(NAME, "x", wanted, got))
    size = rows if batch_size is None else checks.integer(NAME, "batch_size", batch_size, 1, rows)
    if lengths is not None:
        checks.integer_tensor(NAME, "lengths", lengths)
        checks.shape(NAME, "lengths", lengths, (rows,), "(one length for each sequence)")
    target = model.targets(x.to(model.weight), lengths)
    every = torch.arange(rows)

    def loss(_: int) -> Tensor:
        index = every if size == rows else torch.randperm(rows, generator=generator)[:size]
        index = index.to(target.device)
        ends = None if lengths is None else lengths.to(target.device)[index]
        return model.loss(bank(index), target[index], lengths=ends, generator=generator).total

    def finish(step: int, value: float) -> Any:
        bank.step()
        return None if after is None else after(step, value)

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    was = bank.training
    bank.train()  # in evaluation mode it would give rows to look at, which never move
    try:
        return minimize(loss, optimizer, steps, max_norm=max_norm, after=finish, progress=progress, name=NAME)
    finally:
        bank.train(was)
