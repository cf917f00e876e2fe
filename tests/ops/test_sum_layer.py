"""Sum layers on every backend: against logsumexp in float64, at infinities, far apart, and as circuit flows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops.sum_layer import BWD
from torch import Tensor

from tests import backends
from tests.tolerances import ELEMENTWISE, SUM, assert_close

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32]
# groups, outs, ins, batch: 1, primes, 2^k +- 1, one more than a tile, many groups, more than a span of samples
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 17, 31, 33), (1, 9, 65, 16), (40, 2, 1, 3), (1, 1, 2, 300), (2, 8, 4, 129)]


@pytest.fixture(params=[name for name in backends.names() if not name.startswith("cuda")])
def on(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """That of conftest.py for the backends that the op has: on a GPU it is Triton's alone."""
    if reason := backends.skip_reason(request.param):
        pytest.skip(reason)
    with pk.use_backend(request.param):
        yield backends.device(request.param)


def layer(groups: int, outs: int, ins: int, batch: int, scale: float = 4.0) -> tuple[Tensor, Tensor]:
    """x and weights in float64, a third of the weights 0."""
    weights = torch.rand(groups, outs, ins, dtype=torch.float64)
    weights[:, :, 1:] *= weights[:, :, 1:] > 1 / 3
    return scale * torch.randn(groups, ins, batch, dtype=torch.float64), weights


def exact(x: Tensor, weights: Tensor) -> Tensor:
    """torch's own logsumexp of log-weights in float64."""
    return torch.logsumexp(weights.double().log()[..., None] + x.double()[:, None], 2)


