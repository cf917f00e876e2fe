"""Latent trees whose states lie many orders of magnitude apart: what one factor makes small, another restores. Truth is
in logarithms and float64."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.latent_trees import NONE, Model, build, each_kernel, random_model

CPU = torch.device("cpu")
NEAR: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
}


def by_logarithms(model: Model, codes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """log p (B), and the gradients of its sum in the logarithms of weights and leaves: flows, by autograd.

    The logarithm of zero is a number far below all others; samples that need one are impossible and have no flows.
    """
    rows = model.tree.tolist()
    nothing = -1e15
    log_weights, log_leaves = (
        t.to(dtype).double().log().clamp(min=nothing).requires_grad_() for t in (model.weights, model.leaves)
    )
    messages = [torch.zeros(codes.shape[1], row[1], dtype=torch.float64) for row in rows]
    log_p = torch.zeros(codes.shape[1])
    for n, (parent, _, variable, weights_at, *_) in reversed(list(enumerate(rows))):
        if variable >= 0:
            x = codes[variable].long()
            seen = model.table(log_leaves, n)[x.clamp(min=0)]
            messages[n] = messages[n] + torch.where(x[:, None] < 0, torch.zeros_like(seen), seen)
        sent = messages[n]
        if weights_at >= 0:
            sent = (sent[:, None] + model.matrix(log_weights, n)).logsumexp(2)
        if parent < 0:
            log_p = sent[:, 0]
        else:
            messages[parent] = messages[parent] + sent
    possible = log_p > nothing / 2
    flows = torch.autograd.grad(log_p[possible].sum(), (log_weights, log_leaves))
    return (log_p.detach().masked_fill(~possible, -torch.inf), *flows)


def check(model: Model, codes: Tensor, on: torch.device, dtype: torch.dtype) -> None:
    """Likelihood within 1e-5 relative, and flows within 1e-5 of a sample, of the truth."""
    expected = by_logarithms(model, codes, dtype)
    weights, leaves = model.weights.to(on, dtype), model.leaves.to(on, dtype)
    log_p = pk.ops.latent_tree(codes.to(on), weights, leaves.log(), model.tree)
    torch.testing.assert_close(log_p.cpu().double(), expected[0], **NEAR[dtype])
    again, slope, leaf_flows, _ = pk.ops.latent_tree_flows(codes.to(on), weights, leaves, model.tree)
    torch.testing.assert_close(again.cpu().double(), expected[0], **NEAR[dtype])
    for got, flow in zip((weights * slope, leaf_flows), expected[1:], strict=True):
        torch.testing.assert_close(got.cpu().double(), flow, rtol=1e-4, atol=codes.shape[1] * NEAR[dtype]["atol"])


def extreme(model: Model, orders: float, seed: int, zeros: float = 0.0) -> Model:
    """Parameters down to 10^-orders, a share of them zero."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(flat: Tensor) -> Tensor:
        return torch.rand(flat.shape, generator=generator, dtype=torch.float64)

    sparse = [10.0 ** -(orders * drawn(flat) ** 2) for flat in (model.weights, model.leaves)]
    return Model(model.tree, *(flat * (drawn(flat) >= zeros) for flat in sparse))


def star(children: int, states: int, latent: bool) -> Model:
    """A hub."""
    return build([(NONE, states, 0, 3, True), *((0, states, 1 + v, 3, latent) for v in range(children))])


@st.composite
def wide_models(draw: st.DrawFn) -> Model:
    seed, states = draw(st.integers(0, 999)), draw(st.sampled_from([2, 3, 16, 17, 40]))
    torch.manual_seed(seed)
    shape = draw(st.sampled_from(["tree", "hub", "leaves"]))
    model = random_model(12, [states, 2], 3, seed) if shape == "tree" else star(40, states, shape == "hub")
    zeros = draw(st.sampled_from([0.0, 0.1, 0.4]))
    return extreme(model, draw(st.sampled_from([1.0, 5.0, 12.0, 25.0, 37.0])), seed, zeros)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(model=wide_models())
