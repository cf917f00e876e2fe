"""Latent trees on every backend: enumeration, the oracles of the toy model, invariants, ranges of numbers, errors."""

from __future__ import annotations

import itertools
from typing import Any

import probkernels as pk
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels.reference import latent_tree as reference
from torch import Tensor

from tests.ops.latent_trees import NONE, TOY_DATA, Model, brute_force, build, each_kernel, random_model, toy
from tests.tolerances import ELEMENTWISE, SUM, assert_close

DTYPES = [torch.float64, torch.float32]
CPU = torch.device("cpu")


def log_prob(model: Model, codes: Tensor, on: torch.device = CPU, dtype: Any = torch.float64) -> Tensor:
    weights, leaves = model.weights.to(on, dtype), model.leaves.to(on, dtype)
    return pk.ops.latent_tree(codes.to(on), weights, leaves.log(), model.tree).cpu()


def flows(
    model: Model, codes: Tensor, on: torch.device = CPU, dtype: Any = torch.float64, grad: Any = None
) -> tuple[Tensor, ...]:
    weights, leaves = model.weights.to(on, dtype), model.leaves.to(on, dtype)
    grad = None if grad is None else grad.to(on, dtype)
    return tuple(t.cpu() for t in pk.ops.latent_tree_flows(codes.to(on), weights, leaves, model.tree, grad))


def exact(model: Model, codes: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
    """By the reference, in float64."""
    tree = model.tree.flatten().tolist()
    return reference.latent_tree_flows(model.weights, model.leaves, codes, tree, grad, model.missing)


def check(model: Model, codes: Tensor, on: torch.device, dtype: torch.dtype, grad: Tensor | None = None) -> None:
    """Likelihood and flows equal the reference's in float64 (of parameters that the dtype can hold)."""
    model = Model(model.tree, model.weights.to(dtype).double(), model.leaves.to(dtype).double())
    expected = exact(model, codes, grad)
    assert_close(log_prob(model, codes, on, dtype), expected[0], dtype, ELEMENTWISE)
    got = flows(model, codes, on, dtype, grad)
    assert_close(got[0], expected[0], dtype, ELEMENTWISE)
    for g, e in zip(got[1:], expected[1:], strict=True):
        assert_close(g, e, dtype, SUM, terms=codes.shape[1])


# --- the definition ---


@st.composite
def models(draw: st.DrawFn) -> Model:
    seed, nodes = draw(st.integers(0, 999)), draw(st.integers(1, 6))
    torch.manual_seed(seed)
    return random_model(nodes, draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)), 3, seed)


@given(model=models())
@settings(max_examples=60, deadline=None)
def test_any_tree_equals_enumeration(model: Model) -> None:
    codes = model.codes(5)
    expected = torch.tensor([brute_force(model, x) for x in codes.t().tolist()], dtype=torch.float64)
    torch.testing.assert_close(log_prob(model, codes).exp(), expected, rtol=1e-12, atol=1e-15)


@given(model=models(), zeros=st.floats(0, 0.6))
@settings(max_examples=60, deadline=None)
def test_flows_of_any_tree_are_gradients(model: Model, zeros: float) -> None:
    """Of the reference by autograd; entries that are exactly zero among them."""
    sparse = [t.masked_fill(torch.rand(t.shape) < zeros, 0) for t in (model.weights, model.leaves)]
    model, codes, grad = Model(model.tree, *sparse), model.codes(5), torch.randn(5, dtype=torch.float64)
    weights, log_leaves = model.weights.clone().requires_grad_(), model.leaves.log().requires_grad_()
    log_p = reference.latent_tree(weights, log_leaves, codes, model.tree.flatten().tolist())
    possible = log_p > -torch.inf
    expected = torch.autograd.grad((log_p * grad)[possible].sum(), (weights, log_leaves))
    got = flows(model, codes, grad=grad)
    assert torch.equal(got[0] > -torch.inf, possible)
    for g, e in zip(got[1:3], expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", [[1], [1, 2, 3], [8], [16], [16, 5, 33], [24]], ids=str)
def test_equals_the_reference(on: torch.device, states: list[int], dtype: torch.dtype) -> None:
    """Whole registers, tails and both; batches around the size of a tile."""
    model = random_model(9, states)
    for batch in (1, 33, 70):
        check(model, model.codes(batch), on, dtype, torch.randn(batch, dtype=torch.float64))


def test_gradients_are_exact() -> None:
    model = random_model(6, [1, 2, 3])
    codes = model.codes(4)
    leaves = [model.weights.requires_grad_(), model.leaves.log().requires_grad_()]
    torch.autograd.gradcheck(lambda w, t: pk.ops.latent_tree(codes, w, t, model.tree), leaves)


# --- the toy model ---

EVERYTHING = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.int32).t().contiguous()


