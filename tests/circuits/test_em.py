"""EM: the printed numbers, likelihoods that never fall, schedules, early stopping, resuming, several processes."""

from __future__ import annotations

import math
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.circuits import EM, Categorical, Circuit, History, PiecewiseLinear, hclt, hclt_graph
from probkernels.circuits import em as em_module
from torch import Tensor

from tests.circuits.models import DISCRETE, MIXED, data, holes, random_graph, toy
from tests.nn.test_distributed import WORLD, on_two_processes


def fit(circuit: Circuit, x: Tensor, missing: Tensor | None = None, **settings: Any) -> History:
    """EM with each setting where it belongs."""
    names = ("validation", "epochs", "check_every", "patience", "checkpoint", "checkpoint_every")
    of_fit = {name: settings.pop(name) for name in names if name in settings}
    return EM(circuit, **settings).fit(x, missing, progress=False, **of_fit)


def small(seed: int = 0, **settings: Any) -> tuple[Circuit, Tensor]:
    x = data(DISCRETE, 100, seed)
    return Circuit(random_graph(DISCRETE, seed), seed=seed, **settings), x


def assert_same(left: Circuit, right: Circuit) -> None:
    """Bit by bit."""
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# --- oracles ---


def test_one_step_of_the_toy_circuit() -> None:
    circuit, x = toy(), torch.tensor([[0, 1, 2, 0], [2, 2, 2, 2], [0, 0, 0, 1]])
    torch.testing.assert_close(circuit.log_prob(x[:2]).exp().tolist(), [0.00612, 0.035535], rtol=1e-9, atol=0)
    sums = {tuple(flow.shape): flow[0] for flow in circuit.flows(x).sums}
    assert sums[1, 1, 2][0].tolist() == pytest.approx([1.9621524, 1.0378476], abs=5e-8)
    expected = torch.tensor([[1.89424798, 0.06790442], [0.03993953, 0.99790807]], dtype=torch.float64)
    torch.testing.assert_close(sums[1, 2, 2], expected, rtol=0, atol=5e-9)
    history = fit(circuit, x, batch_size=None, pseudocount=0.0, epochs=1)
    assert history.train == pytest.approx([-3.829956161], abs=5e-10)
    assert circuit.log_prob(x).mean().item() == pytest.approx(-2.144302029, abs=5e-10)
    prior = next(w for w in circuit.weights() if w.shape[1] == 1)
    assert prior.flatten().tolist() == pytest.approx([0.6540508, 0.3459492], abs=5e-8)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_digits_reach_the_known_bits(seed: int) -> None:
    from sklearn.datasets import load_digits  # not for the processes that import this file

    x = torch.tensor(load_digits().data).long()
    circuit = hclt(x[:1297], latents=8, categories=17, seed=seed)
    fit(circuit, x[:1297], batch_size=None, pseudocount=1.0, epochs=60)
    with torch.no_grad():
        bits = -circuit.log_prob(x[1297:]).mean().item() / 64 / math.log(2)
    assert bits < 2.06


# --- invariants ---


@pytest.mark.parametrize("with_holes", [False, True])
@pytest.mark.parametrize(("families", "outer"), [(DISCRETE, False), (DISCRETE, True), (MIXED, False), (MIXED, True)])
def test_full_batches_never_lower_the_likelihood(families: list[Any], outer: bool, with_holes: bool) -> None:
    for seed in range(2):
        x = data(families, 60, seed)
        missing = holes(x, seed) if with_holes else None
        circuit = Circuit(random_graph(families, seed, outer=outer), data=x, missing=missing, seed=seed).double()
        train = fit(circuit, x, missing, batch_size=None, pseudocount=0.0, epochs=8).train
        with torch.no_grad():
            train.append(circuit.log_prob(x, missing).mean().item())
        assert all(b >= a - 1e-9 for a, b in pairwise(train)), (seed, train)
        assert train[-1] > train[0] + 0.05


