"""The PowerNorm ops on every backend: against the float64 reference, the paper's numbers and the invariants."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels._core import native
from probkernels._core.native import accumulation_dtype
from probkernels._core.registry import Op
from probkernels.ops.power_norm import BWD, FWD, STATS, V_BWD, V_FWD
from torch import Tensor

from tests.ops import oracle
from tests.tolerances import ELEMENTWISE, SUM, assert_close, bound

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# rows, features, groups: 1, primes, 2^k +- 1, one wide group, many small ones
SHAPES = [
    ((1,), 1, 0),
    ((3, 2), 4, 2),
    ((7,), 13, 0),
    ((7,), 13, 1),
    ((33,), 93, 31),
    ((5, 13), 64, 4),
    ((131,), 65, 5),
    ((17,), 129, 3),
    ((9,), 520, 0),
    ((5,), 520, 1),
]


def example(rows: tuple[int, ...], c: int, dtype: torch.dtype, device: torch.device, *, bare: bool) -> dict[str, Any]:
    acc = torch.float64 if dtype is torch.float64 else torch.float32
    mask = torch.rand(rows) < 0.3
    mask.view(-1)[0] = False
    full = {
        "x": torch.randn(*rows, c, dtype=torch.float64).to(device, dtype),
        "grad_y": torch.randn(*rows, c, dtype=torch.float64).to(device, dtype),
        "weight": (1 + 0.1 * torch.randn(c, dtype=acc)).to(device),
        "bias": torch.randn(c, dtype=acc).to(device),
        "psi2": (0.5 + torch.rand(c, dtype=acc)).to(device),
        "scale2": (0.5 + torch.rand(c, dtype=acc)).to(device),
        "nu": (0.1 * torch.randn(c, dtype=acc)).to(device),
        "pad_mask": mask.to(device),
    }
    absent = ("weight", "bias", "nu", "pad_mask") if bare else ()
    return {k: None if k in absent else v for k, v in full.items()}


def compare(op: Op, args: tuple[Any, ...]) -> None:
    """The first output is of x's dtype, except for the statistic; the others are sums over rows."""
    expected = op.reference(*(a.double().cpu() if _real(a) else a.cpu() if isinstance(a, Tensor) else a for a in args))
    got, expected = (t if isinstance(t, tuple) else (t,) for t in (op.call(*args), expected))
    kinds = [SUM] if op is STATS else [ELEMENTWISE, SUM, SUM, SUM]
    for g, e, kind in zip(got, expected, kinds, strict=False):
        assert_close(g.cpu(), e, args[0].dtype, kind, terms=args[0].numel() // args[0].shape[-1])
    assert got[0].dtype is (accumulation_dtype(args[0]) if op is STATS else args[0].dtype)


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "c", "groups"), SHAPES, ids=str)
def test_kernels_equal_the_reference(
    on: torch.device, rows: tuple[int, ...], c: int, groups: int, dtype: torch.dtype, bare: bool
) -> None:
    a = example(rows, c, dtype, on, bare=bare)
    tail = (groups, oracle.EPS)
    fwd = (a["x"], a["weight"], a["bias"], a["psi2"], a["nu"], a["pad_mask"], *tail, False, False)
    compare(STATS, (a["x"], a["pad_mask"], *tail))
    compare(FWD, fwd)
    compare(BWD, (a["x"], a["grad_y"], a["weight"], a["psi2"], a["scale2"], a["nu"], a["pad_mask"], *tail))
    compare(V_FWD, (a["x"], a["weight"], a["bias"], a["pad_mask"], *tail))
    compare(V_BWD, (a["x"], a["grad_y"], a["weight"], a["psi2"], a["pad_mask"], *tail))


def test_the_tolerances_are_tight() -> None:
    """A bound a hundred times above what the kernels do would hide a mistake."""
    a = example((999,), 96, torch.float32, torch.device("cpu"), bare=False)
    args = (a["x"], a["grad_y"], a["weight"], a["psi2"], a["scale2"], a["nu"], a["pad_mask"], 4, 1e-5)
    exact = BWD.reference(*(v.double() if _real(v) else v for v in args))
    for k, kind in enumerate([ELEMENTWISE, SUM]):
        got, expected = BWD.call(*args)[k].double(), exact[k]
        used = ((got - expected).abs() / bound(expected, torch.float32, kind, terms=999)).max().item()
        assert 0.01 < used <= 1


# --- the paper's numbers and the invariants ---