def test_toy_probabilities(on: torch.device) -> None:
    p = log_prob(toy(), EVERYTHING, on).exp()
    named = dict(zip(map(tuple, EVERYTHING.t().tolist()), p.tolist(), strict=True))
    assert named[0, 1, 2, 0] == pytest.approx(0.00612, abs=1e-15)
    assert named[2, 2, 2, 2] == pytest.approx(0.035535, abs=1e-15)
    assert p.sum().item() == pytest.approx(1, abs=1e-14)
    assert -(p * p.log2()).sum().item() == pytest.approx(5.7506708972, abs=5e-11)


CHAINS = {
    (1, 0, 2, 3): [
        (0.38, 0.23, 0.39),
        (0.4913043478, 0.2347826087, 0.2739130435),
        (0.7269911504, 0.1292035398, 0.1438053097),
        (0.3766153846, 0.2390769231, 0.3843076923),
    ],
    (1, 2, 3, 0): [
        (0.38, 0.23, 0.39),
        (0.6369565217, 0.1652173913, 0.197826087),
        (0.2373626374, 0.2010989011, 0.5615384615),
        (0.5666666667, 0.2222222222, 0.2111111111),
    ],
}


@pytest.mark.parametrize("order", CHAINS, ids=str)
def test_toy_conditionals_by_masked_marginals(on: torch.device, order: tuple[int, ...]) -> None:
    x, chain = (0, 1, 2, 0), 1.0
    for step, expected in enumerate(CHAINS[order]):
        codes = torch.full((4, 3), NONE, dtype=torch.int32)
        for v in order[:step]:
            codes[v] = x[v]
        codes[order[step]] = torch.arange(3)
        conditional = log_prob(toy(), codes, on).softmax(0)
        assert conditional.tolist() == pytest.approx(expected, abs=5e-11)
        chain *= conditional[x[order[step]]].item()
    assert chain == pytest.approx(0.00612, abs=1e-15)


def test_toy_step_of_expectation_maximization(on: torch.device) -> None:
    model = toy()
    log_p, grad_weights, leaf_flows, missing = flows(model, TOY_DATA, on)
    used = model.weights * grad_weights
    assert log_p.mean().item() == pytest.approx(-3.829956161, abs=5e-10)
    assert used[:2].tolist() == pytest.approx([1.9621524, 1.0378476], abs=5e-8)
    assert used[2:].tolist() == pytest.approx([1.89424798, 0.06790442, 0.03993953, 0.99790807], abs=5e-9)
    assert not missing.any()
    weights, leaves = used.clone(), leaf_flows.clone()
    for n in range(4):
        model.table(leaves, n).div_(model.table(leaf_flows, n).sum(0))
    weights[:2] /= 3
    weights[2:] = (used[2:].view(2, 2) / used[2:].view(2, 2).sum(1, keepdim=True)).flatten()
    assert weights[:2].tolist() == pytest.approx([0.6540508, 0.3459492], abs=5e-8)
    better = log_prob(Model(model.tree, weights, leaves), TOY_DATA, on)
    assert better.mean().item() == pytest.approx(-2.144302029, abs=5e-10)


