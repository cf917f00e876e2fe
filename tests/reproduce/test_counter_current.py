"""The counter-current experiment: its data, a miniature run, and what gradients keep."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.reproduce.counter_current import experiment, model
from probkernels.reproduce.counter_current.records import (
    AUTOGRAD,
    BLOCKWISE,
    CLOSED,
    DEPTHS,
    DIGITS,
    MNIST,
    MNIST1D,
    PLAIN,
    RULES,
    Kept,
    Trained,
    kept,
)  # fmt: skip
from torch import nn

from tests.reproduce.support import Sum, run_here


def test_digits_are_standardized_and_split() -> None:
    pytest.importorskip("sklearn")
    data = model.digits()
    assert [len(y) for _, y in (data.train, data.test)] == [1347, 450]
    assert data.validation is None
    assert float(data.train[0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train[0].std()) == pytest.approx(1, abs=1e-5)


def test_images_are_split(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (10_050, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", xtr=x, ytr=np.arange(10_050) % 10, xte=x[:3])
    data = model.load(MNIST, tmp_path)
    assert data.validation is not None
    assert [len(y) for _, y in (data.train, data.validation, data.test)] == [45, 5, 10_000]
    assert torch.equal(data.test[1], torch.arange(50, 10_050) % 10)
    signals, y = generator.normal(size=(20, 40)), np.arange(20) % 10
    np.savez(tmp_path / "mnist1d.npz", x=signals, y=y, x_test=signals[:4], y_test=y[:4])
    assert model.load(MNIST1D, tmp_path).train[0].shape == (18, 40)


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setitem(model.SETUPS, DIGITS, model.Setup((16, 16), 128, 2))
    monkeypatch.setattr(experiment, "jobs", lambda quick: [(DIGITS, rule, 0) for rule in RULES])
    monkeypatch.setattr(experiment, "memory", list)
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 2 * len(RULES)
    trained = [r for r in records if isinstance(r, Trained)]
    assert [r.rule for r in trained] == list(RULES)
    assert all(len(r.curve) == 2 and r.accuracy == r.curve[-1] for r in trained)
    assert all(len(r.cosines) == 3 * ("counter" in r.rule) == len(r.cka) for r in trained)
    assert experiment.measure(True, None, Sum()) == records


def test_a_missing_file_is_named_before_training(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(FileNotFoundError, match=r"mnist\.npz"):
        experiment.measure(False, tmp_path, Sum())


def test_bytes_kept_do_not_grow_with_depth() -> None:
    records: list[Trained | Kept] = list(experiment.memory())
    assert [r.size for r in kept(records, CLOSED)] == [0] * len(DEPTHS)
    state, codes = 128 * 128 * 4, 10 * 128 * 4
    for form in (PLAIN, AUTOGRAD):
        sizes = [r.size for r in kept(records, form)]
        assert all(later - sooner >= 8 * state for sooner, later in itertools.pairwise(sizes[2:]))
    first, *_, last = kept(records, BLOCKWISE)
    assert last.size - first.size <= 4 * codes * (last.depth - first.depth)


def test_rules_train_what_they_name() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 6), torch.arange(30) % 10
    data, setup = model.Data((x, y), None, (x, y)), model.Setup((5, 5), 10, 1)
    for rule, moved in zip(RULES, ("UUU", "UUUVVV", "UUUVVV", "UUU", "U", "U"), strict=True):
        found: list[nn.Module] = []
        trained = model.train(rule, data, setup, 0, lambda epoch, net, found=found: found.append(net))  # type: ignore[misc]
        torch.manual_seed(0)
        start = model.network(6, *(() if rule == "linear classifier" else (5, 5)), 10)
        changed = "".join(
            "U" for a, b in zip(start.parameters(), found[0].parameters(), strict=True) if not torch.equal(a, b)
        )
        if trained is not None:
            from probkernels.local_learning import mirror

            before = mirror(start)
            changed += "".join(
                "V"
                for a, b in zip(before.parameters(), trained.feedback_net.parameters(), strict=True)
                if not torch.equal(a, b)
            )
        assert changed == moved, rule
    assert math.isfinite(model.accuracy(start, (x, y))[1])