@pytest.mark.parametrize("families", [DISCRETE, MIXED])
def test_flows_are_theta_times_the_gradient(families: list[Any]) -> None:
    x = data(families, 40, 1)
    missing = holes(x, 1)
    circuit = Circuit(random_graph(families, 1), data=x).double()
    flows = circuit.flows(x, missing)
    weights = [w.detach().requires_grad_() for w in circuit.weights()]
    leaves = [layer(circuit.evidence(x, missing)) for layer in circuit.inputs]
    slopes = torch.autograd.grad(circuit.upward(leaves, weights)[-1].sum(), weights)
    for flow, w, slope in zip(flows.sums, weights, slopes, strict=True):
        torch.testing.assert_close(flow, w.detach() * slope, rtol=1e-9, atol=1e-12)
    root = max(range(len(flows.sums)), key=lambda i: len(circuit.sums) - (circuit.sums[i].shape[1] != 1))
    assert flows.sums[root].sum().item() == pytest.approx(40)


def test_adam_learns_too() -> None:
    x = data(MIXED, 100, 2)
    circuit = Circuit(random_graph(MIXED, 2), data=x)
    optimizer = torch.optim.Adam(circuit.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(-circuit.log_prob(x).mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5


def test_a_step_is_a_mean_of_old_and_new() -> None:
    (half, x), (whole, _), (old, _) = small(), small(), small()
    fit(half, x, batch_size=None, step=0.5, epochs=1)
    fit(whole, x, batch_size=None, step=1.0, epochs=1)
    for h, w, o in zip(half.weights(), whole.weights(), old.weights(), strict=True):
        torch.testing.assert_close(h, (w + o) / 2)


def test_chunks_do_not_change_full_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, x), (other, _) = small(), small()
    fit(one.double(), x, batch_size=None, epochs=3)
    monkeypatch.setattr("probkernels.circuits._training.CHUNK", 7)
    fit(other.double(), x, batch_size=None, epochs=3)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# --- schedules and batches ---


def test_schedules() -> None:
    steps = PiecewiseLinear(((0.0, 0.8), (0.5, 0.1), (1.0, 0.01)))
    assert [round(steps(t), 4) for t in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.8, 0.45, 0.1, 0.055, 0.01]
    for bad in ([(0.0, 0.1)], [(0.0, 0.1), (0.9, 0.1)], [(0.0, 0.0), (1.0, 0.1)], [(0.0, 1.1), (1.0, 0.1)]):
        with pytest.raises(ValueError, match="PiecewiseLinear"):
            PiecewiseLinear(tuple(bad))


def test_the_schedule_sees_how_much_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit, x = small()
    seen: list[float] = []
    fit(circuit, x, batch_size=30, epochs=2, step=lambda done: seen.append(done) or 0.5)
    assert seen == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])  # 100 items: three whole batches an epoch


def test_batches_are_shuffled_by_the_seed_and_whole() -> None:
    circuit, _ = small()
    em = EM(circuit, batch_size=30, seed=1)
    first, second = em._batches(100, 0), em._batches(100, 1)
    assert [len(b) for b in first] == [30, 30, 30]
    assert len(torch.cat(first).unique()) == 90
    assert torch.equal(torch.cat(first), torch.cat(em._batches(100, 0)))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert not torch.equal(torch.cat(first), torch.cat(EM(circuit, batch_size=30, seed=2)._batches(100, 0)))
    assert [len(b) for b in EM(circuit, batch_size=512)._batches(100, 0)] == [100]  # never nothing


def test_momentum_averages_flows() -> None:
    (circuit, x), (plain, _) = small(), small()
    fit(circuit.double(), x, batch_size=None, momentum=0.9, epochs=1)
    fit(plain.double(), x, batch_size=None, epochs=1)
    for a, b in zip(circuit.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)  # the first average is of one step
    history = fit(circuit, x, batch_size=25, momentum=0.9, step=0.4, pseudocount=1e-6, epochs=6)
    assert history.train[-1] > history.train[0] + 0.1


# --- early stopping ---


