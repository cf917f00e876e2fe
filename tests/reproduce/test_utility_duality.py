"""The experiment on utility-probability duality: its labels, a miniature run, its table."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import utility_duality
from probkernels.reproduce.utility_duality import experiment
from probkernels.reproduce.utility_duality.records import EXACT, NOISE, SCALES, of_digits, of_sequences

from tests.reproduce.made_up import of_utility_duality
from tests.reproduce.support import still, summarize


def test_a_share_of_labels_is_random() -> None:
    torch.manual_seed(0)
    labels = torch.zeros(20_000, dtype=torch.int64)
    wrong = experiment.noisy(labels, 0.3) != labels
    assert wrong.double().mean().item() == pytest.approx(0.27, abs=0.02)
    assert torch.equal(experiment.noisy(labels, 0.0), labels)


def test_sequences_are_exact() -> None:
    records = of_sequences(experiment.work("sequences", 1, still))
    assert [record.b for record in records] == list(EXACT)
    for record in records:
        assert (record.token, record.sequence) == pytest.approx(EXACT[record.b], abs=5e-8)


def test_judging_of_utilities() -> None:
    torch.manual_seed(0)
    labels = torch.arange(200) % 10
    utility = torch.nn.functional.one_hot(labels, 10) + torch.randn(200, 10) / 2
    record = experiment.judge(utility, labels, NOISE, 7)
    accuracy = (utility.argmax(1) == labels).double().mean().item()
    assert record.seed == 7 and record.best == accuracy and record.changed == 0
    own = torch.arange(200), labels
    for b in SCALES:
        assert record.drawn[b] == pytest.approx((b * utility).softmax(1)[own].mean().item(), abs=1e-6)
    assert record.held_out[1] > record.held_out[0] and record.fitted_b > 1


def test_miniature_run() -> None:
    pytest.importorskip("sklearn")
    (record,) = experiment.work("digits", 1, NOISE, 0, still)
    assert record.best > 0.5 and record.drawn[4.0] > record.drawn[1.0]


def test_tables_show_what_was_expected() -> None:
    records = of_utility_duality(worse=False)
    result = summarize(utility_duality, records)
    rows = {row[0]: row for row in result.tables[0].rows}
    assert rows["drawn, b = 2"][1:] == ["0.848", "0.000", "0.848 (0.018)"]
    assert len(of_digits(records)) == 5 and len(result.claims) == 7 and len(result.tables) == 2
