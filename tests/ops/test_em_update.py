"""The M-step on every backend: against the formula by hand in float64, edges that are none, kept flow, what is left."""

from __future__ import annotations

import itertools
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor

from tests.tolerances import ELEMENTWISE, assert_close

DTYPES = [torch.float64, torch.float32]
# N, K, M: a distribution over a contiguous axis, many small ones, M that does not divide 16, more than a run of sums
SHAPES = [
    (1, 1, 1),
    (3, 16, 1),
    (2, 1000, 1),
    (40, 2, 1),
    (5, 7, 3),
    (2, 256, 16),
    (3, 5, 33),
    (1, 300, 50),
    (70, 3, 2),
]


def problem(n: int, k: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """params of which some are 0, flows, kept, in float64."""
    params = torch.rand(n, k, m, dtype=torch.float64)
    params[:, 1:] *= params[:, 1:] > 0.2
    params /= params.sum(1, keepdim=True)
    return params, 10 * torch.rand(n, k, m, dtype=torch.float64), torch.rand(n, m, dtype=torch.float64)


def by_hand(params: Tensor, flows: Tensor, kept: Tensor | None, step: float, pseudocount: float) -> Tensor:
    """Every distribution by itself, without what is no edge."""
    expected = torch.zeros_like(params)
    for n, m in itertools.product(range(params.shape[0]), range(params.shape[2])):
        edges = params[n, :, m] != 0
        old, flow = params[n, edges, m], flows[n, edges, m]
        same = 0.0 if kept is None else kept[n, m]
        fresh = (flow + pseudocount / len(old) + same * old) / (flow.sum() + pseudocount + same)
        expected[n, edges, m] = (1 - step) * old + step * fresh
    return expected


def updated(on: torch.device, tensors: tuple[Tensor, ...], dtype: torch.dtype, *rule: float) -> Tensor:
    params, flows, *kept = (t.to(on, dtype, copy=True) for t in tensors)
    pk.ops.em_update_(params, flows, *rule, *kept)
    return params.cpu()


@pytest.mark.parametrize("with_kept", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula(on: torch.device, shape: tuple[int, ...], dtype: torch.dtype, with_kept: bool) -> None:
    params, flows, kept = (t.to(dtype).double() for t in problem(*shape))
    expected = by_hand(params, flows, kept if with_kept else None, 0.3, 0.7)
    got = updated(on, (params, flows, kept) if with_kept else (params, flows), dtype, 0.3, 0.7)
    assert_close(got, expected, dtype, ELEMENTWISE)
    assert torch.equal(got == 0, params == 0)
    assert_close(got.double().sum(1), torch.ones(shape[0], shape[2]), dtype, ELEMENTWISE)


def test_a_full_step_without_pseudocount_normalizes_the_flow(on: torch.device) -> None:
    params, flows, _ = problem(4, 5, 6)
    flows = torch.where(params == 0, 0.0, flows)
    got = updated(on, (params, flows), torch.float64, 1.0, 0.0)
    assert_close(got, flows / flows.sum(1, keepdim=True), torch.float64, ELEMENTWISE)
    assert torch.equal(updated(on, (params, flows), torch.float64, 0.0, 3.0), params)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_flow_leaves_a_distribution_as_it_is(on: torch.device, dtype: torch.dtype) -> None:
    """To the bit; so does flow that is kept, up to rounding."""
    params, flows, kept = problem(3, 4, 5)
    params = params.to(dtype)
    flows[1, :, 2], flows[2] = 0, 0
    got = updated(on, (params, flows), dtype, 0.9, 0.0)
    assert torch.equal(got[1, :, 2], params[1, :, 2]) and torch.equal(got[2], params[2])
    assert not torch.equal(got[0], params[0])
    assert_close(updated(on, (params, flows * 0, kept), dtype, 0.9, 0.0), params, dtype, ELEMENTWISE)


def test_no_edges_stay_none(on: torch.device) -> None:
    """A distribution without edges, and flow on what is no edge."""
    params, flows, _ = problem(2, 3, 4)
    params[0, :, 1], params[1, 2], flows[1, 2] = 0, 0, torch.nan
    got = updated(on, (params, flows), torch.float64, 0.5, 1.0)
    assert not got[0, :, 1].any() and not got[1, 2].any()
    assert got.isfinite().all()


def test_nan_spoils_its_own_distribution_alone(on: torch.device) -> None:
    params, flows, _ = problem(2, 3, 20)
    flows[1, 0, 17] = torch.nan
    wrong = updated(on, (params, flows), torch.float64, 0.5, 1.0).isnan()
    assert wrong[1, 0, 17] and not wrong[0].any()
    assert not wrong[1, :, :17].any() and not wrong[1, :, 18:].any()


def test_an_em_step_on_a_mixture_of_known_answer(on: torch.device) -> None:
    """Two components with likelihoods .2 and .4 and weights .5, .5: posteriors 1/3 and 2/3."""
    x, weights = torch.tensor([[[0.2], [0.4]]]).log().to(on), torch.full((1, 1, 2), 0.5, device=on)
    with pk.use_backend(None):
        y = pk.ops.sum_layer(x, weights)
        _, grad = pk.ops.sum_layer_bwd(x, weights, y, torch.ones_like(y))
    flows = (weights * grad).view(1, 2, 1)
    params = weights.view(1, 2, 1).clone()
    pk.ops.em_update_(params, flows, 0.25, 0.0)
    expected = 0.75 * 0.5 + 0.25 * torch.tensor([1 / 3, 2 / 3], device=on)
    assert_close(params.flatten(), expected, torch.float32, ELEMENTWISE)


def test_strides_do_not_matter(on: torch.device) -> None:
    tensors = problem(3, 5, 6)
    expected = updated(on, tensors, torch.float32, 0.3, 0.1)
    params, flows, kept = (t.to(on, torch.float32).transpose(0, 1).contiguous().transpose(0, 1) for t in tensors)
    version = params._version
    pk.ops.em_update_(params, flows, 0.3, 0.1, kept)
    assert_close(params.cpu(), expected, torch.float32, ELEMENTWISE)
    assert params._version > version


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_nothing_to_do(on: torch.device, shape: tuple[int, ...]) -> None:
    params = torch.ones(shape, device=on)
    pk.ops.em_update_(params, torch.ones_like(params), 0.3, 0.1)
    assert params.shape == shape


@pytest.mark.parametrize("with_kept", [False, True], ids=["", "kept"])
@pytest.mark.parametrize(
    ("size", "pseudocount", "dtype"),
    [
        (1e-40, 0.0, torch.float32),  # a step over their sum is above the largest number
        (1e-40, 1e-50, torch.float32),
        (1e-44, 1e-43, torch.float32),
        (3e38, 0.0, torch.float32),  # the sum is above it
        (3e38, 1e38, torch.float32),
        (0.0, 1e-50, torch.float32),
        (1e-310, 0.0, torch.float64),
    ],
)
def test_flows_of_any_size(
    on: torch.device, size: float, pseudocount: float, dtype: torch.dtype, with_kept: bool
) -> None:
    """Beside ordinary ones, next to each other and elsewhere."""
    step = 0.3 if with_kept else 1.0
    params, flows, kept = problem(3, 40, 5)
    flows[1, :, 1], flows[2] = flows[1, :, 1] / 10 * size, flows[2] / 10 * size
    kept[1, 1], kept[2] = kept[1, 1] * size, kept[2] * size
    params, flows, kept = (t.to(dtype).double() for t in (params, flows, kept))
    expected = by_hand(params, flows, kept if with_kept else None, step, pseudocount)
    got = updated(on, (params, flows, kept) if with_kept else (params, flows), dtype, step, pseudocount)
    assert_close(got, expected, dtype, ELEMENTWISE)
    assert_close(got.double().sum(1), torch.ones(3, 5), dtype, ELEMENTWISE)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    tensors, cpu, before = problem(33, 40, 7), torch.device("cpu"), torch.get_num_threads()
    expected = updated(cpu, tensors, torch.float32, 0.3, 0.1)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(updated(cpu, tensors, torch.float32, 0.3, 0.1), expected)
    finally:
        torch.set_num_threads(before)


def test_long_sums_of_float32_stay_exact() -> None:
    """A hundred thousand flows of 0.1: summed one by one in float32 they would be off by thousandths."""
    params = torch.full((1, 100_000, 1), 1e-5)
    flows = torch.full_like(params, 0.1)
    pk.ops.em_update_(params, flows, 1.0, 0.0)
    assert_close(params, torch.full_like(params, 1e-5).double(), torch.float32, ELEMENTWISE)
    assert params.double().sum().item() == pytest.approx(1, abs=1e-6)


# --- errors ---

ONES = torch.ones(2, 3, 4)
GOOD = {"params": ONES, "flows": ONES, "step": 0.5, "pseudocount": 0.1, "kept": torch.ones(2, 4)}
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"params": [1.0]}, TypeError, "em_update_: argument 'params': expected a floating-point tensor, got list"),
    ({"params": ONES.half()}, TypeError, "argument 'params': expected dtype float32 or float64"),
    ({"params": ONES[0]}, ValueError, "argument 'params': expected shape \\(N, K, M\\), distributions over axis 1"),
    ({"flows": ONES[:1]}, ValueError, "argument 'flows': expected shape \\(2, 3, 4\\) \\(that of 'params'\\)"),
    ({"flows": ONES.double()}, TypeError, "argument 'flows': expected the dtype of 'params'"),
    ({"flows": ONES.to("meta")}, ValueError, "argument 'flows': expected the device of 'params'"),
    ({"kept": ONES}, ValueError, "argument 'kept': expected shape \\(2, 4\\) \\(the distributions of 'params'\\)"),
    ({"step": 1.5}, ValueError, "argument 'step': expected a number in \\[0, 1\\]"),
    ({"step": True}, TypeError, "argument 'step': expected a number in \\[0, 1\\]"),
    ({"pseudocount": -1.0}, ValueError, "argument 'pseudocount': expected a number >= 0"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.em_update_(**{**GOOD, **change})


def test_params_that_require_grad_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="changes 'params' in place"):
        pk.ops.em_update_(torch.ones(1, 2, 1, requires_grad=True), torch.ones(1, 2, 1), 0.5, 0.1)
