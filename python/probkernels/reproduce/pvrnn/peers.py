"""Predictions of unseen movements: PV-RNN with error regression, a GRU trained to predict, and two without training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ...sequence import PVRNN, ErrorRegression, GaussianOutput, PosteriorBank, PVLayer, fit_pvrnn
from ...training import minimize
from .records import ARM, GRU, LAST, LINE, OURS, PATH

AHEAD = (1, 5)
EVERY = {ARM: 4, PATH: 1}  # of the recorded steps, one of so many is kept
EPOCHS, UNITS = 1000, 30
WINDOW, ITERATIONS, ONLINE_LR, SIGMA = 10, 50, 0.1, 0.1

Errors = dict[int, float]


def thinned(values: np.ndarray, name: str) -> Tensor:
    """Sequences (S, T, O) at a lower rate."""
    return torch.from_numpy(np.ascontiguousarray(values[:, :: EVERY[name]]))


def errors(guesses: list[Tensor], test: Tensor, first: int) -> Errors:
    """guesses: (S, ahead, O) for every step from ``first`` on -> root mean square error by the steps ahead."""
    made, last = torch.stack(guesses), test.shape[1] - max(AHEAD)
    return {
        k: float(
            (made[: last - first, :, k - 1].transpose(0, 1) - test[:, first + k : last + k]).square().mean().sqrt()
        )
        for k in AHEAD
    }


def regression(train: Tensor, test: Tensor, name: str, seed: int) -> Errors:
    """A PV-RNN of two layers, and error regression on all test sequences at once."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layers = [PVLayer(20, 2, 2.0, 0.1), PVLayer(UNITS - 20, 1, 8.0, 0.1)]
    model = PVRNN(layers, GaussianOutput(train.shape[2], SIGMA))
    bank = PosteriorBank(train.shape[0], train.shape[1], model, lr=1e-2)
    fit_pvrnn(model, bank, train, EPOCHS, lr=5e-3, max_norm=5 * train.shape[1], generator=generator)
    online = ErrorRegression(model, len(test), WINDOW, ITERATIONS, ONLINE_LR, ahead=max(AHEAD), generator=generator)
    guesses = [online.step(x).values for x in test.unbind(1)]
    return errors(guesses[WINDOW - 1 :], test, WINDOW - 1)


def gru(train: Tensor, test: Tensor, name: str, seed: int) -> Errors:
    """A GRU that reads a step and predicts the next; further steps read its own predictions."""
    torch.manual_seed(seed)
    net, head = nn.GRU(train.shape[2], UNITS, batch_first=True), nn.Linear(UNITS, train.shape[2])
    params = [*net.parameters(), *head.parameters()]

    def loss(_: int) -> Tensor:
        return (head(net(train[:, :-1])[0]) - train[:, 1:]).square().mean()

    minimize(loss, torch.optim.Adam(params, lr=5e-3), EPOCHS, max_norm=5.0, name="GRU")
    guesses = []
    with torch.no_grad():
        state = None
        for x in test.split(1, 1):
            out, state = net(x, state)
            ahead, then = [head(out)], state
            for _ in range(max(AHEAD) - 1):
                out, then = net(ahead[-1], then)
                ahead.append(head(out))
            guesses.append(torch.cat(ahead, 1))
    return errors(guesses[WINDOW - 1 :], test, WINDOW - 1)


def _carried(slope: float) -> Callable[[Tensor, Tensor, str, int], Errors]:
    def judge(train: Tensor, test: Tensor, name: str, seed: int) -> Errors:
        steps = torch.arange(1, max(AHEAD) + 1)[:, None] * slope
        guesses = [test[:, t, None] + steps * (test[:, t, None] - test[:, t - 1, None]) for t in range(test.shape[1])]
        return errors(guesses[WINDOW - 1 :], test, WINDOW - 1)

    return judge


JUDGES: dict[str, Callable[[Tensor, Tensor, str, int], Errors]] = {
    OURS: regression, GRU: gru, LAST: _carried(0.0), LINE: _carried(1.0),
}  # fmt: skip
