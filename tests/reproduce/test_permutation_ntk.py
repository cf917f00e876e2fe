"""The experiment with permutations: its shares of exact inputs, its numbers of networks, a miniature run."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce.permutation_ntk import experiment
from probkernels.reproduce.permutation_ntk.records import EXPECTED_MODELS, LARGE, NTK, STANDARD, Trained

from tests.reproduce.support import Sum, run_here


def test_an_input_counts_only_if_all_bits_of_the_mean_are_right() -> None:
    truth = torch.tensor([[1, 0], [1, 1]])
    good, bad = [[1.0, -0.1], [0.5, 0.5]], [[1.0, 0.3], [0.5, -0.1]]
    outputs = torch.tensor([good, bad, good, good, bad]).double()
    assert experiment.exactness(outputs, truth, 1) == pytest.approx(0.6)
    assert experiment.exactness(outputs, truth, 2) == pytest.approx(3 / 4)  # the last network has no group


def test_numbers_of_networks_have_the_figures() -> None:
    for k, (ntk, standard, _) in EXPECTED_MODELS.items():
        assert abs(experiment.needed(k) - ntk) <= 1 and abs(experiment.needed(k, "nngp") - standard) <= 1


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "LARGE", LARGE[:2])
    small = [(NTK, 3, 64, 6, 0), (STANDARD, 3, 64, 6, 1)]
    monkeypatch.setattr(experiment, "jobs", lambda quick: small)
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 2 and len(records) == 4
    again = experiment.measure(True, None, Sum())
    for one, other in zip(records[:2], again[:2], strict=True):
        assert isinstance(one, Trained) and isinstance(other, Trained)
        assert one.mean_zero == other.mean_zero and set(one.exact) == {1, 5, 6}
