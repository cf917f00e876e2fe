"""Stochastic gates on every backend: bits, the paper's probabilities and estimators, what noise may depend on, errors."""

from __future__ import annotations

import math
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops import philox_normal, philox_uniform, stochastic_gate
from probkernels.ops.stochastic_gate import MODES
from probkernels.reference import stochastic_gate as reference
from torch import Tensor

from tests.tolerances import ELEMENTWISE, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# no dimension, rows of one element, parts of a vector and of a counter, more than a block
SHAPES = [(), (5,), (3, 7), (300, 3), (2, 3, 5, 11), (2, 600)]
STRAIGHT, RECTIFIERS = MODES[:2], MODES[3:]
P = 1 / (1 + math.exp(-0.5))  # the sheet's unit: a = 0.5


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def run(on: torch.device, a: Tensor, v: Tensor | None, **how: Any) -> list[Tensor]:
    """The gated values and the gradients."""
    leaves = [t.detach().to(on).requires_grad_() for t in (a, v) if t is not None]
    y = stochastic_gate(*leaves, **how)
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(on, y.dtype)
    return [t.detach().cpu() for t in (y, *torch.autograd.grad(y, leaves, weights))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_every_backend_gives_the_same_bits(on: torch.device, mode: str, dtype: torch.dtype) -> None:
    slope = 1.0 if mode in RECTIFIERS else 1.7
    for shape in SHAPES:
        a = normal(shape, 0, dtype)
        rows = torch.arange(a.shape[0] if a.dim() else 1) * 2**41 - 5
        for v in (None, normal(shape, 1, dtype)):
            for seeds in (2**62 + 11, rows, torch.tensor(2**62 + 11)):
                there = seeds.to(on) if isinstance(seeds, Tensor) else seeds
                got = run(on, a, v, mode=mode, slope=slope, seeds=there, step=2**33 + 1)
                with pk.use_backend("reference"):
                    expected = run(torch.device("cpu"), a, v, mode=mode, slope=slope, seeds=seeds, step=2**33 + 1)
                assert all(torch.equal(p, q) for p, q in zip(got, expected, strict=True)), (shape, v is None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threshold(on: torch.device, dtype: torch.dtype) -> None:
    a = torch.tensor([[-60000.0, -1.0, -0.0, 0.0, 2**-14, 3.0]], dtype=dtype)
    for mode in STRAIGHT:
        h, grad = run(on, a, None, mode=mode, hard="threshold")
        assert h.tolist() == [[0, 0, 0, 0, 1, 1]]
    p = a.double().sigmoid()
    assert_close(grad, torch.linspace(-1, 2, 6).to(dtype).double() * p * (1 - p), dtype, ELEMENTWISE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_equations(on: torch.device, dtype: torch.dtype) -> None:
    """With the noise of philox_normal and philox_uniform."""
    a, v = normal((4, 301), 0, dtype), normal((4, 301), 1, dtype)
    u, z = (draw(7, a.shape, step=5, dtype=torch.float64) for draw in (philox_uniform, philox_normal))
    p, wide = a.double().sigmoid(), a.double()
    gates = {
        "straight_through": (u < p).double(),
        "times_smooth": (u < p.sqrt()) * p.sqrt(),
        "rectifier_gauss": (wide + z).relu(),
        "rectifier_logistic": (wide + ((1 - u) / u).log()).relu(),
    }
    for mode, h in gates.items():
        assert_close(run(on, a, v, mode=mode, seeds=7, step=5)[0], h * v.double(), dtype, ELEMENTWISE)


def test_sigmoid_keeps_both_tails() -> None:
    x = torch.linspace(-80, 80, 4001)
    for dtype, most in ((torch.float32, 3e-7), (torch.float64, 6e-16)):
        p, q = reference.sigmoid(x.to(dtype))
        exact = x.double().sigmoid()
        assert ((p.double() - exact).abs() / exact).max() < most
        assert torch.equal(p, q.flip(0))


# --- the sheet's numbers: expectations by many draws, within four standard errors ---

COUNT = 400_000


def mean_of(mode: str, power: int) -> tuple[list[float], list[float], list[float]]:
    """Means over draws at a = 0.5, and their standard errors, of: h, h > 0 and the gradient of h^power."""
    a = torch.full((1, COUNT), 0.5, dtype=torch.float64, requires_grad=True)
    h = stochastic_gate(a, mode=mode, seeds=3)
    (grad,) = torch.autograd.grad((h**power).sum(), a)
    columns = [h.detach() ** power, (h > 0).double(), grad]
    return [float(c.mean()) for c in columns], [float(c.std() / COUNT**0.5) + 1e-9 for c in columns], []


MEANS = [
    ("straight_through", 1, (P, P, 1.0)),
    ("straight_through", 2, (P, P, 1.2449186624)),
    ("straight_through_sigmoid", 1, (P, P, 0.2350037122)),
    ("straight_through_sigmoid", 2, (P, P, 0.2925605071)),
    ("times_smooth", 1, (P, 0.7889609187, 0.1175018561)),  # half the true gradient
    ("times_smooth", 2, (0.4910960858, 0.7889609187, 0.1854087447)),
    ("rectifier_logistic", 1, (0.9740769842, P, P)),
    ("rectifier_logistic", 2, (2.4734335737, P, 2 * 0.9740769842)),
    ("rectifier_gauss", 1, (0.6977965574, 0.6914624613, 0.6914624613)),
]


@pytest.mark.parametrize(("mode", "power", "expected"), MEANS)
def test_means_are_those_of_the_paper(mode: str, power: int, expected: tuple[float, ...]) -> None:
    means, errors, _ = mean_of(mode, power)
    for mean, error, exact in zip(means, errors, expected, strict=True):
        assert abs(mean - exact) < 4 * error


def test_rare_gates_are_as_rare_as_they_should_be() -> None:
    """p = 2^-20, far below what half precision's uniform numbers can tell."""
    a = torch.full((1, 2**24), -20 * math.log(2.0), dtype=torch.bfloat16)
    p = float(a[0, 0].double().sigmoid())
    count = float(stochastic_gate(a, seeds=1).float().sum())
    missing = 2**24 - float(stochastic_gate(-a, seeds=2).float().sum())
    for found in (count, missing):
        assert abs(found - p * 2**24) < 5 * (p * 2**24) ** 0.5


def test_gates_rise_with_their_pre_activations() -> None:
    """For the noise of an element: no gate closes when a grows."""
    h = torch.stack([stochastic_gate(torch.full((1, 1000), a), seeds=1)[0] for a in torch.linspace(-6, 6, 41).tolist()])
    assert (h.diff(dim=0) >= 0).all()
    rectified = stochastic_gate(torch.full((1, 1000), 0.3), mode="rectifier_logistic", seeds=1)
    assert torch.equal(rectified > 0, stochastic_gate(torch.full((1, 1000), 0.3), seeds=1) > 0)


# --- gradients ---


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_autograd_of_the_reference_to_second_order(on: torch.device, mode: str) -> None:
    a, v = normal((3, 7), 0) / 4, normal((3, 7), 1)
    found = []
    for function in (stochastic_gate, _by_reference):
        leaves = [t.clone().to(on).requires_grad_() for t in (a, v)]
        y = function(*leaves, mode=mode, seeds=3).square().sum()
        first = torch.autograd.grad(y, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        found.append([t.detach().cpu() for t in (*first, *second)])
    for got, expected in zip(*found, strict=True):
        assert_close(got, expected, torch.float64, ELEMENTWISE)


def _by_reference(a: Tensor, v: Tensor, *, mode: str, seeds: int) -> Tensor:
    return reference.stochastic_gate(a, v, None, seeds, 0, 0, mode, True, 1.0)


@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_curvature_of_the_sigmoids(slope: float) -> None:
    """What counts as the second derivative of h is the derivative of dh/da."""
    a = torch.linspace(-3, 3, 40, dtype=torch.float64)[None].requires_grad_()
    for mode in ("straight_through_sigmoid", "times_smooth"):
        h = stochastic_gate(a, mode=mode, slope=slope, seeds=1)
        (first,) = torch.autograd.grad(h.sum(), a, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), a)
        p = (slope * a).sigmoid()
        exact = slope * p * (1 - p) if mode != "times_smooth" else slope * (h > 0) * (1 - p) * p.sqrt() / 2
        (expected,) = torch.autograd.grad(exact.sum(), a)
        assert_close(first.detach(), exact.detach(), torch.float64, ELEMENTWISE)
        assert_close(second, expected, torch.float64, ELEMENTWISE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extremes_stay_finite(on: torch.device, mode: str, dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    a = torch.tensor([[-torch.inf, -most, -90.0, 90.0, most, torch.inf]], dtype=dtype)
    h, grad = run(on, a, None, mode=mode, seeds=1)
    assert (h[0, :3] == 0).all()
    assert (h[0, 3:] == (a[0, 3:] if mode in RECTIFIERS else 1)).all() or mode in RECTIFIERS
    assert grad.isfinite().all()
    if mode in ("straight_through_sigmoid", "times_smooth"):
        assert (grad.abs() < 1e-9).all()
    a[0, 2] = torch.nan
    assert run(on, a, None, mode=mode, seeds=1)[0].isnan().tolist() == [[False, False, True, False, False, False]]


def test_nothing_but_inputs_and_seed_is_kept() -> None:
    a, v = (torch.randn(8, 100, requires_grad=True) for _ in range(2))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = stochastic_gate(a, v, mode="times_smooth")
        assert sum(t.numel() for t in kept if t.data_ptr() not in (a.data_ptr(), v.data_ptr())) == 1
        kept.clear()
        stochastic_gate(a)
    assert not kept
    y.sum().backward()
    assert torch.equal(v.grad, (y / v).detach().where(y != 0, 0)) or torch.allclose(v.grad * v, y)


# --- what the noise depends on ---


@pytest.mark.parametrize("mode", MODES)
def test_batches_can_be_cut(on: torch.device, mode: str) -> None:
    a = normal((9, 130), 0).float().to(on)
    own = torch.arange(9, device=on) % 4
    whole, each = stochastic_gate(a, mode=mode, seeds=4), stochastic_gate(a, mode=mode, seeds=own)
    for first, last in ((0, 1), (1, 5), (5, 9)):
        part = stochastic_gate(a[first:last], mode=mode, seeds=4, first_row=first)
        assert torch.equal(part, whole[first:last])
        assert torch.equal(stochastic_gate(a[first:last], mode=mode, seeds=own[first:last]), each[first:last])


@pytest.mark.parametrize("mode", MODES)
def test_threads_do_not_change_a_bit(mode: str) -> None:
    a, v, before = normal((3, 30_001), 0).float(), normal((3, 30_001), 1).float(), torch.get_num_threads()
    expected = run(a.device, a, v, mode=mode, seeds=5)
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(p, q) for p, q in zip(run(a.device, a, v, mode=mode, seeds=5), expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_generators() -> None:
    a = torch.zeros(4, 50)
    one, two = (stochastic_gate(a, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(one, stochastic_gate(a, generator=generator))
    assert not torch.equal(one, stochastic_gate(a, generator=generator))
    torch.manual_seed(3)
    first, second = stochastic_gate(a), stochastic_gate(a)
    torch.manual_seed(3)
    assert torch.equal(first, stochastic_gate(a))
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    stochastic_gate(a, hard="threshold")
    stochastic_gate(a, seeds=1)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn


def test_compiled_draws_anew_and_checkpoints_draw_again() -> None:
    a = torch.zeros(4, 50, requires_grad=True)
    compiled = torch.compile(lambda x: stochastic_gate(x, x, mode="times_smooth"), backend="aot_eager", fullgraph=True)
    assert not torch.equal(compiled(a + 1), compiled(a + 1))
    y = torch.utils.checkpoint.checkpoint(lambda x: stochastic_gate(x, x + 1, mode="times_smooth"), a, use_reentrant=False)
    (grad,) = torch.autograd.grad(y.sum(), a)
    assert torch.equal(grad != 0, y != 0)  # where h > 0


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_nothing_to_do(on: torch.device, shape: tuple[int, ...]) -> None:
    a = torch.empty(shape, device=on, requires_grad=True)
    y = stochastic_gate(a, a, mode="times_smooth", seeds=1)
    y.sum().backward()
    assert y.shape == a.grad.shape == shape


def test_strides_and_alignment_do_not_matter(on: torch.device) -> None:
    a, v = normal((6, 20), 0).float(), normal((6, 20), 1).float()
    expected = run(on, a, v, mode="times_smooth", seeds=1)
    turned = run(on, a.T.contiguous().T, v.T.contiguous().T, mode="times_smooth", seeds=1)
    shifted = run(on, torch.cat([torch.zeros(1), a.flatten()])[1:].view(6, 20), v, mode="times_smooth", seeds=1)
    for others in (turned, shifted):
        assert all(torch.equal(p, q) for p, q in zip(others, expected, strict=True))


# --- errors ---

A = torch.zeros(2, 3)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"a": 1.0}, TypeError, "stochastic_gate: argument 'a': expected a floating-point tensor"),
    ({"a": A.int()}, TypeError, "argument 'a': expected dtype"),
    ({"v": A.half()}, TypeError, "argument 'v': expected the dtype of 'a'"),
    ({"v": A[:1]}, ValueError, "argument 'v': expected shape \\(2, 3\\)"),
    ({"v": A.to("meta")}, ValueError, "argument 'v': expected the device of 'a'"),
    ({"mode": "times_smoth"}, ValueError, "argument 'mode': expected one of .* did you mean 'times_smooth'"),
    ({"slope": 0.0}, ValueError, "argument 'slope': expected"),
    ({"slope": math.nan}, ValueError, "argument 'slope': expected"),
    ({"slope": "1"}, TypeError, "argument 'slope': expected"),
    ({"slope": 2.0, "mode": "rectifier_gauss"}, ValueError, "argument 'slope': expected 1 with mode 'rectifier_gauss'"),
    ({"hard": "no"}, ValueError, "argument 'hard': expected one of 'sample', 'threshold'"),
    ({"hard": "threshold", "mode": "times_smooth"}, ValueError, "argument 'hard': .* Hint: torch.sigmoid"),
    ({"seeds": 1.0}, TypeError, "argument 'seeds': expected an int or an int64 tensor"),
    ({"seeds": -1}, ValueError, "argument 'seeds': expected"),
    ({"seeds": torch.arange(3)}, ValueError, "argument 'seeds': expected shape \\(2,\\)"),
    ({"seeds": torch.tensor(1.0)}, TypeError, "argument 'seeds': expected an int or an int64"),
    ({"seeds": torch.tensor(1, device="meta")}, ValueError, "argument 'seeds': expected the device of 'a'"),
    ({"step": -1}, ValueError, "argument 'step': expected 0 to"),
    ({"first_row": 2**32}, ValueError, "argument 'first_row': expected"),
    ({"generator": 3}, TypeError, "argument 'generator': expected a torch.Generator or None"),
    ({"seeds": 1, "generator": torch.Generator()}, ValueError, "argument 'generator': expected None beside 'seeds'"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    how = {"a": A, **change}
    with pytest.raises(error, match=text):
        stochastic_gate(how.pop("a"), **how)