def test_the_best_parameters_are_kept() -> None:
    x = torch.randint(0, 5, (60, 6), generator=torch.Generator().manual_seed(0))
    circuit = Circuit(hclt_graph([1, -1, 1, 2, 2, 1], [Categorical(5)] * 6, 6))
    history = fit(circuit, x[:30], batch_size=None, pseudocount=0.01, epochs=50, validation=x[30:], patience=5)
    values = dict(history.validation)
    assert values[history.best] == max(values.values())
    assert len(history.train) == history.best + 5 < 50
    with torch.no_grad():
        assert circuit.log_prob(x[30:]).mean().item() == pytest.approx(values[history.best], abs=1e-4)


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    x = torch.randint(0, 5, (60, 6), generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"batch_size": None, "pseudocount": 0.01, "validation": x[30:], "patience": 2}
    first, again = (Circuit(hclt_graph([1, -1, 1, 2, 2, 1], [Categorical(5)] * 6, 6), seed=s) for s in (0, 1))
    rest: dict[str, Any] = {"epochs": 50, "checkpoint": tmp_path / "run", "checkpoint_every": 40}
    runs = [fit(circuit, x[:30], **rest, **settings) for circuit in (first, again)]
    assert len(runs[0].train) < 40 and runs[0].train == runs[1].train
    assert_same(first, again)


def test_checks_come_every_so_often_and_at_the_end() -> None:
    circuit, x = small()
    missing = holes(x, 0)
    history = fit(circuit, x, batch_size=50, epochs=7, validation=(x, missing), check_every=3)
    assert [epoch for epoch, _ in history.validation] == [3, 6, 7]
    assert fit(circuit, x, batch_size=50, epochs=2).best == 2


# --- interruptions ---


