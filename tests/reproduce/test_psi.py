"""The PSI experiment: its sequences and schedule, the exact figures, a miniature run."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import psi
from probkernels.reproduce.psi import experiment, model, records

from tests.reproduce.made_up_rooms import of_psi
from tests.reproduce.support import Sum, run_here


def test_exact_figures_are_the_expected_ones() -> None:
    found = [records.Exact(name, value) for name, value in experiment.exact_figures().items()]
    assert [r.name for r in found] and set(records.exact(found)) == set(records.EXPECTED)
    assert [claim for claim in psi.claims.claims(found) if not claim.holds] == []


def test_sequences_hold_flow_of_the_object_in_half_of_the_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = model.RECIPES["a"].world.sample(64, generator)
    known = model.sequence(scenes, 3, generator)
    assert list(known) == ["rgb0", "flow", "rgb1"] and list(model.sequence(scenes, 0, generator)) == ["rgb0", "rgb1"]
    for name, (at, value) in known.items():
        assert torch.equal(scenes.values[name].gather(1, at), value)
    on_object = (scenes.owner0.gather(1, known["flow"][0]) >= 0).sum(1)
    assert 20 <= (on_object == 3).sum() <= 44 and (on_object == 0).any()
    assert not torch.equal(known["rgb0"][0][0], known["rgb0"][0][1])


def test_pace_warms_up_stays_and_falls() -> None:
    found = [model.pace(step, 1000) for step in (0, 99, 400, 700, 850, 999)]
    assert found == pytest.approx([0.01, 1, 1, 1, 0.5, 1 / 300])


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [("small",), ("b",)])
    for name in ("JUDGED", "SEGMENTED", "TRACED"):
        monkeypatch.setattr(experiment, name, 4)
    for world in ("small", "b"):
        monkeypatch.setitem(records.STEPS, world, 2)
    progress = Sum()
    found = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 4
    small, large = records.trained(found)
    assert small.hit is None and large.hit is not None and large.error is not None and len(records.scenes(found)) == 1
    assert all(net.steps == 2 and 5 < net.nll < 200 and 0 <= net.iou <= 1 for net in (small, large))
    assert experiment.measure(True, None, Sum()) == found


def test_claims_name_what_was_measured() -> None:
    found = psi.claims.claims(of_psi(worse=False))
    assert len(found) == len(records.EXPECTED) + 5 + 5 + 3
    assert [claim.measured for claim in found[-3:]] == pytest.approx([2.53, 0.006, 0.95])