def test_pn_v_numbers(on: torch.device) -> None:
    weight, bias = (t.to(on) for t in oracle.affine())
    x = oracle.inputs(1).to(on).requires_grad_()
    y, mean_sq = pk.ops.power_norm_v(x, weight, bias, eps=1e-300)
    grad_y = oracle.output_grads(1).to(on)
    (grad_x,) = torch.autograd.grad(y, x, grad_y)
    oracle.check("grad_x", 1, {"grad_x": [oracle.PN_V_GRAD_X]}, grad_x[0, 0])
    norm2 = grad_x.square().sum((0, 1))
    oracle.check("norm2", 1, {"norm2": [oracle.PN_V_GRAD_NORM2]}, norm2)
    # The gradient is orthogonal to x, and the paper's Lipschitz statement holds with equality.
    torch.testing.assert_close((grad_x * x).sum((0, 1)), torch.zeros_like(norm2), rtol=0, atol=1e-12)
    x_hat, n = x / mean_sq.sqrt(), x[..., 0].numel()
    dot = (grad_y * x_hat).sum((0, 1))
    bound = weight**2 / mean_sq * (grad_y.square().sum((0, 1)) - dot**2 / n)
    torch.testing.assert_close(norm2, bound, rtol=1e-12, atol=0)


def test_same_batch_repeated_turns_pn_into_pn_v(on: torch.device) -> None:
    """From psi2 = the batch's, nu_t = Lambda (1 - alpha^t) exactly, and PN's gradient tends to PN-V's."""
    weight = oracle.affine()[0].to(on)
    x, grad_y = oracle.inputs(1).to(on).requires_grad_(), oracle.output_grads(1).to(on)
    y, psi2 = pk.ops.power_norm_v(x, weight, eps=1e-300)
    (exact,) = torch.autograd.grad(y, x, grad_y)
    psi2 = psi2.detach()
    lam = (weight * grad_y * x.detach() / psi2.sqrt()).mean((0, 1))
    gaps = {}
    for t in (*range(1, 11), 400):  # nu(t - 1) in closed form, and one step from it
        nu = (lam * (1 - oracle.ALPHA ** (t - 1))).requires_grad_()
        y, _ = pk.ops.power_norm(x, psi2, weight, nu=nu, eps=1e-300)
        grad_x, grad_nu = torch.autograd.grad(y, (x, nu), grad_y)
        gaps[t] = (grad_x - exact).abs().max().item()
        after = nu.detach() - (1 - oracle.ALPHA) * grad_nu
        torch.testing.assert_close(after, lam * (1 - oracle.ALPHA**t), rtol=1e-12, atol=1e-14)
    assert gaps[1] == pytest.approx(0.7118, abs=1e-4)
    assert gaps[10] == pytest.approx(0.2758, abs=1e-4)
    assert gaps[400] < 1e-14