@settings(max_examples=15, deadline=None)
def test_any_tree_equals_logarithms(dtype: torch.dtype, model: Model) -> None:
    check(model, model.codes(3), CPU, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("states", "orders", "zeros"), [(2, 3.0, 0.0), (17, 10.0, 0.3), (17, 25.0, 0.0), (2, 37.0, 0.2)]
)
def test_extreme_trees_on_every_backend(
    on: torch.device, states: int, orders: float, zeros: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for seed, model in enumerate((random_model(15, [states, 3]), star(30, states, True), star(30, states, False))):
        check(extreme(model, orders, seed, zeros), model.codes(34), on, dtype)


def hub(children: int, leaf: float, weight: float) -> tuple[Model, Tensor]:
    """Two states; the first half of the children say 1, the others 0."""
    pairs = [(p, 2, v, 2, True) for k in range(children) for p, v in ((0, 1 + 2 * k), (1 + 2 * k, 2 + 2 * k))]
    described = build([(NONE, 2, 0, 2, True), *pairs])
    keep = torch.tensor([[leaf, 1 - leaf], [1 - leaf, leaf]], dtype=torch.float64)
    move = torch.tensor([[weight, 1 - weight], [1 - weight, weight]], dtype=torch.float64).flatten()
    model = Model(
        described.tree,
        torch.cat([torch.full((2,), 0.5), move.repeat(2 * children)]),
        keep.flatten().repeat(1 + 2 * children),
    )
    codes = torch.zeros(1 + 2 * children, 1, dtype=torch.int32)
    codes[: 1 + 2 * (children // 2)] = 1
    return model, codes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_hub_whose_last_children_speak_against_its_first(on: torch.device, dtype: torch.dtype) -> None:
    """Float64 needs more children until its range is left: 1e-2 to the 180th."""
    model, codes = hub(60 if dtype is torch.float32 else 360, 0.999, 0.99)
    check(model, codes, on, dtype)


@pytest.mark.parametrize("small", [1e-37, 1e-20, 1e-12])
def test_few_factors_may_be_tiny_too(on: torch.device, small: float) -> None:
    """A node's leaf against those of two children: no product of theirs may flush."""
    model = build([(NONE, 2, 0, 2, True), (0, 2, 1, 2, False), (0, 2, 2, 2, False)])
    leaves = torch.tensor([[small, 1.0], [small, 1.0], [1.0, small**2 if small > 1e-18 else small]]).double()
    model = Model(
        model.tree, torch.tensor([0.5, 0.5]).double(), torch.cat([torch.stack([t, t]).flatten() for t in leaves])
    )
    check(model, torch.zeros(3, 1, dtype=torch.int32), on, torch.float32)


def two_hubs(children: int, small: float, weights: Tensor) -> Model:
    """Latent nodes A - B; B's ``children`` leaves favor its state 0, as many of A's undo that: p is far from zero."""
    hung = [(parent, 2, 2 + k + parent * children, 2, False) for parent in (1, 0) for k in range(children)]
    described = build([(NONE, 2, 0, 2, True), (0, 2, 1, 2, True), *hung])
    one = torch.ones(2, 2, dtype=torch.float64)
    favor = [torch.tensor([[first, second]] * 2).double() for first, second in ((1.0, small), (small, 1.0))]
    leaves = torch.cat([one, one, *(favor[0] for _ in range(children)), *(favor[1] for _ in range(children))])
    return Model(described.tree, torch.cat([torch.tensor([0.5, 0.5]).double(), weights.flatten()]), leaves.flatten())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("hidden", [0.0, 1e-37])
def test_a_state_that_no_weight_leads_to_hides_no_other(on: torch.device, hidden: float, dtype: torch.dtype) -> None:
    """A's state 1 needs B's state 1, 700 orders of magnitude below B's state 0, and nothing else counts."""
    codes = torch.zeros(202, 3, dtype=torch.int32)
    codes[:, 2] = NONE
    model = two_hubs(100, 1e-7, torch.tensor([[1.0, 0.0], [hidden, 1.0]]).double())
    check(model, codes, on, dtype)
    grad = torch.tensor([2.0, -1.0, 0.5], device=on, dtype=dtype)
    weights, leaves = model.weights.to(on, dtype), model.leaves.to(on, dtype)
    once = [pk.ops.latent_tree_flows(codes[:, b : b + 1].to(on), weights, leaves, model.tree)[1:] for b in range(3)]
    together = pk.ops.latent_tree_flows(codes.to(on), weights, leaves, model.tree, grad=grad)[1:]
    for got, parts in zip(together, zip(*once, strict=True), strict=True):
        torch.testing.assert_close(got, sum(g * part for g, part in zip(grad, parts, strict=True)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("far", [1, 4, 7, 10, 22, 37])
def test_an_impossible_state_may_have_any_exponent(on: torch.device, far: int) -> None:
    """Its factors but one favor it, by 2^(20 far): it is zero, and no infinity times zero."""
    hung = [(0, 2, 1 + k, 2, False) for k in range(far + 1)]
    described = build([(NONE, 2, 0, 2, True), *hung])
    leaves = [[1.0, 1.0], [0.0, 1.0], *([1.0, 2.0**-20] for _ in range(far))]
    tables = torch.tensor([[row, row] for row in leaves], dtype=torch.float64).flatten()
    model = Model(described.tree, torch.tensor([0.5, 0.5]).double(), tables)
    check(model, torch.zeros(far + 2, 1, dtype=torch.int32), on, torch.float32)


@pytest.mark.parametrize("of", ["weights", "leaves"])
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_nan_comes_out_as_nan(on: torch.device, of: str, zeros: float) -> None:
    torch.manual_seed(0)
    for seed, model in enumerate((random_model(15, [3, 2]), star(30, 3, True), star(30, 17, False))):
        model = extreme(model, 3.0, seed, zeros)
        getattr(model, of)[:] = torch.nan
        codes = model.codes(5, missing=0.0).to(on)
        weights, leaves = model.weights.to(on).float(), model.leaves.to(on).float()
        assert pk.ops.latent_tree(codes, weights, leaves.log(), model.tree).isnan().all()
        log_p, *flows = pk.ops.latent_tree_flows(codes, weights, leaves, model.tree)
        assert log_p.isnan().all() and flows[0].isnan().any()


@each_kernel
def test_a_state_with_a_zero_weight_beside_it(kind: str) -> None:
    """Zeros among weights do not hide a state that lies within the range."""
    model = build([(NONE, 2, 0, 2, True), *((0, 2, 1 + v, 2, True) for v in range(20))])
    weights = torch.cat([torch.tensor([0.0, 1.0]), torch.eye(2).flatten().repeat(20)]).double()
    leaves = torch.tensor([0.9, 0.1, 0.1, 0.9]).double().repeat(21)
    got: Any
    with pk.use_backend(kind):
        got = pk.ops.latent_tree(
            torch.zeros(21, 1, dtype=torch.int32), weights.float(), leaves.float().log(), model.tree
        )
    assert got.item() == pytest.approx(21 * torch.tensor(0.1).log().item(), rel=1e-6)
