"""The training loop: steps, saves, stops, Ctrl-C, bad losses."""

from __future__ import annotations

import copy
import math
import os
import signal
from typing import Any

import numpy as np
import probkernels as pk
import pytest
import torch
from probkernels.training import EMA, DataParallel, DeferredInterrupt, EarlyStopping, Loop, cosine, minimize


@pytest.fixture
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_loop_counts_from_its_start_and_saves_the_last_step() -> None:
    saved: list[int] = []
    with Loop(7, start=2, save=lambda: saved.append(loop.done), save_every=3, progress=False) as loop:
        assert list(loop) == [2, 3, 4, 5, 6]
    assert saved == [3, 6, 7]


def test_nothing_is_left_to_do() -> None:
    with Loop(3, start=3, save=lambda: pytest.fail("saved"), progress=False) as loop:
        assert list(loop) == []


def test_stop_finishes_the_step_and_saves() -> None:
    saved: list[int] = []
    with Loop(9, save=lambda: saved.append(loop.done), save_every=100, progress=False) as loop:
        for n in loop:
            if n == 3:
                loop.stop()
    assert saved == [4] == [loop.done]


@pytest.mark.parametrize("at", [1, 4])
def test_ctrl_c_waits_for_the_end_of_the_step_and_saves(default_handler: None, at: int) -> None:
    saved: list[int] = []
    finished: list[int] = []
    with (
        pytest.raises(KeyboardInterrupt),
        Loop(5, save=lambda: saved.append(loop.done), save_every=100, progress=False) as loop,
    ):
        for n in loop:
            if n == at:
                press()
            finished.append(n)
    assert finished == list(range(at + 1)) and saved == [at + 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_takes_effect_at_once(default_handler: None) -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), DeferredInterrupt():
        press()
        reached = True
        press()
        pytest.fail("went on")
    assert reached


def test_a_handler_of_the_program_stays() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with DeferredInterrupt() as interrupt:
            press()
            interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_minimize_equals_a_loop_by_hand() -> None:
    torch.manual_seed(0)
    data, target = torch.randn(64, 3), torch.randn(64, 1)
    ours, theirs = (torch.nn.Linear(3, 1) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in (ours, theirs)]
    after: list[tuple[int, float]] = []
    losses = minimize(
        lambda n: (ours(data[n::4]) - target[n::4]).square().mean(), optimizers[0], 4, lr_schedule=cosine, max_norm=0.1,
        after=lambda n, loss: after.append((n, loss)),
    )  # fmt: skip
    expected = []
    for n in range(4):
        optimizers[1].param_groups[0]["lr"] = 0.1 * cosine(n / 4)
        loss = (theirs(data[n::4]) - target[n::4]).square().mean()
        optimizers[1].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        optimizers[1].step()
        expected.append(loss.item())
    assert losses == expected and after == list(enumerate(expected))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_resumed_schedule_equals_one_run() -> None:
    """What ``save`` stores are the optimizer's own rates, which the schedule scales anew."""
    data, saved = torch.arange(1.0, 9.0), {}

    def start() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        x = torch.nn.Parameter(torch.ones(()))
        return x, torch.optim.AdamW([x], lr=0.1)

    def keep(x: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        saved.update(x=x.detach().clone(), optimizer=copy.deepcopy(optimizer.state_dict()))

    (whole, first), (part, second), (rest, third) = start(), start(), start()
    expected = minimize(lambda n: (whole * data[n] - 3).square(), first, 8, lr_schedule=cosine)
    losses = minimize(
        lambda n: (part * data[n] - 3).square(), second, 8, lr_schedule=cosine,
        after=lambda n, loss: n == 3, save=lambda: keep(part, second),
    )  # fmt: skip
    rest.data.copy_(saved["x"])
    third.load_state_dict(saved["optimizer"])
    losses += minimize(lambda n: (rest * data[n] - 3).square(), third, 8, lr_schedule=cosine, start=4)
    assert losses == expected and torch.equal(rest, whole) and third.param_groups[0]["lr"] == 0.1


def test_an_average_is_of_one_module() -> None:
    average = EMA(torch.nn.Linear(1, 3))
    with pytest.raises(pk.ModelMismatchError, match="other shapes"):
        average.update(torch.nn.Linear(1, 1))  # which would broadcast
    with pytest.raises(pk.ModelMismatchError, match="another dtype"):
        average.update(torch.nn.Linear(1, 3).double())


def test_bad_settings_of_a_training_are_named() -> None:
    x = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="fit: argument 'max_norm': expected a positive number, got -1"):
        minimize(lambda n: x.square(), torch.optim.SGD([x], lr=0.1), 3, max_norm=-1, name="fit")
    with pytest.raises(ValueError, match="Loop: argument 'save_every'"):
        Loop(3, save_every=0)