@given(groups=st.sampled_from([1, 2, 4]), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_group_scaling_fixes_each_groups_mean_square(groups: int, scale: float, seed: int) -> None:
    x = scale * torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    eps = 0.01
    z, _ = pk.ops.power_norm(x, torch.full((8,), 1 - eps, dtype=torch.float64), num_groups=groups, eps=eps)
    v = x.reshape(5, groups, -1).square().mean(-1)
    torch.testing.assert_close(z.reshape(5, groups, -1).square().mean(-1), v / (v + eps), rtol=1e-12, atol=0)


def test_permuting_rows_permutes_outputs_only(on: torch.device) -> None:
    a = example((40,), 6, torch.float64, on, bare=False)
    order = torch.randperm(40).to(on)

    def run(x: Tensor, grad_y: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        y, mean_sq = pk.ops.power_norm(x, a["psi2"], a["weight"], a["bias"], pad_mask=mask, num_groups=2)
        grads = BWD.call(x, grad_y, a["weight"], a["psi2"], a["scale2"], a["nu"], mask, 2, 1e-5)
        return y, grads[0], mean_sq, *grads[1:]

    plain = run(a["x"], a["grad_y"], a["pad_mask"])
    permuted = run(a["x"][order], a["grad_y"][order], a["pad_mask"][order])
    for p, q in zip(plain[:2], permuted[:2], strict=True):
        assert torch.equal(p[order], q)
    for p, q in zip(plain[2:], permuted[2:], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_sums_do_not_overflow(on: torch.device, dtype: torch.dtype) -> None:
    """x^2 of |x| = 300 exceeds float16; the statistic still equals that of the upcast input."""
    x = (300 * torch.randn(500, 8)).to(on, dtype)
    psi2 = torch.full((8,), 9e4, device=on)
    y, mean_sq = pk.ops.power_norm(x, psi2)
    assert y.dtype is dtype and y.abs().max() > 1
    torch.testing.assert_close(mean_sq.double(), x.double().square().mean(0), rtol=1e-5, atol=0)


# --- determinism, padding, NaN, edges ---


@pytest.mark.parametrize(("n", "c", "groups"), [(1000, 33, 3), (70000, 64, 0), (70000, 64, 4)], ids=str)
def test_threads_do_not_change_a_bit(n: int, c: int, groups: int) -> None:
    """Many chunks, and with 70000 rows outputs that are written around the caches."""
    a = example((n,), c, torch.float32, torch.device("cpu"), bare=False)
    args = (a["x"], a["grad_y"], a["weight"], a["psi2"], a["scale2"], a["nu"], a["pad_mask"], groups, 1e-5)
    forward = (a["x"], a["weight"], a["bias"], a["psi2"], None, a["pad_mask"], groups, 1e-5, False, False)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y, mean_sq = FWD.call(*forward)[:2]
            results.append((y, mean_sq, *BWD.call(*args), *V_BWD.call(*args[:4], a["pad_mask"], *args[-2:])))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))
    compare(BWD, args)
    compare(V_BWD, (*args[:4], a["pad_mask"], *args[-2:]))


def test_padding_reaches_no_statistic_and_gets_no_gradient(on: torch.device) -> None:
    a = example((50,), 8, torch.float32, on, bare=False)
    mask = a["pad_mask"]
    poisoned = torch.where(mask[:, None], float("nan"), a["x"])
    args = (a["grad_y"], a["weight"], a["psi2"], a["scale2"], a["nu"], mask, 2, 1e-5)
    assert torch.equal(STATS.call(poisoned, mask, 2, 1e-5), STATS.call(a["x"], mask, 2, 1e-5))
    clean, dirty = BWD.call(a["x"], *args), BWD.call(poisoned, *args)
    assert all(torch.equal(p, q) for p, q in zip(clean, dirty, strict=True))
    assert not clean[0][mask].any() and clean[0][~mask].any()


@pytest.mark.parametrize("groups", [0, 2])
def test_padding_gets_no_gradient_in_pn_v(on: torch.device, groups: int) -> None:
    """Its gradient is that of the valid rows alone, whatever padding holds and whatever gradient reaches it."""
    a = example((50,), 8, torch.float64, on, bare=False)
    valid = ~a["pad_mask"]
    x = torch.where(valid[:, None], a["x"], float("nan")).requires_grad_()
    leaves = x, a["weight"].requires_grad_(), a["bias"].requires_grad_()
    y, _ = pk.ops.power_norm_v(*leaves, pad_mask=a["pad_mask"], num_groups=groups or None)
    got = torch.autograd.grad(y, leaves, a["grad_y"])
    y, _ = pk.ops.power_norm_v(x[valid], *leaves[1:], num_groups=groups or None)
    expected = torch.autograd.grad(y, leaves, a["grad_y"][valid])
    assert not got[0][~valid].any()
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["power_norm", "power_norm_v"])
def test_padding_is_constant_in_forward_mode(kind: str) -> None:
    a = example((9,), 6, torch.float64, torch.device("cpu"), bare=False)
    mask, tangent = a["pad_mask"], torch.ones(9, 6, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        state = {"psi2": a["psi2"]} if kind == "power_norm" else {}
        return getattr(pk.ops, kind)(x, weight=a["weight"], pad_mask=mask, num_groups=2, **state)[0]

    _, moved = torch.func.jvp(function, (a["x"],), (tangent,))
    (back,) = torch.func.vjp(function, a["x"])[1](a["grad_y"])
    assert not moved[mask].any() and moved[~mask].any() and not back[mask].any()
    torch.testing.assert_close((moved * a["grad_y"]).sum(), (back * tangent).sum(), rtol=1e-12, atol=0)


def test_nan_stays_where_it_is(on: torch.device) -> None:
    a = example((20,), 8, torch.float32, on, bare=True)
    x = a["x"].clone()
    x[3, 2] = float("nan")
    y, mean_sq = pk.ops.power_norm(x, a["psi2"])
    assert y.isnan().sum() == 1 and mean_sq.isnan().nonzero().tolist() == [[2]]
    y, _ = pk.ops.power_norm(x, a["psi2"], num_groups=2)
    assert y.isnan().nonzero().tolist() == [[3, c] for c in range(4)]


@pytest.mark.parametrize("rows", [(0,), (0, 5), (3, 0)], ids=str)
def test_empty_batch(on: torch.device, rows: tuple[int, ...]) -> None:
    x = torch.randn(*rows, 4, device=on, requires_grad=True)
    y, mean_sq = pk.ops.power_norm(x, torch.ones(4, device=on), nu=torch.zeros(4, device=on))
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape and mean_sq.isnan().all()
    assert pk.ops.power_norm_v(x)[0].shape == x.shape


def test_nothing_but_padding(on: torch.device) -> None:
    x, mask = torch.randn(6, 4, device=on), torch.ones(6, dtype=torch.bool, device=on)
    y, mean_sq = pk.ops.power_norm(x, torch.ones(4, device=on), pad_mask=mask)
    assert y.isfinite().all() and mean_sq.isnan().all()


def test_expanded_output_gradient(on: torch.device) -> None:
    x = torch.randn(6, 4, device=on, requires_grad=True)
    pk.ops.power_norm(x, torch.ones(4, device=on), eps=1e-300)[0].sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    x = torch.zeros(2**19 + 1, 4096, dtype=torch.bfloat16, device="cuda")
    x[-1] = 2.0
    y, mean_sq = pk.ops.power_norm(x, torch.ones(4096, device="cuda"))
    assert y[-1].float().mean().item() == pytest.approx(2, rel=1e-2) and not y[:-1].any()
    torch.testing.assert_close(mean_sq, torch.full_like(mean_sq, 4 / x.shape[0]))


# --- errors ---

GOOD = {"x": torch.ones(2, 3, 4), "psi2": torch.ones(4)}
BAD = [
    ({"x": [1.0]}, TypeError, "power_norm: argument 'x': expected a floating-point tensor, got list"),
    ({"x": torch.ones(2, 4, dtype=torch.int64)}, TypeError, "torch.int64.*cast it"),
    ({"x": torch.ones(2, 4, dtype=torch.complex64)}, TypeError, "torch.complex64"),
    ({"x": torch.tensor(1.0)}, ValueError, "shape \\(..., C\\)"),
    ({"x": torch.ones(2, 0)}, ValueError, "C >= 1"),
    ({"psi2": torch.ones(5)}, ValueError, "argument 'psi2': expected shape \\(4,\\).*got shape \\(5,\\)"),
    ({"psi2": torch.ones(1, 4)}, ValueError, "argument 'psi2'"),
    ({"weight": torch.ones(4, dtype=torch.int32)}, TypeError, "argument 'weight'"),
    ({"bias": torch.ones(3)}, ValueError, "argument 'bias'"),
    ({"nu": torch.ones(4, device="meta")}, ValueError, "argument 'nu': expected the device of 'x'"),
    ({"pad_mask": torch.zeros(2, 3)}, TypeError, "argument 'pad_mask': expected a bool tensor.*True marks padding"),
    ({"pad_mask": torch.zeros(3, 2, dtype=torch.bool)}, ValueError, "argument 'pad_mask': expected shape \\(2, 3\\)"),
    ({"num_groups": 3}, ValueError, "argument 'num_groups': expected a divisor of the 4 features, got 3"),
    ({"num_groups": 0}, ValueError, "argument 'num_groups'"),
    ({"num_groups": 2.0}, TypeError, "argument 'num_groups'"),
    ({"eps": 0.0}, ValueError, "argument 'eps': expected a positive number"),
    ({"eps": float("nan")}, ValueError, "argument 'eps'"),
    ({"backward_scale": "both"}, ValueError, "'running', 'batch'"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.power_norm(**{**GOOD, **change})


def test_meta_tensors_give_shapes_and_launchers_refuse_them() -> None:
    x = torch.ones(2, 4, device="meta")
    y, mean_sq = pk.ops.power_norm(x, torch.ones(4, device="meta"))
    assert y.is_meta and y.shape == (2, 4) and mean_sq.shape == (4,)
    assert native.module is not None
    with pytest.raises(ValueError, match="null data pointer"):
        native.module.power_norm_stats_cpu(0, x, None, x, 1, 1, 0, 1e-5, 1)
    with pytest.raises(ValueError, match="unknown dtype code 9"):
        native.module.power_norm_stats_cpu(9, torch.ones(1), None, torch.ones(1), 1, 1, 0, 1e-5, 1)