# --- what must hold ---


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_flows_are_conserved(on: torch.device, dtype: torch.dtype) -> None:
    model = random_model(12, [2, 3, 8])
    codes = model.codes(50)
    _, grad_weights, leaf_flows, missing = flows(model, codes, on, dtype)
    used = model.weights.to(dtype) * grad_weights
    inflow: list[Tensor] = []  # of every node's states
    near = {"rtol": 2e-5, "atol": 2e-5} if dtype is torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for n, (parent, states, variable, weights_at, *_) in enumerate(model.tree.tolist()):
        inflow.append(model.matrix(used, n).sum(0) if weights_at >= 0 else inflow[parent])
        above = inflow[parent] if n else torch.tensor([50.0], dtype=dtype)
        if weights_at >= 0:
            torch.testing.assert_close(model.matrix(used, n).sum(1), above, **near)
        if variable >= 0:
            seen = model.table(leaf_flows, n)
            unseen, missing = missing.split([states, len(missing) - states])
            torch.testing.assert_close(seen.sum(0) + unseen, inflow[n], **near)
            assert seen.sum().item() == pytest.approx(int((codes[variable] >= 0).sum()), rel=1e-5)


def test_nothing_seen_means_certainty(on: torch.device) -> None:
    model = random_model(12, [2, 3, 8])
    codes = torch.full((len(model.categories), 3), NONE, dtype=torch.int32)
    assert log_prob(model, codes, on).abs().max() < 1e-14
    assert log_prob(model, codes, on, torch.float32).abs().max() < 1e-6
    assert not flows(model, codes, on)[2].any()


def test_one_state_means_independent_variables(on: torch.device) -> None:
    model = random_model(10, [1])
    codes = model.codes(20)
    expected = torch.zeros(20, dtype=torch.float64)
    for n, row in enumerate(model.tree.tolist()):
        if row[2] >= 0:
            x = codes[row[2]].long()
            expected += torch.where(x < 0, 1.0, model.table(model.leaves, n)[x.clamp(min=0), 0]).log()
    torch.testing.assert_close(log_prob(model, codes, on), expected, rtol=1e-13, atol=1e-13)


def test_identity_leaves_give_the_observed_tree(on: torch.device) -> None:
    """A Chow-Liu tree: every latent variable is its observed one."""
    chain = build([(-1, 4, 0, 4, True), (0, 4, 1, 4, True), (1, 4, 2, 4, True)])
    model = Model(chain.tree, chain.weights, torch.eye(4, dtype=torch.float64).flatten().repeat(3))
    codes = model.codes(30, missing=0)
    x = codes.long()
    steps = [model.matrix(model.weights, n)[x[n - 1] if n else 0, x[n]] for n in range(3)]
    torch.testing.assert_close(log_prob(model, codes, on), sum(s.log() for s in steps), rtol=1e-13, atol=1e-13)
    counts = model.matrix(model.weights * flows(model, codes, on)[1], 2)
    expected = torch.zeros(4, 4, dtype=torch.float64).index_put_((x[1], x[2]), torch.ones(30).double(), accumulate=True)
    torch.testing.assert_close(counts, expected)


# --- ranges of numbers ---


def chain_and_star(length: int) -> list[Model]:
    chain = [(n - 1, 3, n, 4, True) for n in range(length)]
    star = [(-1, 3, NONE, 0, True), *((0, 3, v, 4, v % 2 == 0) for v in range(length))]
    return [build(chain), build(star)]


@pytest.mark.parametrize("shape", [0, 1], ids=["chain", "star"])
def test_products_of_many_factors_stay_in_range(on: torch.device, shape: int) -> None:
    """The probability is about 1e-500, and a plain product of a star's factors leaves float32 after a few dozen."""
    model = chain_and_star(300)[shape]
    model.leaves.mul_(1e-2)
    codes = model.codes(3, missing=0)
    assert exact(model, codes)[0].max() < -1000
    check(model, codes, on, torch.float32)


def test_impossible_samples(on: torch.device) -> None:
    model = random_model(8, [3])
    n = next(n for n, row in enumerate(model.tree.tolist()) if row[2] >= 0 and row[5] > 1)
    model.table(model.leaves, n)[0] = 0
    v, codes = int(model.tree[n, 2]), model.codes(40)
    codes[v, ::2], codes[v, 1::2] = 0, 1
    log_p, *summed = flows(model, codes, on, torch.float32)
    assert (log_p[::2] == -torch.inf).all()
    assert log_p[1::2].isfinite().all()
    possible = flows(model, codes[:, 1::2].contiguous(), on, torch.float32)
    for g, e in zip(summed, possible[1:], strict=True):
        torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-5)