def test_minimize_stops_where_it_is_told() -> None:
    x = torch.nn.Parameter(torch.ones(()))
    losses = minimize(lambda n: x.square(), torch.optim.SGD([x], lr=0.1), 50, after=lambda n, loss: loss < 0.5)
    assert len(losses) < 10 and losses[-1] < 0.5 <= losses[-2]


@pytest.mark.parametrize("as_bool", [np.bool_, torch.tensor])
def test_minimize_stops_for_the_bools_of_other_libraries(as_bool: Any) -> None:
    x = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([x], lr=0.1)
    assert len(minimize(lambda n: x.square(), optimizer, 9, after=lambda n, loss: as_bool(n == 3))) == 4
    with pytest.raises(TypeError, match="minimize: argument 'after': expected a function that returns True to stop"):
        minimize(lambda n: x.square(), optimizer, 9, after=lambda n, loss: n)


def test_a_loss_that_is_not_finite_is_named_before_it_is_used() -> None:
    x = torch.nn.Parameter(torch.ones(()))
    losses = [1.0, 2.0, float("nan")]
    with pytest.raises(ValueError, match=r"fit: argument 'loss': expected a finite loss in step 2, got nan"):
        minimize(lambda n: x * losses[n], torch.optim.SGD([x], lr=0.1), 3, name="fit")
    assert x.item() == pytest.approx(0.7)  # two steps were taken, the third was not


@pytest.mark.parametrize("patience", [0, -1, 1.5, True])
def test_early_stopping_needs_a_patience_of_at_least_one_step(patience: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="EarlyStopping: argument 'patience'"):
        EarlyStopping(patience)  # 0 would stop after a step that improved


def test_early_stopping() -> None:
    stopping = EarlyStopping(patience=2)
    improved = [stopping.improved(n, value) for n, value in enumerate([2.0, float("nan"), 1.0, 1.0])]
    assert improved == [True, False, True, False] and not stopping.stop
    assert not stopping.improved(4, 1.5) and stopping.stop and (stopping.best, stopping.best_step) == (1.0, 2)
    endless = EarlyStopping(patience=2)
    assert [endless.improved(n, v) for n, v in enumerate([math.nan, math.inf, math.inf, 1.0])] == [
        False,
        True,
        False,
        True,
    ]
    value, kept = torch.tensor(3.0), EarlyStopping()
    assert kept.improved(0, value)
    value.fill_(1.0)  # a figure is a number, not a tensor that moves on
    assert kept.improved(1, torch.tensor(2.0)) and kept.best == 2
    patient = EarlyStopping()
    assert not [patient.improved(n, 1.0) for n in range(100)][-1] and not patient.stop


def test_sums_over_processes_refuse_mixed_dtypes() -> None:
    tensors = [torch.ones(2), torch.tensor([2**24 + 1])]  # float32 has no 2^24 + 1
    with pytest.raises(TypeError, match="one dtype"):
        DataParallel(None).sum_(tensors)