def exact_grads(x: Tensor, weights: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """Both gradients in float64, without a maximum anywhere: from exp(x - y) itself."""
    x, grad_y = x.double(), grad_y.double()
    ratio = (x[:, None] - exact(x, weights)[:, :, None]).exp()
    return (weights.double()[..., None] * ratio * grad_y[:, :, None]).sum(1), (ratio * grad_y[:, :, None]).sum(3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_logsumexp_and_its_gradients(on: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weights = (t.to(on, dtype) for t in layer(*shape))
    y = pk.ops.sum_layer(x, weights)
    assert_close(y, exact(x, weights), dtype, ELEMENTWISE)
    grad_y = torch.randn_like(y)
    got = pk.ops.sum_layer_bwd(x, weights, y, grad_y)
    for value, expected, terms in zip(got, exact_grads(x, weights, grad_y), (shape[1], shape[3]), strict=True):
        scale = expected.abs().amax().clamp(min=1)  # exp(x - y) of an input without weight may be large
        assert_close(value / scale, expected / scale, dtype, SUM, terms)


def test_strides_do_not_matter(on: torch.device) -> None:
    x, weights = (t.to(on) for t in layer(2, 3, 5, 20))
    y = pk.ops.sum_layer(x, weights)
    strided = x.permute(2, 0, 1).contiguous().permute(1, 2, 0), weights.expand(2, 2, 3, 5)[1]
    assert_close(pk.ops.sum_layer(*strided), y, torch.float64, ELEMENTWISE)
    expanded = pk.ops.sum_layer_bwd(*strided, y, torch.ones(2, 3, 1, device=on, dtype=x.dtype).expand(2, 3, 20))
    for got, expected in zip(expanded, pk.ops.sum_layer_bwd(x, weights, y, torch.ones_like(y)), strict=True):
        assert_close(got, expected, torch.float64, SUM, terms=20)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_batch_no_groups_and_no_outputs(on: torch.device, dtype: torch.dtype) -> None:
    for groups, outs, ins, batch in ((0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 1, 0)):
        x, weights = (t.to(on, dtype).requires_grad_() for t in layer(groups, outs, ins, batch))
        y = pk.ops.sum_layer(x, weights)
        assert y.shape == (groups, outs, batch)
        y.sum().backward()
        assert (x.grad.shape, weights.grad.shape) == (x.shape, weights.shape)
        assert not x.grad.any() and not weights.grad.any()


# --- infinities ---


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_impossible_inputs_give_no_nan(on: torch.device, dtype: torch.dtype) -> None:
    """-inf inputs are terms of 0; where nothing else is left the output is -inf and its gradients are 0."""
    x, weights = layer(2, 3, 4, 37)
    x[0, :, 5], x[1, 1], x[0, 1:, 7] = -INF, -INF, -INF
    weights[0, 2] = 0
    x, weights = (t.to(on, dtype).requires_grad_() for t in (x, weights))
    y = pk.ops.sum_layer(x, weights)
    assert (y[0, :, 5] == -INF).all() and (y[0, 2] == -INF).all()
    assert_close(y.detach(), exact(x.detach(), weights.detach()), dtype, ELEMENTWISE)
    y.backward(torch.ones_like(y))
    assert x.grad.isfinite().all() and weights.grad.isfinite().all()
    assert not x.grad[0, :, 5].any() and not weights.grad[0, 2].any() and not x.grad[1, 1].any()
    assert_close(x.grad[0, 0, 7], torch.tensor(2.0, device=on), dtype, ELEMENTWISE)  # the only input of two outputs


def test_infinity_and_nan_reach_the_outputs_with_a_weight_for_them(on: torch.device) -> None:
    x, weights = layer(1, 2, 3, 40)
    x[0, 1, 4], x[0, 2, 20] = INF, NAN
    weights.clamp_(min=0.1)
    for dtype in DTYPES:
        y = pk.ops.sum_layer(x.to(on, dtype), weights.to(on, dtype))
        assert (y[0, :, 4] == INF).all() and y[0, :, 20].isnan().all()
        others = torch.ones(40, dtype=torch.bool)
        others[[4, 20]] = False
        assert y[0, :, others.to(on)].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinity_without_a_weight_counts_for_nothing(on: torch.device, dtype: torch.dtype) -> None:
    """0 times infinity is no number: values and gradients are those without the infinite input."""
    x, weights = layer(2, 3, 4, 40)
    weights[:, :2, 1], weights[:, 2, 1] = 0, 0.5
    x[:, 1, 4] = x[0, 1, 25:] = INF
    x[1, :, 7], x[1, 1, 7] = -INF, INF
    rest = [0, 2, 3]
    x, weights = (t.to(on, dtype).requires_grad_() for t in (x, weights))
    y = pk.ops.sum_layer(x, weights)
    expected = pk.ops.sum_layer(x[:, rest], weights[:, :2][..., rest])
    assert_close(y[:, :2], expected, dtype, ELEMENTWISE)
    infinite = x[:, 1] == INF
    assert (y[:, 2][infinite] == INF).all() and y[:, 2][~infinite].isfinite().all()
    kept = expected.isfinite()
    y = pk.ops.sum_layer(x, weights[:, :2])  # the third has no gradient at infinity
    got = torch.autograd.grad(y[kept].sum(), [x, weights])
    want = torch.autograd.grad(expected[kept].sum(), [x, weights])
    assert_close(got[0], want[0], dtype, SUM)
    assert_close(got[1][:, :2][..., rest], want[1][:, :2][..., rest], dtype, SUM)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_output_far_below_the_others_keeps_its_value(on: torch.device, dtype: torch.dtype) -> None:
    """Each output sees one input alone, and the inputs lie thousands apart: a circuit made by hand."""
    heights = torch.tensor([0.0, -75.0, -90.0, -110.0, -3000.0, 500.0], dtype=torch.float64)
    x = (heights[:, None] + torch.rand(6, 18, dtype=torch.float64))[None]
    x, weights = x.to(on, dtype), (0.5 * torch.eye(6, dtype=torch.float64))[None].to(on, dtype)
    y = pk.ops.sum_layer(x, weights)
    assert_close(y, x.double() + math.log(0.5), dtype, ELEMENTWISE)
    grad_y = torch.rand_like(y)
    grad_x, grad_weights = pk.ops.sum_layer_bwd(x, weights, y, grad_y)
    flow = grad_y.double() * (x.double() - y.double()).exp()  # of the y that it was given, which is rounded
    assert_close(grad_x, 0.5 * flow, dtype, SUM)
    assert_close(grad_weights[0].diagonal(), flow[0].sum(1), dtype, SUM, terms=512)
    near = pk.ops.sum_layer_bwd(x[:, 1:3], weights[:, 1:3, 1:3], y[:, 1:3], grad_y[:, 1:3])[1]
    assert_close(grad_weights[0, 2, 1] / near[0, 1, 0], torch.tensor(1.0, device=on), dtype, SUM)
    assert grad_weights[0, 0, 4] == 0 and grad_weights[0, 4, 0] > 1e37 and not grad_weights.isnan().any()


# --- what a circuit needs ---


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_flow_is_conserved(on: torch.device, dtype: torch.dtype) -> None:
    """What flows into the outputs of a group flows through its edges, and out of its inputs."""
    x, weights = (t.to(on, dtype) for t in layer(3, 5, 6, 50))
    y = pk.ops.sum_layer(x, weights)
    flow = torch.rand_like(y)
    grad_x, grad_weights = pk.ops.sum_layer_bwd(x, weights, y, flow)
    edges = (weights * grad_weights).double()
    assert_close(grad_x.double().sum(1), flow.double().sum(1), dtype, SUM)
    assert_close(edges.sum(2) / 50, flow.double().sum(2) / 50, dtype, SUM)
    assert_close(edges.sum(1) / 50, grad_x.double().sum(2) / 50, dtype, SUM)
    assert (grad_x >= 0).all() and (grad_weights >= 0).all()


def test_gradient_of_a_weight_of_zero_is_exact(on: torch.device) -> None:
    x, weights = torch.tensor([[[0.5], [2.0]]], dtype=torch.float64), torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    weights = weights.to(on).requires_grad_()
    pk.ops.sum_layer(x.to(on), weights).sum().backward()
    assert_close(weights.grad, torch.tensor([[[0.0, 1.5]]]).to(weights).exp(), torch.float64, ELEMENTWISE)


def test_derivatives_to_second_order() -> None:
    x, weights = (t.requires_grad_() for t in layer(2, 3, 4, 5, scale=1.0))
    torch.autograd.gradcheck(pk.ops.sum_layer, (x, weights))
    torch.autograd.gradgradcheck(pk.ops.sum_layer, (x, weights))


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("shape", [(1, 33, 20, 1500), (7, 5, 6, 300)], ids=str)
def test_threads_do_not_change_a_bit(shape: tuple[int, ...], threads: int) -> None:
    x, weights = (t.float() for t in layer(*shape))
    grad_y, before = torch.randn(shape[0], shape[1], shape[3]), torch.get_num_threads()

    def run() -> list[Tensor]:
        y = pk.ops.sum_layer(x, weights)
        return [y, *pk.ops.sum_layer_bwd(x, weights, y, grad_y)]

    try:
        torch.set_num_threads(1)
        expected = run()
        torch.set_num_threads(threads)
        assert all(torch.equal(p, q) for p, q in zip(run(), expected, strict=True))
    finally:
        torch.set_num_threads(before)
    assert_close(expected[0], exact(x, weights), torch.float32, ELEMENTWISE)
    scale = (truth := exact_grads(x, weights, grad_y)[1]).abs().amax()
    assert_close(expected[2] / scale, truth / scale, torch.float32, SUM, shape[3])  # chunks of the batch are added up


# --- errors ---

GOOD = {"x": torch.zeros(2, 3, 4), "weights": torch.ones(2, 5, 3)}
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": [1.0]}, TypeError, "sum_layer: argument 'x': expected a floating-point tensor, got list"),
    ({"x": torch.zeros(2, 3, 4).half()}, TypeError, "argument 'x': expected dtype float32 or float64"),
    ({"x": torch.zeros(3, 4)}, ValueError, "argument 'x': expected shape \\(groups, in-units, batch\\).*last axis"),
    ({"x": torch.zeros(2, 0, 4)}, ValueError, "at least one in-unit"),
    ({"weights": torch.ones(2, 5, 4)}, ValueError, "argument 'weights': expected shape \\(2, 5, 3\\)"),
    ({"weights": torch.ones(5, 3)}, ValueError, "argument 'weights': expected shape \\(2, out-units, 3\\)"),
    ({"weights": torch.ones(2, 5, 3).double()}, TypeError, "argument 'weights': expected the dtype of 'x'.*cast"),
    ({"weights": torch.ones(2, 5, 3, device="meta")}, ValueError, "argument 'weights': expected the device of 'x'"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.sum_layer(**{**GOOD, **change})


def test_bad_arguments_of_the_backward() -> None:
    y = torch.zeros(2, 5, 4)
    with pytest.raises(ValueError, match="sum_layer_bwd: argument 'grad_y': expected shape \\(2, 5, 4\\)"):
        pk.ops.sum_layer_bwd(*GOOD.values(), y, y[:1])
    with pytest.raises(TypeError, match="argument 'y': expected the dtype of 'x'"):
        pk.ops.sum_layer_bwd(*GOOD.values(), y.double(), y)
    assert BWD.call(*GOOD.values(), y, y)[0].shape == (2, 3, 4)