def test_a_zero_weight_has_a_gradient(on: torch.device) -> None:
    model = toy()
    model.weights[3] = 0
    weights = model.weights.to(on).requires_grad_()
    pk.ops.latent_tree(TOY_DATA.to(on), weights, model.leaves.log().to(on), model.tree).sum().backward()
    moved = Model(model.tree, model.weights.clone(), model.leaves)
    moved.weights[3] = 1e-7
    slope = (log_prob(moved, TOY_DATA).sum() - log_prob(model, TOY_DATA).sum()) / 1e-7
    assert weights.grad[3].item() == pytest.approx(slope.item(), rel=1e-5)
    assert weights.grad[3].item() > 0.1


@pytest.mark.parametrize("part", ["weights", "leaves"])
def test_nan_spreads_to_those_that_meet_it(on: torch.device, part: str) -> None:
    model = toy()
    getattr(model, part)[2 if part == "weights" else 6] = float("nan")  # a leaf that only category 0 of variable 0 has
    log_p, grad_weights, _, _ = flows(model, TOY_DATA, on)
    met = torch.ones(3, dtype=torch.bool) if part == "weights" else TOY_DATA[0] == 0
    assert torch.equal(log_p.isnan(), met)
    assert grad_weights.isnan().any()


def test_float32_flows_of_many_samples_stay_exact() -> None:
    model = random_model(7, [4])
    codes = model.codes(60_000)
    codes[:, :50_000] = codes[:, :1]  # most of it adds to the same entries
    model = Model(model.tree, model.weights.float().double(), model.leaves.float().double())
    expected, got = exact(model, codes), flows(model, codes, dtype=torch.float32)
    for g, e in zip(got[1:], expected[1:], strict=True):
        assert ((g - e).abs() / e.clamp(min=1)).max() < 1e-5


# --- determinism, and no data ---


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    model = random_model(30, [8, 16])
    codes = model.codes(700)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = flows(model, codes, dtype=torch.float32)
        torch.set_num_threads(threads)
        for _ in range(3):
            assert all(map(torch.equal, flows(model, codes, dtype=torch.float32), expected))
    finally:
        torch.set_num_threads(before)


@each_kernel
def test_a_likelihood_does_not_depend_on_the_others(kind: str) -> None:
    model = random_model(10, [3, 8])
    codes = model.codes(75)
    with pk.use_backend(kind):
        whole = log_prob(model, codes, dtype=torch.float32)
        parts = [log_prob(model, part, dtype=torch.float32) for part in codes.split([1, 40, 34], dim=1)]
    assert torch.equal(torch.cat(parts), whole)


def test_an_empty_batch(on: torch.device) -> None:
    model = random_model(5, [3])
    log_p, *summed = flows(model, model.codes(0), on)
    assert log_p.shape == (0,)
    assert [t.shape for t in summed] == [model.weights.shape, model.leaves.shape, (model.missing,)]
    assert not any(t.any() for t in summed)


def test_a_tree_without_observed_nodes(on: torch.device) -> None:
    model = build([(-1, 3, NONE, 0, True), (0, 2, NONE, 0, True)])
    assert log_prob(model, torch.zeros(0, 4, dtype=torch.int32), on).tolist() == pytest.approx([0.0] * 4, abs=1e-15)


def test_compiled_with_a_tree_of_ints() -> None:
    rows = toy().tree.tolist()
    compiled = torch.compile(lambda w, t: pk.ops.latent_tree(TOY_DATA, w, t, rows), fullgraph=True, backend="aot_eager")
    weights, log_leaves = toy().weights.requires_grad_(), toy().leaves.log()
    compiled(weights, log_leaves).sum().backward()
    torch.testing.assert_close(weights.grad, flows(toy(), TOY_DATA)[1])