class Interrupting(EM):
    """Presses Ctrl-C in the middle of one of its steps."""

    press = 0

    def _average(self, run: Any, flows: Any) -> None:
        super()._average(run, flows)
        self.press -= 1
        if self.press == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_the_last_finished_step() -> None:
    (circuit, x), (other, _) = small(), small()
    em = Interrupting(circuit, batch_size=25, step=0.3)
    em.press = 6
    with pytest.raises(KeyboardInterrupt):
        em.fit(x, epochs=3, progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    em = EM(other, batch_size=25, step=0.3)  # the same six steps
    at, order = other.probabilities(), [*em._batches(100, 0), *em._batches(100, 1)[:2]]
    for items in order:
        other.em_update_(other.flows(x[items], at=at), at, 0.3, 0.1)
    other.load_probabilities_(at)
    assert_same(circuit, other)


@pytest.mark.parametrize("families", [DISCRETE, MIXED])
@pytest.mark.parametrize("settings", [{"batch_size": 25, "momentum": 0.5}, {"batch_size": None}])
def test_resuming_gives_the_same_bits(families: list[Any], settings: dict[str, Any], tmp_path: Path) -> None:
    x, file = data(families, 100, 3), tmp_path / "run"
    missing, rest = holes(x, 4), {"validation": x[:20], "epochs": 6, "check_every": 2}
    straight, broken, again = (Circuit(random_graph(families, 3), data=x, seed=s) for s in (0, 0, 9))
    expected = fit(straight, x, missing, **settings, **rest)
    em = Interrupting(broken, **settings)
    em.press = 15 if settings["batch_size"] else 4
    with pytest.raises(KeyboardInterrupt):
        em.fit(x, missing, checkpoint=file, progress=False, **rest)
    for _ in range(2):  # the second time there is nothing left to do
        got = fit(again, x, missing, **settings, **rest, checkpoint=file)
        assert (got.train, got.validation, got.best) == (expected.train, expected.validation, expected.best)
        assert_same(again, straight)


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    circuit, x = small()
    fit(circuit, x, epochs=1, checkpoint=tmp_path / "run")
    for changed, why in (({"seed": 1}, "seed"), ({"pseudocount": 0.2}, "pseudocount"), ({"step": 0.5}, "step")):
        with pytest.raises(pk.ModelMismatchError, match=why):
            fit(circuit, x, epochs=1, checkpoint=tmp_path / "run", **changed)
    with pytest.raises(pk.ModelMismatchError, match="circuit"):
        fit(Circuit(random_graph(DISCRETE, 7)), x, epochs=1, checkpoint=tmp_path / "run")
    with pytest.raises(pk.ModelMismatchError, match="x"):
        fit(circuit, x[:50], epochs=1, checkpoint=tmp_path / "run")
    mask = torch.zeros(len(x), x.shape[1], dtype=torch.bool)
    mask[0, 0] = True
    others: list[tuple[Tensor, Tensor | None, dict[str, Any], str]] = [
        (x.flip(0), None, {}, "x"), (x, mask, {}, "missing"), (x, None, {"validation": x}, "validation"),
        (x, None, {"step": lambda part: 0.7}, "step"), (x, None, {"epochs": 2}, "epochs"),
    ]  # fmt: skip
    for observations, missing, changed, why in others:  # of the same shapes
        with pytest.raises(pk.ModelMismatchError, match=f"differs in {why}"):
            fit(circuit, observations, missing, checkpoint=tmp_path / "run", **{"epochs": 1, **changed})
    constant: dict[str, Any] = {"step": 0.3, "checkpoint": tmp_path / "longer"}
    fit(circuit, x, epochs=3, **constant)
    before = {name: value.clone() for name, value in circuit.state_dict().items()}
    with pytest.raises(pk.ModelMismatchError, match=r"'epochs': expected at least 3, .*longer', got 2.*Hint"):
        fit(circuit, x, epochs=2, **constant)
    assert all(torch.equal(value, before[name]) for name, value in circuit.state_dict().items())
    pk.circuits.save(circuit, tmp_path / "circuit")
    (tmp_path / "cut").write_bytes((tmp_path / "run").read_bytes()[:-1])
    for name in ("circuit", "cut"):
        with pytest.raises(pk.CorruptStreamError):
            fit(circuit, x, epochs=1, checkpoint=tmp_path / name)


# --- several processes ---

CASES: list[dict[str, Any]] = [
    {"batch_size": 25, "momentum": 0.3},
    {"batch_size": None},
    {"batch_size": 1, "step": 0.1},
]


def trained(case: int, group: Any, seed: int) -> tuple[dict[str, Tensor], Any]:
    x = data(MIXED, 5 if case == 2 else 51, 5)  # one at a time leaves nothing for the second process
    circuit = Circuit(random_graph(MIXED, 5), data=x, seed=seed).double()
    em = EM(circuit, group=group, **CASES[case])
    history = em.fit(x, holes(x, 5), validation=x[:11], epochs=3, progress=False)
    return circuit.state_dict(), (history.train, history.validation, history.best)


def _together(rank: int) -> list[Any]:
    group = torch.distributed.group.WORLD
    return [trained(case, group, seed=0 if rank == 0 else 100) for case in range(len(CASES))]


@pytest.mark.slow
def test_two_processes_equal_one() -> None:
    alone = [trained(case, None, seed=0) for case in range(len(CASES))]
    results = on_two_processes(_together)
    assert len(results) == WORLD
    for found in results:
        for (state, history), (wanted_state, wanted_history) in zip(found, alone, strict=True):
            torch.testing.assert_close(state, wanted_state, rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(history, wanted_history, rtol=1e-10, atol=1e-12)


# --- wrong input ---


def test_wrong_input_is_named() -> None:
    circuit, x = small()
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"step": 0.0}, ValueError, "step"), ({"step": "fast"}, TypeError, "step"),
        ({"pseudocount": -1}, ValueError, "pseudocount"), ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, TypeError, "batch_size"), ({"momentum": 1.0}, ValueError, "momentum"),
        ({"epochs": 0}, ValueError, "epochs"), ({"patience": -1}, ValueError, "patience"),
        ({"check_every": 0}, ValueError, "check_every"), ({"checkpoint_every": True}, TypeError, "checkpoint_every"),
    ]  # fmt: skip
    for settings, kind, name in wrong:
        with pytest.raises(kind, match=f"EM.*'{name}'"):
            fit(circuit, x, **settings)
    with pytest.raises(TypeError, match="a Circuit"):
        EM(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one observation"):
        fit(circuit, x[:0])
    with pytest.raises(ValueError, match="values 0"):
        fit(circuit, x + 10)
    before = {name: t.clone() for name, t in circuit.state_dict().items()}
    with pytest.raises(ValueError, match="values 0"):
        fit(circuit, torch.cat([x, x[:1] + 10]), batch_size=10)  # noticed before the first step
    assert all(torch.equal(before[name], t) for name, t in circuit.state_dict().items())
    assert em_module.EM is pk.circuits.EM
