"""Maps of h-calibration, their fit, selection and state; temperature, vector and Platt scaling."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels import uncertainty as un
from probkernels.uncertainty import calibrators, mappings
from probkernels.uncertainty.mappings import CANDIDATES, MAPPINGS, MonotoneNetwork, PiecewiseLinear, build
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.svm import LinearSVC
from torch import Tensor, nn

SHORT = {"epochs": 3, "lr": 0.02}


def drawn(n: int, classes: int, seed: int = 0, factor: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits that are ``factor`` times too sure, and labels."""
    torch.manual_seed(seed)
    probs = torch.distributions.Dirichlet(torch.full((classes,), 0.3)).sample((n,)).clamp_min(1e-12)
    return factor * probs.log(), probs.multinomial(1)[:, 0]


def moved(kind: str, size: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A map whose parameters are not the initial ones."""
    mapping = build(kind, size, 0).to(dtype)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in mapping.parameters():
            parameter.mul_(0.5 + torch.rand_like(parameter))
    return mapping


@pytest.mark.parametrize(("kind", "size"), [("ts", 1), *CANDIDATES])
def test_maps_keep_the_order_of_classes(kind: str, size: int) -> None:
    torch.manual_seed(0)
    x = (8 * torch.randn(20, 6, dtype=torch.float64)).log_softmax(1)
    with torch.no_grad():
        y = moved(kind, size)(x)
        shifted = moved(kind, size)((x + 3.5).log_softmax(1))
    assert torch.equal(x.argsort(1), y.argsort(1))
    torch.testing.assert_close(y.exp().sum(1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(shifted, y)


@pytest.mark.parametrize("kind", MAPPINGS)
def test_gradients_of_maps(kind: str) -> None:
    torch.manual_seed(0)
    mapping = moved(kind, 1 if kind == "ts" else 2)
    x = (3 * torch.randn(2, 3, dtype=torch.float64)).log_softmax(1).requires_grad_()
    parameters = tuple(mapping.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: mapping(x), (x, *parameters))


@pytest.mark.parametrize(("kind", "size"), [("ts", 1), ("pwlinear", 1), ("pwlinear", 7), ("pwlinear", 500)])
def test_identity_at_first(kind: str, size: int) -> None:
    x = (30 * torch.randn(50, 4, dtype=torch.float64)).log_softmax(1)
    torch.testing.assert_close(build(kind, size, 0).double()(x), x)


def test_piecewise_linear_map_is_the_integral_of_its_slopes() -> None:
    mapping = PiecewiseLinear(10).double()
    slopes = [1, 0.5, 2, -0.5, 1.5, 1, 1, 1, 1, 3]
    with torch.no_grad():
        mapping.slopes.copy_(torch.tensor(slopes))
    points = [0, 9.99, 10, 10.01, 19.99, 20.01, 35, 99, 100, 130]
    expected = [sum(abs(s) * min(max(p - 10 * i, 0), 10) for i, s in enumerate(slopes)) for p in points]
    expected[-1] += 90  # the last slope goes on
    x = torch.tensor([[0.0, -p] for p in points], dtype=torch.float64)
    y = mapping(x)
    torch.testing.assert_close(y[:, 0] - y[:, 1], torch.tensor(expected, dtype=torch.float64))


def test_monotone_network_is_the_integral_of_its_slope() -> None:
    mapping = moved("umnn", 5)
    assert isinstance(mapping, MonotoneNetwork)
    x = torch.tensor([[0.0, -1.5, -6.0]], dtype=torch.float64)
    mapping.normalize_(x)
    assert (mapping.mean.item(), mapping.std.item()) == pytest.approx((-2.5, math.sqrt(6.5)))
    integrals = []
    with torch.no_grad():
        for u in ((x[0] + 2.5) / math.sqrt(6.5)).tolist():
            steps = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * u
            assert (mapping.slope(steps) > 0).all()
            integrals.append(u * mapping.slope(steps).mean())
        expected = torch.stack(integrals).log_softmax(0)
        torch.testing.assert_close(mapping(x)[0], expected, rtol=0, atol=1e-4)  # its slope has kinks


def test_initial_parameters_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = build("umnn", 4, 7).state_dict(), build("umnn", 4, 7).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_calibration_finds_the_temperature() -> None:
    logits, labels = drawn(5000, 10)
    calibrator = un.HCalibrator("ts", leave_one_out=False)
    calibrator.fit(logits, labels, epochs=60, lr=0.02)
    after = calibrator(logits).exp()
    assert calibrator.map is not None and calibrator.map.a.abs().item() == pytest.approx(0.5, abs=0.03)
    assert un.ece(logits.softmax(1), labels) > 0.18 and un.ece(after, labels) < 0.03
    assert torch.equal(after.argmax(1), logits.argmax(1))
    best = un.TemperatureScaling().fit(logits, labels)
    assert best.temperature.item() == pytest.approx(2, abs=0.05)
    assert abs(un.nll(after, labels) - un.nll(best(logits).exp(), labels)) < 0.003


@pytest.mark.parametrize("select", ["dece", "cwece", "nll"])
def test_the_best_epoch_is_kept(select: str) -> None:
    logits, labels = drawn(400, 3)
    run: Callable[..., un.HCalibrator] = lambda epochs: un.HCalibrator(  # noqa: E731
        "pwlinear", size=10, select=select, window=20
    ).fit(logits, labels, epochs=epochs, lr=0.3, batch_size=200, patience=None)
    found = [run(epochs).scores["pwlinear", 10] for epochs in (1, 12)]
    assert found == sorted(found, reverse=True) and found[0] > found[-1]
    fitted = run(12)
    probs = fitted(logits).exp()
    direct = {
        "dece": lambda: un.debiased_ece(probs, labels),
        "cwece": lambda: un.ece(probs, labels, mode="class_wise"),
        "nll": lambda: un.nll(probs, labels),
    }[select]()
    assert direct.item() == pytest.approx(found[-1], rel=1e-5)
    assert torch.equal(fitted(logits), run(12)(logits))


def test_selection_over_the_twelve_maps() -> None:
    logits, labels = drawn(60, 3)
    calibrator = un.HCalibrator("all", select="nll", window=10, clusters=3).fit(logits, labels, **SHORT)
    assert tuple(calibrator.scores) == CANDIDATES and len(CANDIDATES) == 12
    assert calibrator.scores[calibrator.chosen] == min(calibrator.scores.values())
    assert un.nll(calibrator(logits).exp(), labels).item() == pytest.approx(min(calibrator.scores.values()), rel=1e-5)


def test_a_fit_stops_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setitem(calibrators.SELECTORS, "nll", lambda *_: looks.append(1) or float(len(looks)))
    logits, labels = drawn(50, 3)
    calibrator = un.HCalibrator("ts", window=10, select="nll")
    calibrator.fit(logits, labels, epochs=50, lr=1e-12, patience=3)
    assert len(looks) == 4  # the first epoch, and three that are no better
    assert calibrator.scores == {("ts", 1): 1.0}


def test_large_mixtures_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping, x = moved("ensemble_ts", 3), torch.randn(6, 3, dtype=torch.float64).log_softmax(1)
    found = []
    for block in (mappings.BLOCK, 18, 1):
        monkeypatch.setattr(mappings, "BLOCK", block)
        y = mapping(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), tuple(mapping.parameters()))))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, same)


def test_monotone_network_goes_on_below_its_grid() -> None:
    mapping = moved("umnn", 5)
    assert isinstance(mapping, MonotoneNetwork)
    mapping.normalize_(torch.tensor([0.0, -6.0], dtype=torch.float64))
    x = torch.tensor([[0.0, -100.0, -101.0, -1e6]], dtype=torch.float64)
    y = mapping(x)[0].detach()
    slope = (mapping.slope((-mapping.mean - 100) / mapping.std) / mapping.std).item()
    assert (y[1:3].diff().item(), y[2:].diff().item()) == pytest.approx((-slope, slope * (101 - 1e6)))
    assert torch.equal(mapping(torch.cat([x, 2 * x]))[0], y)  # a row has the same result in each batch


def test_a_monotone_network_costs_no_call_for_each_logit() -> None:
    mapping, rows = moved("umnn", 5), []
    assert isinstance(mapping, MonotoneNetwork)
    mapping.net.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    mapping(torch.randn(3000, 10, dtype=torch.float64).log_softmax(1))
    assert rows == [mappings.KNOTS + 1]


@pytest.mark.parametrize("kind", MAPPINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_of_a_calibrator(kind: str, dtype: torch.dtype) -> None:
    logits, labels = drawn(60, 3)
    fitted = un.HCalibrator(kind, size=None if kind == "ts" else 3, window=10).fit(logits.to(dtype), labels, **SHORT)
    expected = fitted(logits.to(dtype))
    assert expected.dtype is dtype
    again = un.HCalibrator("all")
    again.load_state_dict(fitted.state_dict())
    again.load_state_dict(fitted.state_dict())
    whole = nn.ModuleDict({"calibrator": un.HCalibrator("ts")})
    whole.load_state_dict(nn.ModuleDict({"calibrator": fitted}).state_dict())
    copies = [again, whole["calibrator"], copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))]
    for other in copies:
        assert torch.equal(other(logits.to(dtype)), expected)
        assert other.chosen == fitted.chosen
    again.load_state_dict(un.HCalibrator("ts").state_dict())
    with pytest.raises(RuntimeError, match=r"HCalibrator: no parameters yet.*fit"):
        again(logits)


def test_use_in_other_modes_and_dtypes() -> None:
    logits, labels = drawn(60, 3)
    calibrator, scaling = un.HCalibrator("umnn", size=2, window=10), un.TemperatureScaling()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            calibrator.fit(logits * 1, labels * 1, **SHORT)
            scaling.fit(logits.double() * 1, labels * 1)
    assert all(not p.is_inference() for p in calibrator.parameters())
    z = logits.clone().requires_grad_()
    calibrator(z)[:, 0].sum().backward()
    assert z.grad.any()
    assert calibrator(logits.double()).dtype is torch.float64
    assert calibrator(logits.half()).dtype is torch.float32
    torch.testing.assert_close(calibrator.double()(logits), calibrator.float()(logits))


def test_temperature_and_vector_scaling_are_where_the_gradient_is_zero() -> None:
    logits, labels = drawn(500, 4)
    wide = logits.double()
    temperature = un.TemperatureScaling().fit(wide, labels)
    t = temperature.temperature.clone().requires_grad_()
    nn.functional.cross_entropy(wide / t, labels).backward()
    assert t.grad.abs() < 1e-7
    vector = un.VectorScaling().fit(wide, labels)
    scale, bias = (x.clone().requires_grad_() for x in (vector.scale, vector.bias))
    nn.functional.cross_entropy(scale * wide + bias, labels).backward()
    assert scale.grad.abs().max() < 1e-6 and bias.grad.abs().max() < 1e-6
    assert un.nll(vector(wide).exp(), labels) < un.nll(temperature(wide).exp(), labels)


def test_platt_scaling_is_that_of_scikit_learn() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 2, dtype=torch.float64)
    labels = (x[:, 0] + torch.randn(200) > 0.5).long()
    svm = LinearSVC().fit(x.numpy(), labels.numpy())
    peer = CalibratedClassifierCV(FrozenEstimator(svm), method="sigmoid").fit(x.numpy(), labels.numpy())
    expected = torch.from_numpy(peer.predict_proba(x.numpy())[:, 1])
    scores = torch.from_numpy(svm.decision_function(x.numpy()))
    for factor in (1, 1e4):
        got = un.PlattScaling().fit(factor * scores, labels)(factor * scores)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)
    separable = un.PlattScaling().fit(torch.tensor([-2.0, 2.0]), torch.tensor([False, True]))
    torch.testing.assert_close(separable(torch.tensor([-2.0, 2.0])), torch.tensor([1 / 3, 2 / 3]))


@pytest.mark.parametrize("kind", ["TemperatureScaling", "VectorScaling", "PlattScaling"])
def test_state_of_scalings(kind: str) -> None:
    logits, labels = drawn(50, 2)
    given = logits[:, 0] if kind == "PlattScaling" else logits
    make = getattr(un, kind)
    with pytest.raises(RuntimeError, match=f"{kind}: no parameters yet"):
        make()(given)
    fitted = make().fit(given, labels)
    again = make()
    again.load_state_dict(fitted.state_dict())
    for other in (again, copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert torch.equal(other(given), fitted(given))


Z, Y = drawn(20, 3)
BAD: dict[str, tuple[Callable[[], Any], type, str]] = {
    "mapping": (lambda: un.HCalibrator("pwlin"), ValueError, "'mapping'.*did you mean 'pwlinear'"),
    "select": (lambda: un.HCalibrator(select="ece"), ValueError, "'select'"),
    "window": (lambda: un.HCalibrator(window=5), ValueError, "HCalibrator: argument 'window'"),
    "size": (lambda: un.HCalibrator(size=0), ValueError, "'size'"),
    "size of all": (
        lambda: un.HCalibrator("all", size=3),
        ValueError,
        "'size': expected None for mapping 'all', got 3",
    ),
    "epochs": (lambda: un.HCalibrator().fit(Z, Y, epochs=0), ValueError, "HCalibrator.fit: argument 'epochs'"),
    "lr": (lambda: un.HCalibrator().fit(Z, Y, lr=-1), ValueError, "'lr': expected a positive number"),
    "batch": (lambda: un.HCalibrator().fit(Z, Y, batch_size=1.5), TypeError, "'batch_size'"),
    "infinite": (lambda: un.HCalibrator().fit(Z / 0, Y), ValueError, "'logits': expected finite numbers, got"),
    "column": (lambda: un.HCalibrator().fit(Z[:, 0], Y), ValueError, r"expected shape \(N, C\) with C >= 2.*stack"),
    "no samples": (lambda: un.HCalibrator().fit(Z[:0], Y[:0]), ValueError, "at least one sample"),
    "labels": (lambda: un.VectorScaling().fit(Z, Y + 3), ValueError, "'labels': expected classes 0 to 2"),
    "float labels": (lambda: un.TemperatureScaling().fit(Z, Y.float()), TypeError, "'labels'"),
    "absent": (lambda: un.VectorScaling().fit(Z, Y * 0), ValueError, "'labels': expected every class, got none of"),
    "rows": (lambda: un.PlattScaling().fit(Z, Y), ValueError, r"'scores': expected shape \(N,\)"),
    "NaN": (lambda: un.PlattScaling().fit(Z[:, 0] * math.nan, Y % 2), ValueError, "'scores': expected finite"),
    "list": (lambda: un.TemperatureScaling().fit([[1.0, 2]], Y), TypeError, "'logits': expected a floating-point"),
    "other width": (
        lambda: un.HCalibrator("ts", window=2).fit(Z, Y, epochs=1)(Z[:, :2]),
        ValueError,
        r"HCalibrator: argument 'logits': expected shape \(N, 3\), got shape \(20, 2\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, error, text = BAD[name]
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("unit", [1e-10, 1e6, 1e20])
def test_scaling_does_not_depend_on_the_unit_of_logits(unit: float) -> None:
    logits, labels = (part.double() if part.is_floating_point() else part for part in drawn(300, 3))
    for kind in (un.TemperatureScaling, un.VectorScaling):
        expected = kind().fit(logits, labels)(logits)
        found = kind().fit(logits * unit, labels)(logits * unit)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_logits_that_all_samples_shift_alike_give_the_same_temperature() -> None:
    logits, labels = drawn(300, 3)
    shifted = logits.double() + 1e6 * torch.arange(300)[:, None]
    expected, found = (un.TemperatureScaling().fit(given, labels).temperature for given in (logits.double(), shifted))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_far_log_probabilities_keep_the_last_slope() -> None:
    mapping = PiecewiseLinear(2)
    mapping.slopes.data = torch.tensor([0.0, 1.0])
    found = mapping(torch.tensor([[0.0, -1e3, -1e25]]))
    assert found[0].tolist() == [0, -950, pytest.approx(-1e25)]
