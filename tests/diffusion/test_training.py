"""Averaged weights, dropped conditions, and a training run that ends the same however often it stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from probkernels import CorruptStreamError, ModelMismatchError
from probkernels.diffusion import EMA, VP, Denoiser, drop_condition, fit, sample
from torch import Tensor, nn


class Net(nn.Module):
    """Two dimensions, a class or none (2)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, width)
        self.enter, self.leave = nn.Linear(3, width), nn.Linear(width, 2)
        self.middle = nn.Linear(width, width)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        h = nn.functional.silu(self.enter(torch.cat([x, t[:, None]], 1)) + self.classes(cond))
        return self.leave(h + nn.functional.silu(self.middle(h)))


def fresh(width: int = 32) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(Net(width), VP(), pred="v")


def toy() -> tuple[Tensor, Tensor]:
    """Two tight clusters, one for each class."""
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(2, (500,), generator=generator)
    return torch.where(label == 0, -1.0, 1.0)[:, None] + 0.1 * torch.randn(500, 2, generator=generator), label


def test_learns_classes() -> None:
    x0, label = toy()
    done = fit(fresh(), x0, label, null=torch.tensor(2), steps=600, batch_size=128, ema=0.99, progress=False)
    assert len(done.losses) == 600
    assert sum(done.losses[-50:]) < 0.5 * sum(done.losses[:50])
    ask = torch.arange(2).repeat_interleave(100)
    x = sample(done.average, torch.randn(200, 2), steps=20, cond=ask)
    assert ((x.mean(1) > 0).long() == ask).float().mean() > 0.95
    assert all(abs(x[ask == k].mean() - (2 * k - 1)) < 0.2 for k in range(2))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Stop(Exception):
    pass


def test_resumes_exactly(tmp_path: Path) -> None:
    x0, label = toy()
    how = {"null": torch.tensor(2), "steps": 12, "batch_size": 16, "ema": 0.9, "progress": False}
    whole = fit(fresh(), x0, label, **how)
    file = tmp_path / "training.safetensors"

    def stopping(part: float) -> float:
        if part >= 9 / 12:
            raise Stop
        return 0.5 ** int(4 * part)

    with pytest.raises(Stop):
        fit(fresh(), x0, label, lr=stopping, checkpoint=file, checkpoint_every=4, **how)
    again = fresh()
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    rest = fit(again, x0, label, checkpoint=file, checkpoint_every=4, **how)
    assert rest.losses == whole.losses
    assert same(rest.model, whole.model) and same(rest.average, whole.average)
    finished = fit(fresh(), x0, label, checkpoint=file, **how)  # nothing is left to do
    assert same(finished.model, whole.model)
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


