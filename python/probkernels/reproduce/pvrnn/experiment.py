"""Trains PV-RNNs with several w on symbols, lets them run freely, and predicts unseen sequences by error regression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ...sequence import PVRNN, ErrorRegression, PosteriorBank, PVLayer, SoftmaxCode, fit_pvrnn
from ..harness import data_files
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import peers
from .model import grammar, one_hot, symbols, varied
from .records import DATA, LARGE, MIDDLE, SEEDS, SMALL, WEIGHTS, Online, Predicted, Record, Trained

ROWS, STEPS, EPOCHS = 10, 24, 2000
INITIAL = 0.6  # of the usual size of the recurrent weights
FREE, SETTLING = 1200, 240  # steps of a free run, and the first of them, which are not scored
REPEATS, UNSEEN, SHOWN = 20, 20, 36
WINDOW, ITERATIONS, ONLINE_LR = 9, 30, 0.1
FILE = "pvrnn_sequences"  # of the files of --data

Job = tuple[float, int]


def jobs(quick: bool) -> list[Job]:
    """w and seed."""
    if quick:
        return [(w, 0) for w in (LARGE, MIDDLE, SMALL)]
    return [(w, seed) for w in WEIGHTS for seed in SEEDS]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Runs all jobs in parallel; with ``data`` also those on movements."""
    todo = jobs(quick)
    found: list[list[Record]] = run_jobs(work, todo, progress.bar("training", EPOCHS * len(todo)))
    if data is not None and not quick:
        movements = [(data, name, 0) for name in DATA]
        found += run_jobs(predict, movements, progress.bar("movements", len(movements)))
    return [record for records in found for record in records]


def work(w: float, seed: int, advance: Callable[[float], None]) -> list[Record]:
    """Trains one network and judges it; with the middle w also by error regression."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x = symbols(ROWS, STEPS, generator)
    model = PVRNN([PVLayer(10, 1, 2.0, w)], SoftmaxCode(1, bins=2, low=0.0, high=1.0))
    with torch.no_grad():  # at full size, a long free run slips out of phase now and then
        model.weight.mul_(INITIAL)
        model.z_weight.mul_(INITIAL)
    bank = PosteriorBank(ROWS, STEPS, model, lr=1e-2)
    fit_pvrnn(
        model, bank, one_hot(x), EPOCHS, lr=1e-2, max_norm=5, generator=generator, after=lambda step, loss: advance(1)
    )
    found: list[Record] = [judge(model, bank.a, x, seed, generator)]
    if w == MIDDLE:
        found.append(judge_online(model, seed, generator))
    return found


@torch.no_grad()
def judge(model: PVRNN, adapt: torch.Tensor, x: torch.Tensor, seed: int, generator: torch.Generator) -> Trained:
    """Loss, regeneration, and free runs that take one step of the posterior."""
    loss = model.loss(adapt, one_hot(x), generator=generator)
    again = model.output.mean(model(adapt, generator=generator).raw)[..., 0, :].argmax(-1)
    first = adapt[:, :1]
    free = model.generate(FREE, adapt=first, generator=generator).code[..., 0, :].argmax(-1)
    many = model.generate(STEPS, adapt=first.repeat(REPEATS, 1, 1), generator=generator).code[..., 0, :].argmax(-1)
    runs = many.unflatten(0, (REPEATS, len(x)))[..., 1:]
    return Trained(
        model.layers[0].w, seed, float(loss.rec.mean()), float(loss.kl.sum(1).mean()),
        float((again == x).float().mean()), *grammar(free[:, SETTLING:]), varied(runs), free[:6, -SHOWN:].tolist(),
    )  # fmt: skip


def judge_online(model: PVRNN, seed: int, generator: torch.Generator) -> Online:
    """Error regression on sequences that start anywhere in the cycle."""
    phase = torch.randint(3, (UNSEEN,), generator=generator)
    y = symbols(UNSEEN, STEPS + 1, generator, phase)
    online = ErrorRegression(model, UNSEEN, WINDOW, ITERATIONS, ONLINE_LR, generator=generator)
    guesses = [online.step(code).code[:, 0, 0].argmax(-1) for code in one_hot(y[:, :-1]).unbind(1)]
    right = torch.stack(guesses, 1) == y[:, 1:]
    coin = (torch.arange(1, STEPS + 1) + phase[:, None]) % 3 == 2
    full = (torch.arange(STEPS) >= WINDOW - 1).expand_as(coin)
    parts = (full & ~coin, ~full & ~coin, coin)
    return Online(model.layers[0].w, seed, *(float(right[part].double().mean()) for part in parts))


def predict(folder: Path, name: str, seed: int, advance: Callable[[float], None]) -> list[Record]:
    """Unseen movements: error regression and its peers."""
    arrays = data_files.load(folder, FILE)
    train, test = (peers.thinned(arrays[f"{name}_{part}"], name) for part in ("train", "test"))
    found: list[Record] = [
        Predicted(name, way, seed, judge_way(train, test, name, seed)) for way, judge_way in peers.JUDGES.items()
    ]
    advance(1)
    return found
