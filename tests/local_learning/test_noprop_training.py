"""Training NoProp: stacked blocks equal blocks one by one and blocks on two processes; bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from probkernels.local_learning import LabelSchedule, NoPropCT, NoPropDT, NoPropFM, fit_noprop
from torch import Tensor, nn

from tests.local_learning.noprop_nets import CLASSES, INPUTS, Block, TimeNet, data, model
from tests.nn.test_distributed import on_two_processes


def fitted(
    group: dist.ProcessGroup | None = None, embed: Any = "onehot", **options: Any
) -> tuple[NoPropDT, list[float]]:
    torch.manual_seed(0)
    m = NoPropDT([Block(dim=CLASSES if embed == "onehot" else embed, norm=True) for _ in range(4)], CLASSES, embed)
    x, y = data(33)  # the last batch of one row joins the one before
    generator = torch.Generator().manual_seed(7)
    options = {"epochs": 2, "batch_size": 16, "lr": 0.01, "progress": False, **options}
    return m, fit_noprop(m, x, y, generator=generator, group=group, **options)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("embed", ["onehot", 3])
def test_stacked_training_is_training_one_by_one(embed: str | int) -> None:
    one, losses = fitted(embed=embed)
    other, others = fitted(embed=embed, stacked=False)
    assert len(losses) == 4 and losses == pytest.approx(others, rel=1e-4)
    same(one.state_dict(), other.state_dict())
    assert int(one.blocks[3].net[1].num_batches_tracked) == 4


def test_training_is_repeatable_and_learns() -> None:
    one, losses = fitted(epochs=60)
    other, others = fitted(epochs=60)
    assert losses == others
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    x, y = data(33)
    assert (one.predict(x, noise=False, generator=torch.Generator().manual_seed(0)) == y).float().mean() > 0.8


def test_parameters_that_are_frozen_stay() -> None:
    m, (x, y) = model(), data()
    for block in m.blocks:
        block.net[0].weight.requires_grad_(False)
    before = m.blocks[1].net[0].weight.clone()
    fit_noprop(m, x, y, epochs=1, progress=False)
    assert torch.equal(m.blocks[1].net[0].weight, before)


@pytest.mark.parametrize("cls", [NoPropCT, NoPropFM])
@pytest.mark.parametrize("embed", ["onehot", 8])
def test_continuous_models_learn(cls: type[Any], embed: str | int) -> None:
    torch.manual_seed(0)
    m = cls(TimeNet(32, dim=CLASSES if embed == "onehot" else 8), CLASSES, embed)
    x, y = data(128)
    before = {name: value.clone() for name, value in m.named_parameters()}
    fit_noprop(m, x, y, epochs=80, lr=0.01, generator=torch.Generator().manual_seed(0), progress=False)
    right = (m.predict(x, steps=20, generator=torch.Generator().manual_seed(1)) == y).float().mean()
    assert right > 0.8, right
    changed = {name for name, value in m.named_parameters() if not torch.equal(value, before[name])}
    assert ("embedding.weight" in changed) == (embed != "onehot")
    assert cls is NoPropFM or {"schedule.inner", "schedule.log_range", "schedule.stop"} <= changed


# --- two processes ---


def body(rank: int) -> dict[str, Any]:
    group = dist.group.WORLD
    found: dict[str, Any] = {}
    for embed in ("onehot", 3):
        m, losses = fitted(group, embed)
        found[str(embed)] = {"state": m.state_dict(), "losses": losses}
    errors = []
    x, y = data()
    for m, generator in (
        (model(), None),
        (model(), torch.Generator().manual_seed(rank)),
        (model(1), torch.Generator().manual_seed(0)),
    ):
        try:
            fit_noprop(m, x, y, epochs=1, generator=generator, group=group, progress=False)
        except ValueError as error:
            errors.append(str(error))
    return {**found, "errors": errors}


def test_two_processes_share_the_blocks() -> None:
    results = on_two_processes(body)
    for embed in ("onehot", 3):
        alone, losses = fitted(embed=embed)
        for result in results:
            same(result[str(embed)]["state"], alone.state_dict())
            assert result[str(embed)]["losses"] == pytest.approx(losses, rel=1e-4)
        states = [result[str(embed)]["state"] for result in results]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for result in results:
        missing, unequal, many = result["errors"]
        assert "'generator': expected a generator in a distributed run, got None" in missing
        assert "'generator': expected the same state on all processes" in unequal
        assert "'group': expected at most 1 processes, one a block, got 2" in many


# --- bad input ---

X, Y = data()


class Wide(nn.Module):
    def forward(self, z: Tensor, x: Tensor, t: Tensor | None = None) -> Tensor:
        return torch.zeros(len(z), CLASSES + 1)


def nan_at_3() -> Tensor:
    x = X.clone()
    x[3, 1] = torch.nan
    return x


def shared() -> NoPropDT:
    m = model(2)
    m.blocks[1].net[0] = m.blocks[0].net[0]
    return m


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no blocks": (lambda: NoPropDT([], 4), ValueError, r"'blocks': expected at least one block \(T >= 1\), got none"),
    "no module": (lambda: NoPropDT([len], 4), TypeError, r"'blocks\[0\]': expected a module"),  # type: ignore[list-item]
    "one block twice": (lambda: NoPropDT([Block()] * 2, 4), ValueError, "the same module twice"),
    "other length": (
        lambda: NoPropDT([Block()], 4, schedule=LabelSchedule.cosine(3)), ValueError, "'schedule': expected 1 steps"
    ),
    "one class": (lambda: NoPropDT([Block()], 1), ValueError, "'num_classes': expected a number >= 2, got 1"),
    "eta": (lambda: NoPropDT([Block()], 4, eta=0), ValueError, "'eta'"),
    "head": (lambda: NoPropDT([Block()], 4, head="radiel"), ValueError, "did you mean 'radial'"),
    "T = 0": (lambda: LabelSchedule.cosine(0), ValueError, "'steps': expected a number >= 1, got 0"),
    "falling": (lambda: LabelSchedule([0.5, 0.2]), ValueError, "'abar'"),
    "clean end": (lambda: LabelSchedule([0.5, 1.0]), ValueError, "'abar'"),
    "block 0": (lambda: model().block_loss(0, X, Y), ValueError, "'t': expected 1 to 4, got 0"),
    "empty": (lambda: model().block_loss(1, X[:0], Y[:0]), ValueError, "'x': expected a batch of at least one row"),
    "empty sample": (lambda: model().sample(X[:0]), ValueError, "'x': expected a batch of at least one row"),
    "label": (lambda: model().loss(X, Y + 1), ValueError, r"'y': expected classes 0 to 3, got 4 at \["),
    "negative label": (lambda: fit_noprop(model(), X, Y - 1), ValueError, r"'y': expected classes 0 to 3, got -1 at"),
    "float labels": (lambda: model().loss(X, Y.float()), TypeError, "'y': expected an integer tensor"),
    "fewer labels": (lambda: model().loss(X, Y[1:]), ValueError, r"'y': expected shape \(32,\)"),
    "NaN": (lambda: fit_noprop(model(), nan_at_3(), Y), ValueError, r"'x': expected finite numbers, got nan at \[3"),
    "NaN in predict": (lambda: model().predict(nan_at_3()), ValueError, r"nan at \[3, 1\]"),
    "one row": (
        lambda: model(norm=True).block_loss(1, X[:1], Y[:1]), ValueError, "'x': expected at least 2 rows in training"
    ),
    "batches of one": (lambda: fit_noprop(model(norm=True), X, Y, batch_size=1), ValueError, "at least 2 rows"),
    "unequal widths": (
        lambda: fit_noprop(NoPropDT([Block(8), Block(9)], 4), X, Y), ValueError,
        r"'blocks\[1\]': expected blocks alike: 'net.0.bias' of shape \(8,\) .* got shape \(9,\).*stacked",
    ),
    "shared parts": (lambda: shared().loss(X, Y), ValueError, "expected parameters of its own, got 'net.0.weight' of"),
    "logits": (lambda: NoPropDT([Wide()], 4).sample(X), ValueError, r"'blocks\[0\]': expected logits of shape \(32"),
    "logits of net": (lambda: NoPropFM(Wide(), 4).loss(X, Y), ValueError, r"'net': expected logits of shape \(32, 4\)"),
    "start": (lambda: model().sample(X, z0=torch.zeros(3, 4)), ValueError, r"'z0': expected shape \(32, 4\)"),
    "steps": (lambda: NoPropFM(TimeNet(), 4).sample(X, steps=0), ValueError, "'steps'"),
    "way": (lambda: NoPropCT(TimeNet(), 4).sample(X, way="ode"), ValueError, "'way'"),
    "no model": (lambda: fit_noprop(Block(), X, Y), TypeError, "'model'"),  # type: ignore[arg-type]
    "lr": (lambda: fit_noprop(model(), X, Y, lr=0), ValueError, "'lr'"),
    "diverged": (
        lambda: fit_noprop(model(), X * 1e30, Y, lr=1e30, epochs=9, progress=False), ValueError, "step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    call, kind, match = BAD[name]
    with pytest.raises(kind, match=match):
        call()


def test_blocks_that_differ_train_one_after_the_other() -> None:
    m = NoPropDT([Block(8), Block(9)], CLASSES)
    losses = fit_noprop(m, X, Y, epochs=2, stacked=False, progress=False)
    assert len(losses) == 2 and m.predict(X).shape == (32,)


def test_one_row_is_fine_in_evaluation_mode() -> None:
    m = model(norm=True).eval()
    assert m.block_loss(1, X[:1], Y[:1]).isfinite()
    assert m.train().predict(X[:1]).shape == (1,)


def test_blocks_may_draw_numbers() -> None:
    dropped = nn.Dropout(0.5)
    m = NoPropDT([Dropped(dropped), Dropped(nn.Dropout(0.5))], CLASSES)
    assert m.loss(X, Y).isfinite()


class Dropped(nn.Module):
    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(INPUTS, 8), dropout, nn.Linear(8, CLASSES))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out
