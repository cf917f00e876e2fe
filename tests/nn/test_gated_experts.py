"""GatedExperts: skipping changes neither outputs nor gradients; rates, thresholds, copies, bad input."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels import nn
from probkernels.nn import gated_experts
from torch import Tensor

UNITS = tuple(gated_experts.PENALTIES)
FORMS: list[dict[str, Any]] = [{}, {"block": 4}, {"shared": True}, {"shared": True, "block": 4}]


def made(**settings: Any) -> nn.GatedExperts:
    torch.manual_seed(0)
    return nn.GatedExperts(6, 24, 3, gater=5, **settings).double()


def stepped(layer: nn.GatedExperts, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of a training step."""
    y = layer(x, generator=torch.Generator().manual_seed(1))
    loss = (y - 1).square().sum(-1)
    (loss.mean() + layer.penalty() + layer.surrogate(loss)).backward()
    return y.detach(), [parameter.grad for parameter in layer.parameters()]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("unit", UNITS)
def test_skipping_changes_nothing(unit: str, form: dict[str, Any]) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [stepped(made(unit=unit, skip=skip, **form), x) for skip in (True, False)]
    assert found[0][0].shape == (2, 4, 3)
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)
    assert all(grad.abs().sum() > 0 for grad in found[0][1])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_experts_that_are_off_are_not_computed(form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, work = made(unit="reinforce", **form).eval(), []
    plain = gated_experts._experts

    def counted(x: Tensor, gates: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        work.append(len(x) * len(weight))
        return plain(x, gates, weight, *rest)

    monkeypatch.setattr(gated_experts, "_experts", counted)
    x = torch.randn(16, 6, dtype=torch.float64)
    layer.fit_threshold(x, 0.17 if "block" in form else 0.1)
    layer(x)
    _, h = layer._last
    open_gates = int((h != 0).sum()) if form == {"block": 4} else int((h != 0).any(0).sum()) * 16
    assert sum(work) == open_gates * layer.block <= 16 * 24
    assert form == {} or sum(work) <= 0.3 * 16 * 24


def test_straight_through_needs_experts_that_are_off() -> None:
    """For dL/dh of their gates; without gradients they are skipped."""
    layer, x = made(unit="straight_through"), torch.randn(1, 6, dtype=torch.float64)
    layer(x)
    assert not layer._exact_if_skipped
    with torch.no_grad():
        layer(x)
        assert layer._exact_if_skipped


@pytest.mark.parametrize("unit", UNITS)
def test_thresholds_leave_the_rate_on_in_evaluation(unit: str) -> None:
    noise = nn.BetaNoise(0.1) if unit == "stochastic_times_smooth" else None
    layer, x = made(unit=unit, rate=0.125, noise=noise), torch.randn(100, 6, dtype=torch.float64)
    layer.fit_threshold(x)
    y = layer.eval()(x)
    assert layer.active_fraction == pytest.approx(0.125, abs=0.01)
    assert torch.equal(y, layer(x))


def test_no_gate_open_gives_the_bias() -> None:
    layer = made(unit="reinforce", shared=True).eval()
    layer.unit.threshold.fill_(1.0)
    with torch.no_grad():
        layer.read_bias.fill_(2.0)
    assert layer(torch.randn(3, 6, dtype=torch.float64)).tolist() == [[2.0] * 3] * 3


def test_nan_stays_nan() -> None:
    for form in FORMS:
        x = torch.zeros(3, 6, dtype=torch.float64)
        x[1, 2] = torch.nan
        assert made(unit="reinforce", **form)(x)[1].isnan().all()


def test_copies_and_pickles_work_after_a_forward_pass() -> None:
    layer = made(unit="reinforce")
    layer(torch.randn(3, 6, dtype=torch.float64))
    other = copy.deepcopy(layer)
    with pytest.raises(RuntimeError, match="a forward pass before it"):
        other.penalty()
    pickle.loads(pickle.dumps(layer))
    made(unit="reinforce").load_state_dict(layer.state_dict())
    layer.penalty()


def test_an_own_gater_and_autocast() -> None:
    layer = nn.GatedExperts(6, 8, 3, gater=torch.nn.Linear(6, 2), block=4, unit="stochastic_times_smooth")
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(5, 6)).sum().backward()
    assert layer.weight.grad is not None
    assert layer(torch.zeros(0, 6)).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: nn.GatedExperts(6, 10, 3, block=4), ValueError, "'block'.*divisor"),
        (lambda: nn.GatedExperts(6, 10, 3, unit="relu"), ValueError, "'unit'"),
        (lambda: nn.GatedExperts(6, 10, 3, rate=1.0), ValueError, "'rate'"),
        (lambda: nn.GatedExperts(6, 0, 3), ValueError, "'experts'"),
        (lambda: nn.GatedExperts(6, 10, 3, gater="mlp"), TypeError, "'gater'"),
        (lambda: nn.GatedExperts(6, 10, 3, gater=torch.nn.Linear(6, 4))(torch.zeros(2, 6)), ValueError, "'gater'"),
        (lambda: nn.GatedExperts(6, 10, 3)(torch.zeros(2, 5)), ValueError, "'x'"),
        (lambda: nn.GatedExperts(6, 10, 3)(torch.zeros(2, 6, dtype=torch.int64)), TypeError, "'x'"),
        (lambda: nn.GatedExperts(6, 10, 3, shared=True)(torch.zeros(0, 6)), ValueError, "at least one row"),
    ],
)
def test_bad_input(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
