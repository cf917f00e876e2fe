"""The AdjointDPM experiment: its model, its measures, a miniature run, its plots; the claims themselves are slow."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from probkernels.diffusion import VP, Denoiser, sample
from probkernels.reproduce import adjoint_dpm
from probkernels.reproduce.adjoint_dpm import experiment, peers
from probkernels.reproduce.adjoint_dpm import model as trained
from probkernels.reproduce.adjoint_dpm.claims import claims, growth, success
from probkernels.reproduce.adjoint_dpm.records import CONTINUOUS, EXACT, ONE_STEP

from tests.reproduce.made_up import of_adjoint_dpm
from tests.reproduce.support import Sum, WorkersHere


@pytest.fixture(scope="module")
def states() -> tuple[trained.State, trained.State]:
    """Of a model that has barely learned."""
    pytest.importorskip("sklearn")
    *found, accuracy = trained.train(40, 32, lambda amount: None)
    assert accuracy > 0.95  # the classifier always trains in full
    return tuple(found)


# --- the model ---


def test_images_are_all_digits() -> None:
    pytest.importorskip("sklearn")
    images, labels = trained.digits()
    assert images.shape == (1797, 64) and (images.min(), images.max()) == (-1, 1)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_net_takes_digits_or_their_embeddings() -> None:
    net = trained.Net()
    assert sum(p.numel() for p in net.parameters()) == 117_728
    x, t, labels = torch.randn(3, 64), torch.rand(3), torch.tensor([0, 4, 10])
    y = net(x, t, labels)
    torch.testing.assert_close(net(x, t, net.classes(labels)), y)
    assert not torch.allclose(net(x, t, labels.flip(0)), y)
    assert not torch.allclose(net(x, t.flip(0), labels), y)


def test_restored_model_is_frozen_and_in_the_dtype_asked_for(states: tuple[trained.State, trained.State]) -> None:
    for module in trained.restore(states, torch.float64):
        assert all(p.dtype == torch.float64 and not p.requires_grad for p in module.parameters())


# --- the measures ---


def test_attack_moves_every_row_by_one_length_a_step(
    states: tuple[trained.State, trained.State], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = experiment.sample

    def watched(model: Denoiser, x_T: torch.Tensor, **settings: object) -> torch.Tensor:
        seen.append(x_T.detach().clone())
        return real(model, x_T, **settings)

    monkeypatch.setattr(experiment, "sample", watched)
    (done,) = experiment.work("attack", 10, EXACT, 0, states, lambda amount: None)
    assert len(seen) == len(done.success) == experiment.ATTACKS + 1
    for before, after in itertools.pairwise(seen[:4]):  # later, who has won for certain has no gradient left
        torch.testing.assert_close((after - before).norm(dim=1), torch.full((64,), 0.5), rtol=1e-4, atol=0)
    assert done.success[-1] > done.success[0] + 0.2


def test_exact_agrees_with_autograd_and_the_continuous_adjoint_does_not(
    states: tuple[trained.State, trained.State],
) -> None:
    gaps = {a.solver: a.gap for a in experiment.work("agree", states, lambda amount: None)}
    assert gaps.keys() == set(experiment.SOLVERS) and max(gaps.values()) < 1e-12
    errors, *more = experiment.work("errors", "ddim", 10, states, lambda amount: None)
    assert errors.errors[0] > 0.5 and errors.cosine < 0.9
    if peers.has_torchdiffeq():
        (theirs,) = more
        assert theirs.errors == pytest.approx(errors.errors, rel=1e-9)
        assert theirs.way == "torchdiffeq" and theirs.cosine == pytest.approx(errors.cosine)


def test_errors_are_relative_to_the_second() -> None:
    one, other = [torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 4.0])]
    assert experiment._gaps(one, other) == [1.25]


def test_bytes_grow_by_one_state_a_step(states: tuple[trained.State, trained.State]) -> None:
    found = experiment.work("bytes", states, lambda amount: None)
    assert [b.gradient for b in found] == ["autograd", EXACT, CONTINUOUS, "reversible"]
    assert all(b.state == 64 * 64 * 4 for b in found)
    assert [growth(found, way) for way in (EXACT, CONTINUOUS, "reversible")] == [1, 1, 0]
    assert growth(found, "autograd") > 5


def test_bytes_of_one_storage_count_once() -> None:
    x = torch.ones(1000, requires_grad=True)
    with peers.counting_saved_bytes() as count:
        y = x.view(10, 100).square().sum() + x.square().sum()
    assert count() == 4000 and y == 2000


@pytest.mark.parametrize("solver", peers.TORCHDIFFEQ)
def test_torchdiffeq_takes_the_same_steps(solver: str) -> None:
    pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    model = Denoiser(trained.Net(), VP(), pred="v").double()
    x, cond = torch.randn(2, 64, dtype=torch.float64), torch.randn(2, 32, dtype=torch.float64)
    mine = sample(model, x, solver=solver, steps=5, cond=cond)
    torch.testing.assert_close(peers.by_torchdiffeq(model, x, cond, solver, 5), mine, rtol=1e-9, atol=1e-9)


# --- the run ---


def test_miniature_run_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    real = trained.train
    monkeypatch.setattr(trained, "train", lambda steps, batch, advance: real(20, 16, lambda n: advance(steps / 20 * n)))
    monkeypatch.setattr(experiment, "Workers", WorkersHere)
    monkeypatch.setattr(experiment, "ATTACKS", 2)
    monkeypatch.setattr(experiment, "TUNINGS", 2)
    here = Sum()
    result = adjoint_dpm.run(quick=True, data=None, progress=here)
    assert here.done == pytest.approx(here.total)
    assert len(result.claims) == 8 and not any(math.isnan(claim.measured) for claim in result.claims)
    assert len(result.tables) == 5 and len(result.figures) == 3
    attacks = {(row[0], row[1]): row[3].count(",") + 1 for row in result.tables[0].rows}
    assert attacks == {
        ("10", EXACT): 2, ("10", CONTINUOUS): 2, ("20", EXACT): 1, ("20", CONTINUOUS): 1, ("20", ONE_STEP): 1
    }  # fmt: skip


def test_same_seed_same_attack(states: tuple[trained.State, trained.State]) -> None:
    one, same, other = (
        experiment.work("attack", 10, CONTINUOUS, seed, states, lambda amount: None)[0] for seed in (0, 0, 1)
    )
    assert one == same and one.before != other.before


def test_claims_tell_what_was_measured() -> None:
    records = of_adjoint_dpm(worse=False)
    assert claims(records)[0].measured == pytest.approx(96.6)
    assert success(records, 10, EXACT) == [0.966] * 5
    table = adjoint_dpm.claims.tables(records)[0]
    assert [row[0] for row in table.rows] == ["10", "10", "20", "20", "20", "50", "50"]
    assert "99.0%" in table.caption