class Dropped(Net):
    """Draws from torch's generator."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training), t, cond)


def test_dropout_resumes_exactly(tmp_path: Path) -> None:
    x0, label = toy()
    how = {"steps": 8, "batch_size": 16, "checkpoint_every": 3, "progress": False}

    def made() -> Denoiser:
        torch.manual_seed(0)
        return Denoiser(Dropped(), VP(), pred="v")

    whole = fit(made(), x0, label, **how)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert same(fit(made(), x0, label, **how).model, whole.model)
    with pytest.raises(Stop):
        fit(made(), x0, label, lr=stops_at(5 / 8), checkpoint=tmp_path / "c", **how)
    rest = fit(made(), x0, label, checkpoint=tmp_path / "c", **how)
    assert rest.losses == whole.losses and same(rest.model, whole.model)
    model = made()
    torch.set_rng_state(state)
    fit(model, x0, label, **how)
    assert torch.equal(torch.get_rng_state(), state)  # nothing drawn from the user's generator


def stops_at(share: float) -> Callable[[float], float]:
    def lr(part: float) -> float:
        if part >= share:
            raise Stop
        return 0.5 ** int(4 * part)

    return lr


def test_an_interrupted_training_resumes_with_the_same_objects(tmp_path: Path) -> None:
    """In a notebook: the model and optimizer of the first call, whose rates were at a quarter."""
    x0, label = toy()
    how = {"steps": 8, "batch_size": 16, "checkpoint_every": 1, "progress": False}
    whole = fit(first := fresh(), x0, label, optimizer=torch.optim.Adam(first.parameters(), lr=0.01), **how)
    model = fresh()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with pytest.raises(Stop):
        fit(model, x0, label, optimizer=optimizer, lr=stops_at(5 / 8), checkpoint=tmp_path / "c", **how)
    rest = fit(model, x0, label, optimizer=optimizer, checkpoint=tmp_path / "c", **how)
    assert same(rest.model, whole.model) and same(rest.average, whole.average)


def test_an_optimizer_of_another_model() -> None:
    x0, label = toy()
    model = fresh()
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="fit: argument 'optimizer': expected one of the model's parameters"):
        fit(model, x0, label, optimizer=optimizer, steps=1, progress=False)
    part = torch.optim.SGD([model.net.leave.bias], lr=0.1)  # the rest is frozen
    assert fit(model, x0, label, optimizer=part, steps=1, batch_size=4, progress=False).losses


@pytest.mark.parametrize(
    ("null", "error", "text"),
    [
        (torch.tensor(0.5), TypeError, "expected a torch.int64 tensor, as cond is, got a torch.float32 tensor"),
        (2, TypeError, "got int 2"),
        (torch.tensor([[1, 2, 3]]), ValueError, r"expected shape \(2,\) as a row of cond"),
    ],
)
def test_a_null_condition_of_another_kind(null: object, error: type[Exception], text: str) -> None:
    """Rounded to 0, it would be a class."""
    with pytest.raises(error, match=f"drop_condition: argument 'null': {text}" if "shape" in text else text):
        drop_condition(torch.zeros(4, 2).long(), null, 1.0)


def test_wrong_checkpoints(tmp_path: Path) -> None:
    x0, label = toy()
    file, how = tmp_path / "c.safetensors", {"steps": 2, "batch_size": 4, "progress": False}
    fit(fresh(), x0, label, checkpoint=file, **how)
    with pytest.raises(ModelMismatchError, match="seed"):
        fit(fresh(), x0, label, checkpoint=file, seed=1, **how)
    with pytest.raises(ModelMismatchError, match="another model"):
        fit(fresh(16), x0, label, checkpoint=file, **how)
    others = (
        (x0.flip(0), label, {}, "x0"),
        (x0, label.flip(0), {}, "cond"),
        (x0, label, {"null": torch.tensor(2)}, "null"),
    )
    others += (x0, label, {"lr": lambda part: 0.5}, "lr"),  # fmt: skip
    for other, condition, changed, why in others:
        with pytest.raises(ModelMismatchError, match=f"differs in {why}"):
            fit(fresh(), other, condition, checkpoint=file, **how, **changed)
    rate = torch.optim.Adam((model := fresh()).parameters(), lr=1e-3)
    with pytest.raises(ModelMismatchError, match="differs in optimizer"):
        fit(model, x0, label, optimizer=rate, checkpoint=file, **how)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptStreamError):
        fit(fresh(), x0, label, checkpoint=file, **how)


def test_other_optimizers_and_losses() -> None:
    x0, label = toy()
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen, rates = [], []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))

    def loss(model: Denoiser, x: Tensor, cond: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(x)
        return model.x0(x, 0.5, cond).square().mean()

    fit(
        model,
        x0,
        label,
        optimizer=optimizer,
        loss=loss,
        lr=lambda part: 1 - part,
        steps=4,
        batch_size=8,
        progress=False,
    )
    assert [x.shape for x in seen] == [(8, 2)] * 4
    assert len({x[0, 0].item() for x in seen}) == 4  # every step draws anew
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert optimizer.param_groups[0]["lr"] == 0.1  # a second training starts from it, not from the last rate


def test_losses_that_are_not_finite_raise() -> None:
    x0, label = toy()
    x0[:] = torch.inf
    with pytest.raises(ValueError, match="step 0"):
        fit(fresh(), x0, label, steps=2, progress=False)


def test_average() -> None:
    net = nn.BatchNorm1d(1)
    ema = EMA(net, 0.5)
    with torch.no_grad():
        net.weight.fill_(3.0)
        net.running_mean.fill_(7.0)
    ema.update(net)
    assert ema.module.weight.item() == 2.0 and ema.module.running_mean.item() == 7.0
    assert not ema.module.weight.requires_grad
    early = EMA(net, 0.999, warm_up=True)
    with torch.no_grad():
        net.weight.fill_(13.0)
    early.update(net)
    assert early.module.weight.item() == pytest.approx(0.1 * 3 + 0.9 * 13)


def test_dropped_conditions() -> None:
    cond = torch.arange(1, 10_001)
    got = drop_condition(cond, torch.tensor(0), 0.1, torch.Generator().manual_seed(0))
    gone = got == 0
    assert torch.equal(got[~gone], cond[~gone]) and abs(gone.float().mean().item() - 0.1) < 0.015
    rows = drop_condition(torch.ones(50, 3, 2), torch.zeros(3, 2), 0.5)
    assert set(rows.sum((1, 2)).tolist()) == {0.0, 6.0}  # whole rows


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": 0}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"ema": 1.0}, ValueError),
        ({"drop": 2.0, "null": torch.tensor(2)}, ValueError),
        ({"x0": torch.zeros(0, 2)}, ValueError),
        ({"cond": torch.zeros(3).long()}, ValueError),
        ({"model": nn.Linear(2, 2)}, TypeError),
        ({"weight": "none"}, ValueError),
    ],
)
def test_wrong_input_raises(change: dict[str, object], error: type[Exception]) -> None:
    x0, label = toy()
    how = {"model": fresh(), "x0": x0, "cond": label, "steps": 1, "batch_size": 4, "progress": False, **change}
    if "x0" in change:
        how["cond"] = None
    with pytest.raises(error, match="expected"):
        fit(**how)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_average_of_half_precision_moves(dtype: torch.dtype) -> None:
    """An update of 0.001 of the gap is less than half a rounding step: in half precision it would change nothing."""
    net = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.ones_(net.weight)
    ema = EMA(net, 0.999)
    nn.init.constant_(net.weight, 1.5)
    for n in range(3000):
        ema.update(net)
        if n == 1499:
            kept = copy.deepcopy(ema.state_dict())
    right = 1.5 - 0.5 * 0.999**3000
    assert ema.module.weight.dtype is dtype
    assert ema.module.weight.item() == torch.tensor(right).to(dtype).item()
    assert ema.wide["weight"].item() == pytest.approx(right, abs=1e-4)
    again = EMA(net, 0.999)
    again.load_state_dict(kept)
    for _ in range(1500):
        again.update(net)
    assert again.updates == 3000 and torch.equal(again.wide["weight"], ema.wide["weight"])
    with torch.no_grad():
        ema.module.weight.fill_(8.0)  # what is written to the module counts
    ema.update(net)
    assert ema.wide["weight"].item() == pytest.approx(8 - 6.5e-3)
    with pytest.raises(ModelMismatchError, match="another module"):
        EMA(nn.Linear(1, 1), 0.9).load_state_dict(kept)


def test_resumes_exactly_in_half_precision(tmp_path: Path) -> None:
    x0, label = toy()
    how = {"null": torch.tensor(2), "steps": 6, "batch_size": 8, "progress": False}

    def loss(model: Denoiser, x: Tensor, cond: Tensor, generator: torch.Generator) -> Tensor:
        return model.x0(x.bfloat16(), 0.5, cond).float().square().mean()

    class Half(Net):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return super().forward(x, t.to(x), cond)

    def half() -> Denoiser:
        torch.manual_seed(0)
        return Denoiser(Half(), VP(), pred="v").bfloat16()

    def stopping(part: float) -> float:
        if part >= 0.5:
            raise Stop
        return 1.0

    whole = fit(half(), x0, label, loss=loss, lr=lambda part: 1.0, **how)
    file = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        fit(half(), x0, label, loss=loss, lr=stopping, checkpoint=file, checkpoint_every=3, **how)
    rest = fit(half(), x0, label, loss=loss, lr=lambda part: 1.0, checkpoint=file, checkpoint_every=3, **how)
    assert rest.losses == whole.losses
    assert same(rest.model, whole.model) and same(rest.average, whole.average)
