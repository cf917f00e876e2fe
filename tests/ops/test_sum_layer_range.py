"""Sum layers of extreme weights, inputs and gradients on every backend: truth is in logarithms and float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import probkernels as pk
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import backends

INF = math.inf
DTYPES = [torch.float32, torch.float64]
NAMES = [name for name in backends.names() if not name.startswith("cuda")]
LARGEST_LOG = {torch.float32: 88.0, torch.float64: 709.0}  # of a derivative in a weight
NEAR = {torch.float32: 1e-4, torch.float64: 1e-10}
SUBNORMAL = {torch.float32: 2.0**-149, torch.float64: math.ulp(0.0)}  # what a gradient of a weight is rounded to


@pytest.fixture(params=NAMES)
def on(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Of the backends that the op has."""
    if reason := backends.skip_reason(request.param):
        pytest.skip(reason)
    with pk.use_backend(request.param):
        yield backends.device(request.param)


def by_logarithms(x: Tensor, weights: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the gradients of x and of the weights, and weights times the latter: term by term, from log w + x."""
    x, grad_y, log_w = x.double()[:, None], grad_y.double()[:, :, None], weights.double().log()[..., None]
    terms = torch.where(log_w == -INF, -INF, log_w + x)  # weight 0 and input +inf: nothing
    y = terms.logsumexp(2)
    nothing = (y == -INF)[:, :, None]
    share = torch.where(nothing, 0.0, (terms - y[:, :, None]).exp() * grad_y)
    ratio = torch.where(nothing, 0.0, (x - y[:, :, None]).clamp(max=LARGEST_LOG[weights.dtype]).exp() * grad_y)
    return y, share.sum(1), ratio.sum(3), share.sum(3)


def check(x: Tensor, weights: Tensor, grad_y: Tensor, on: torch.device) -> None:
    """Outputs, and gradients but for a millionth of what flows into an output; the flow of edges, too."""
    dtype = x.dtype
    near, (y, grad_x, grad_weights, flow) = NEAR[dtype], by_logarithms(x, weights, grad_y)
    _, sum_x, sum_weights, sum_flow = by_logarithms(x, weights, grad_y.abs())  # what rounding is relative to
    got = pk.ops.sum_layer(x.to(on), weights.to(on))
    torch.testing.assert_close(got.cpu().double(), y, rtol=near, atol=near)
    # The gradients of the rounded y: of a y of a thousand the last bit is 6e-5.
    got_x, got_w = (
        t.cpu().double() for t in pk.ops.sum_layer_bwd(*(t.to(on) for t in (x, weights, y.to(dtype), grad_y)))
    )
    rounding = near + 4 * torch.finfo(dtype).eps * float(torch.where(y.isfinite(), y, 0.0).abs().max())
    size = grad_y.double().abs()
    error = (got_x - grad_x).abs() - rounding * sum_x
    assert (error <= 1e-6 * size.amax(1)[:, None] + torch.finfo(dtype).tiny).all(), error.max()
    least = 1e-6 * size.sum(2)[:, :, None] + torch.finfo(dtype).tiny
    most = torch.finfo(dtype).max
    inside = grad_weights.abs() < most / 2
    error = (got_w - grad_weights)[inside].abs() - rounding * sum_weights[inside]
    assert (error <= least.expand_as(got_w)[inside]).all(), error.max()
    normal = (weights >= torch.finfo(dtype).tiny) & inside
    error = (weights.double() * got_w - flow)[normal].abs() - rounding * sum_flow[normal]
    least = least + weights.double() * SUBNORMAL[dtype] * x.shape[2]
    assert (error <= least.expand_as(got_w)[normal]).all(), error.max()


@st.composite
def layers(draw: st.DrawFn, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, weights and grad_y: weights of all sizes with zeros, far inputs that weights may make up for, -inf."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    outs, ins, batch = (draw(st.sampled_from(sizes)) for sizes in ([1, 2, 9], [1, 2, 3, 17], [1, 5, 33]))
    scale = draw(st.sampled_from([0.0, 0.3, 1.0, 3.0]))
    orders = 38 if dtype is torch.float32 else 307
    logs = draw(st.sampled_from(["ordinary", "wide", "huge", "subnormal"]))
    exponents = {
        "ordinary": -3 * uniform(2, outs, ins),
        "wide": orders * (2 * uniform(2, outs, ins) - 1),
        "huge": orders * (1 - 0.3 * uniform(2, outs, ins)),
        "subnormal": -orders - 6 * uniform(2, outs, ins),
    }[logs]
    weights = (10.0**exponents * (uniform(2, outs, ins) >= draw(st.sampled_from([0.0, 0.5])))).to(dtype)
    x = scale * orders * math.log(10) * (2 * uniform(2, ins, batch) - 1)
    x = torch.where(uniform(2, ins, batch) < draw(st.sampled_from([0.0, 0.3])), -INF, x).to(dtype)
    grad_y = (uniform(2, outs, batch) - 0.3) * 10.0 ** draw(st.sampled_from([-6, 0, 9]))
    return x, weights, grad_y.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_any_layer_equals_logarithms(name: str, dtype: torch.dtype) -> None:
    if reason := backends.skip_reason(name):
        pytest.skip(reason)

    @given(layer=layers(dtype))
    @settings(max_examples=10 if name == "triton_interp" else 60, deadline=None)
    def compare(layer: tuple[Tensor, Tensor, Tensor]) -> None:
        with pk.use_backend(name):
            check(*layer, backends.device(name))

    compare()


EDGES = {
    "large weight beside a far input": ([0.0, -95.0], [1e-25, 1e30]),
    "nearly lost, nearly whole": ([0.0, -87.4, -87.6], [1e-30, 1e8, 1e8]),
    "one subnormal weight": ([0.0], [1e-40]),
    "the least weight": ([3.0], [1.5e-45]),
    "weights that add up to infinity": ([0.0, 0.0, 1.0], [3e38, 3e38, 1e38]),
    "one large weight": ([0.0], [3e38]),
    "large and small": ([0.0, 0.0], [1e30, 1e-30]),
    "the far input counts alone": ([0.0, -170.0], [1e-38, 3e38]),
    "subnormal beside nothing": ([-INF, 7.0], [1.0, 1e-42]),
    "a subnormal weight above a normal one": ([180.0, 0.0], [1e-44, 1e-5]),
}


@pytest.mark.parametrize("grad", [1.0, -3e9, 1e-9])
@pytest.mark.parametrize("edge", EDGES)
def test_extreme_weights_at_the_edge(on: torch.device, edge: str, grad: float) -> None:
    """Beside an ordinary output, and in a batch of ordinary samples: nothing of theirs changes."""
    x, w = (torch.tensor(values) for values in EDGES[edge])
    batch = torch.stack([x, torch.zeros_like(x), x + 1], 1)[None]
    weights = torch.stack([w, torch.full_like(w, 0.5)])[None]
    check(batch, weights, torch.full((1, 2, 3), grad), on)


def test_gradients_of_any_size(on: torch.device) -> None:
    """A flow of 1e12 through an output far below another: products of the two leave float32, the gradient does not."""
    x = torch.tensor([0.0, -60.0, -68.0])[None, :, None].expand(1, 3, 4).contiguous()
    weights = torch.eye(3)[None] * 0.5
    weights[0, 2, 1] = 1e-5
    for grad in (1e12, 1e20, 1e30):
        check(x, weights, torch.full((1, 3, 4), grad), on)


@pytest.mark.parametrize("distance", [40.0, 60.0, 69.0])
def test_a_small_share_of_a_far_output_has_its_gradient(on: torch.device, distance: float) -> None:
    """A share of e^-21: without its gradient, EM would delete the edge for good."""
    x = torch.tensor([0.0, -distance, -distance - 21])[None, :, None]
    weights = torch.tensor([[[0.0, 1.0, 1.0]]])
    check(x, weights, torch.ones(1, 1, 1), on)
    y = pk.ops.sum_layer(x.to(on), weights.to(on))
    grad = pk.ops.sum_layer_bwd(x.to(on), weights.to(on), y, torch.ones(1, 1, 1, device=on))[1]
    assert grad[0, 0, 2].item() == pytest.approx(math.exp(-21), rel=1e-3)


@pytest.mark.parametrize("weight", [3.0, 2.0**20, 2.0**39, 2.0**70])
def test_a_tiny_flow_passes_heavy_weights(on: torch.device, weight: float) -> None:
    """On the way the flow of a sum is divided by the sum, and leaves the range, before the weight brings it back."""
    x = torch.tensor([0.0, -1.0, -INF], device=on)[None, :, None].expand(1, 3, 20).contiguous()
    weights = torch.tensor([[[weight, weight / 2, weight]]], device=on)
    y = pk.ops.sum_layer(x, weights)
    shares = torch.tensor([2.0, math.exp(-1), 0.0]) / (2 + math.exp(-1))
    for flow in (1e-20, 1e-30, 1e-34, 1e-37, -1e-34):
        grad_x, _ = pk.ops.sum_layer_bwd(x, weights, y, torch.full_like(y, flow))
        got = grad_x[0, :, ::19].cpu().double() / flow
        torch.testing.assert_close(got, shares.double()[:, None].expand(3, 2), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("weight", [1e-44, 1e-38, 1e20, 3e38])
def test_infinite_inputs_beside_extreme_weights(on: torch.device, weight: float) -> None:
    """+inf reaches the output that has a weight for it and no other; -inf is nothing."""
    x = torch.tensor([[[INF, -INF, 2.0], [1.0, 1.0, -INF]]], device=on)
    weights = torch.tensor([[[0.0, weight], [weight, weight]]], device=on)
    y = pk.ops.sum_layer(x, weights)
    log = math.log(torch.tensor(weight).item())
    expected = torch.tensor([[[log + 1, log + 1, -INF], [INF, log + 1, log + 2]]], device=on)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    grad_x, _ = pk.ops.sum_layer_bwd(x, weights, y, torch.tensor([1.0, 0.0], device=on)[None, :, None].expand(1, 2, 3))
    torch.testing.assert_close(grad_x[0, 1, :2].cpu(), torch.ones(2))


def test_autograd_and_its_derivative_at_extreme_weights() -> None:
    """Second derivatives and forward mode run through the reference."""
    x = torch.tensor([0.0, -40.0, 3.0])[None, :, None].double().requires_grad_()
    weights = torch.tensor([[[1e-10, 1e25, 1e-22], [1e-30, 1e-30, 1e-29]]]).double().requires_grad_()
    torch.autograd.gradcheck(lambda x: pk.ops.sum_layer(x, weights), (x,))
    torch.autograd.gradgradcheck(lambda x: pk.ops.sum_layer(x, weights), (x,))
    x32, w32 = (t.detach().float().requires_grad_() for t in (x, weights))
    seconds = []
    for inputs in ((x32, w32), (x, weights)):
        first = torch.autograd.grad(pk.ops.sum_layer(*inputs)[0, 0].sum(), inputs[0], create_graph=True)[0]
        seconds.append(torch.autograd.grad(first[0, 1].sum(), inputs[0])[0].double())
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5)
