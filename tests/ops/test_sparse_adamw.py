"""Sparse AdamW on every backend: equal to torch's AdamW, and to dense AdamW whose unselected entries are put back."""

from __future__ import annotations

import math
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels._core import native
from probkernels.ops import Selection, sparse_adamw_
from probkernels.ops.sparse_adamw import STEP, STEP8
from probkernels.reference import sparse_adamw as reference
from torch import Tensor

from tests.tolerances import ELEMENTWISE, assert_close

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
RULE = {"lr": 3e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
# shape, density: both encodings, one entry, everything, words that are full, blocks of 512 without any, odd tails
SHAPES = [((1,), 1.0), ((70,), 0.3), ((37, 41), 0.02), ((64, 65), 0.06), ((3, 5, 7, 9), 0.5), ((50, 81), 1.0)]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


class Problem:
    """Weights with selections and state; ``step`` makes step number k with gradients that depend on k alone."""

    def __init__(
        self,
        dtypes: list[torch.dtype],
        device: torch.device,
        *,
        masters: bool = True,
        dense: bool = False,
        bits: int = 32,
    ) -> None:
        self.dense, self.bits = dense, bits
        self.weights, self.masks = [], []
        for k, (shape, density) in enumerate(SHAPES):
            mask = torch.rand(shape) < density
            if shape == (64, 65):  # a run without selected entries, longer than 512, and a full word
                mask.view(-1)[700:1900], mask.view(-1)[128:192] = False, True
            mask.view(-1)[-1] = True
            self.masks.append(mask.to(device))
            self.weights.append(torch.randn(shape, dtype=torch.float64).to(device, dtypes[k % len(dtypes)]))
        self.selections = [Selection.from_mask(mask) for mask in self.masks]
        self.values = [w[m].to(wide(w.dtype)) for w, m in zip(self.weights, self.masks, strict=True)]
        self.masters = masters
        self.before = [w.clone() for w in self.weights]
        self.m, self.v, self.m_scale, self.v_scale = [], [], [], []
        for w, s in zip(self.weights, self.selections, strict=True):
            kept = torch.uint8 if bits == 8 else wide(w.dtype)
            for state in (self.m, self.v):
                state.append(torch.zeros(s.count, dtype=kept, device=device))
            for scale in (self.m_scale, self.v_scale):
                scale.append(torch.zeros(-(-s.count // 256), dtype=wide(w.dtype), device=device))

    def grads(self, step: int) -> list[Tensor]:
        """Of the weights' shapes, in the dtype of the update."""
        generator = torch.Generator().manual_seed(step)
        return [
            torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w.device, wide(w.dtype))
            for w in self.weights
        ]

    def step(self, step: int, **rule: Any) -> None:
        grads = self.grads(step)
        if not self.dense:
            grads = [g[mask] for g, mask in zip(grads, self.masks, strict=True)]
        scales = {"m_scale": self.m_scale, "v_scale": self.v_scale} if self.bits == 8 else {}
        values = self.values if self.masters else None
        sparse_adamw_(
            self.weights, self.selections, grads, self.m, self.v, step, values=values, **scales, **(RULE | rule)
        )


# --- oracles ---


@pytest.mark.parametrize("dense", [False, True], ids=["compact", "dense"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fifty_steps_equal_torch_on_the_gathered_vector(on: torch.device, dtype: torch.dtype, dense: bool) -> None:
    """With a master copy, whatever the weight's dtype; the weight is the master rounded. All in float64 by torch."""
    ours = Problem([dtype], on, dense=dense)
    theirs = [v.double().clone().requires_grad_() for v in ours.values]
    optimizer = torch.optim.AdamW(theirs, **RULE)
    for step in range(1, 51):
        for t, g, mask in zip(theirs, ours.grads(step), ours.masks, strict=True):
            t.grad = g[mask].double()
        optimizer.step()
        ours.step(step)
    for k, t in enumerate(theirs):
        assert_close(ours.values[k], t.detach(), wide(dtype), ELEMENTWISE)
        state = optimizer.state[t]
        assert_close(ours.m[k], state["exp_avg"], wide(dtype), ELEMENTWISE)
        assert_close(ours.v[k], state["exp_avg_sq"], wide(dtype), ELEMENTWISE)
        assert torch.equal(ours.weights[k][ours.masks[k]], ours.values[k].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_masked_dense_adamw(on: torch.device, dtype: torch.dtype) -> None:
    """Step everything, put back what is not selected."""
    ours = Problem([dtype], on, masters=False)
    theirs = [w.double().clone().requires_grad_() for w in ours.weights]
    optimizer = torch.optim.AdamW(theirs, **RULE)
    for step in range(1, 21):
        for t, g in zip(theirs, ours.grads(step), strict=True):
            t.grad = g.double()
        optimizer.step()
        with torch.no_grad():
            for t, mask, before in zip(theirs, ours.masks, ours.before, strict=True):
                t[~mask] = before[~mask].double()
        ours.step(step)
    for w, t in zip(ours.weights, theirs, strict=True):
        assert_close(w, t.detach(), dtype, ELEMENTWISE)


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_entries_keep_their_bits(on: torch.device, dtype: torch.dtype, bits: int) -> None:
    """NaN, infinities and negative zeros among them, and with moving selected ones."""
    ours = Problem([dtype], on, masters=False, bits=bits)
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 6e-8], device=on, dtype=dtype)
    for w, mask, before in zip(ours.weights, ours.masks, ours.before, strict=True):
        rest = (~mask).nonzero()
        w[~mask] = odd.repeat(-(-len(rest) // 4))[: len(rest)]
        before.copy_(w)
    for step in range(1, 4):
        ours.step(step, lr=0.1)
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    for w, mask, before in zip(ours.weights, ours.masks, ours.before, strict=True):
        same = w.view(integers) == before.view(integers)
        assert same[~mask].all() and (w != before)[mask].double().mean() > 0.9


def test_selecting_everything_is_torch_adamw(on: torch.device) -> None:
    w = torch.randn(40, 30, device=on)
    p = w.clone().requires_grad_()
    optimizer = torch.optim.AdamW([p], **RULE)
    everything = Selection.from_mask(w.abs() < float("inf"))
    m, v = torch.zeros(1200, device=on), torch.zeros(1200, device=on)
    for step in range(1, 11):
        p.grad = torch.randn_like(w)
        optimizer.step()
        sparse_adamw_([w], [everything], [p.grad], [m], [v], step, **RULE)
    assert_close(w, p.detach(), torch.float32, ELEMENTWISE)


def test_weights_of_all_dtypes_in_one_call(on: torch.device) -> None:
    together, dtypes = Problem(DTYPES, on), [torch.float64, torch.float16, torch.bfloat16]
    mixed = Problem(dtypes, on, masters=False, dense=True)
    for problem in (together, mixed):
        expected = [[t.clone() for t in ts] for ts in (problem.weights, problem.m, problem.v)]
        for k in range(len(SHAPES)):
            master = problem.values[k].clone() if problem.masters else problem.values[k].new_empty(0)
            s = [torch.empty(0) if t is None else t for t in problem.selections[k].tensors]
            lists = [[t] for t in (expected[0][k], master, problem.grads(7)[k], expected[1][k], expected[2][k], *s)]
            reference.sparse_adamw_(*lists, [7], 3e-3, 0.9, 0.99, 1e-8, 0.1)
        problem.step(7)
        for got, e in zip((problem.weights, problem.m, problem.v), expected, strict=True):
            for g, t in zip(got, e, strict=True):
                assert_close(g, t, g.dtype, ELEMENTWISE)


def test_steps_and_gradient_dtypes_of_their_own(on: torch.device) -> None:
    """A step number a weight, and gradients in the weight's half precision, compact and dense."""

    def run(steps: list[int], pick: list[int]) -> list[Tensor]:
        torch.manual_seed(1)
        p = Problem([torch.bfloat16], on)
        grads = [g.bfloat16() if k % 2 else g.bfloat16()[p.masks[k]] for k, g in enumerate(p.grads(1))]
        columns = [[c[k] for k in pick] for c in (p.weights, p.selections, grads, p.m, p.v)]
        sparse_adamw_(*columns, [steps[k] for k in pick], values=[p.values[k] for k in pick], **RULE)
        return [p.values[k] for k in pick]

    steps = [1, 50, 3, 2, 9, 1000]
    together = run(steps, list(range(6)))
    for k in range(6):
        assert torch.equal(run(steps, [k])[0], together[k])
    assert not torch.equal(run([2] * 6, [0])[0], together[0])


def test_theta_zero_selects_nothing_and_does_nothing(on: torch.device) -> None:
    w = torch.randn(5, 5, device=on)
    before, nothing = w.clone(), Selection.from_mask(w.abs() < 0.0)
    empty = [torch.zeros(0, device=on) for _ in range(3)]
    sparse_adamw_([w], [nothing], *([e] for e in empty), 1, **RULE)
    sparse_adamw_([], [], [], [], [], 1)
    assert nothing.count == 0 and torch.equal(w, before)


# --- in place ---


def test_versions_strides_and_grad_mode(on: torch.device) -> None:
    base = torch.randn(8, 12, device=on)
    w = base.t().requires_grad_(False)[::2]  # (6, 8), neither contiguous nor all of its storage
    copy, mask = w.clone(), torch.rand(6, 8, device=on) < 0.5
    s, rest = Selection.from_mask(mask), base.t()[1::2].clone()
    g = torch.randn(6, 8, device=on)
    for target in (w, copy):
        m, v = torch.zeros(s.count, device=on), torch.zeros(s.count, device=on)
        version = target._version
        sparse_adamw_([target], [s], [g], [m], [v], 1)
        assert target._version > version and m._version > 0 and v._version > 0
    assert torch.equal(w, copy) and torch.equal(base.t()[1::2], rest)

    p = torch.nn.Parameter(copy)
    saved = (p * p).sum()
    with pytest.raises(NotImplementedError, match="in place"):
        sparse_adamw_([p], [s], [g], [m], [v], 1)
    with torch.no_grad():
        sparse_adamw_([p], [s], [g], [m], [v], 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()


@pytest.mark.parametrize("bits", [32, 8])
def test_threads_do_not_change_a_bit(bits: int) -> None:
    before, results = torch.get_num_threads(), []
    w = torch.randn(700, 1000)
    selections = [Selection.from_mask(w.abs() < theta) for theta in (0.2, 0.02)]
    g = torch.randn_like(w)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            weights = [w.clone() for _ in selections]
            kept = torch.uint8 if bits == 8 else torch.float32
            state = [[torch.zeros(s.count, dtype=kept) for s in selections] for _ in range(2)]
            scales = [[torch.zeros(-(-s.count // 256)) for s in selections] for _ in range(2)]
            named = dict(zip(("m_scale", "v_scale"), scales, strict=True)) if bits == 8 else {}
            for step in (1, 2):
                sparse_adamw_(weights, selections, [g, g], *state, step, **named)
            results.append([*weights, *state[0], *state[1], *scales[0], *scales[1]])
    finally:
        torch.set_num_threads(before)
    assert selections[0].words is not None and selections[1].index is not None
    assert selections[0].count > 3 * 16384  # several chunks
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


# --- errors ---

W = torch.ones(4, 5)
S = Selection.from_mask(torch.arange(20).reshape(4, 5) < 7)
C = torch.zeros(7)
GOOD = {"weights": [W], "selections": [S], "grads": [C], "m": [C], "v": [C], "steps": 1}
U = C.to(torch.uint8)
GOOD8 = {"m": [U], "v": [U], "m_scale": [C[:1]], "v_scale": [C[:1]]}
BAD = [
    ({"weights": [W.int()]}, TypeError, "argument 'weights\\[0\\]': expected dtype float32"),
    ({"weights": [[1.0]]}, TypeError, "argument 'weights\\[0\\]': expected a floating-point tensor, got list"),
    ({"weights": [W, W]}, ValueError, "argument 'selections': expected 2 items, one a weight, got 1"),
    ({k: v * 2 for k, v in GOOD.items() if k != "steps"}, ValueError, "every tensor to change once"),
    ({"selections": [C]}, TypeError, "argument 'selections\\[0\\]': expected a Selection"),
    ({"weights": [W.t()]}, ValueError, "expected a selection of shape \\(5, 4\\), got one of shape \\(4, 5\\)"),
    ({"grads": [C.double()]}, TypeError, "argument 'grads\\[0\\]'"),
    ({"grads": [C[:6]]}, ValueError, "argument 'grads\\[0\\]': expected shape \\(7,\\).*weight's own shape"),
    ({"grads": [W.t()]}, ValueError, "argument 'grads\\[0\\]'"),
    ({"grads": []}, ValueError, "argument 'grads': expected 1 items"),
    ({"m": [C.half()]}, TypeError, "argument 'm\\[0\\]'"),
    ({"m": [U]}, TypeError, "argument 'm\\[0\\]'"),
    ({"v": [C[:3]]}, ValueError, "argument 'v\\[0\\]': expected shape \\(7,\\)"),
    ({"v": [C.to("meta")]}, ValueError, "argument 'v\\[0\\]': expected the device of 'weights\\[0\\]'"),
    ({"values": [C.half()]}, TypeError, "argument 'values\\[0\\]'"),
    ({"values": [C[:1]]}, ValueError, "argument 'values\\[0\\]'"),
    ({"values": []}, ValueError, "argument 'values'"),
    ({**GOOD8, "m": [C]}, TypeError, "argument 'm\\[0\\]': expected a tensor of torch.uint8"),
    ({**GOOD8, "v_scale": [C]}, ValueError, "argument 'v_scale\\[0\\]': expected shape \\(1,\\) \\(blocks of 256"),
    ({**GOOD8, "v_scale": None}, ValueError, "argument 'v_scale': expected 1 items"),
    ({"steps": 0}, ValueError, "argument 'steps\\[0\\]': expected a positive int"),
    ({"steps": [1, 2]}, ValueError, "argument 'steps': expected 1 items"),
    ({"lr": -1.0}, ValueError, "argument 'lr': expected a number >= 0"),
    ({"lr": float("nan")}, ValueError, "argument 'lr'"),
    ({"weight_decay": "0"}, TypeError, "argument 'weight_decay'"),
    ({"betas": (0.9, 1.0)}, ValueError, "argument 'betas\\[1\\]'"),
    ({"eps": 0.0}, ValueError, "argument 'eps'"),
    ({"eps": math.inf}, ValueError, "argument 'eps'"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        sparse_adamw_(**{**GOOD, **change})


def test_launchers_refuse_what_has_no_address() -> None:
    assert native.module is not None
    meta, lists = torch.ones(2, device="meta"), [[] for _ in range(3)]
    tail = ([2], [2], [1], None, None, 1e-3, 0.9, 0.99, 1e-8, 0.0, 1)
    with pytest.raises(ValueError, match="null data pointer"):
        native.module.sparse_adamw_cpu([0], [meta], [], [0], [0], [C], [C], [C], [], [], [C.int()], *lists[:2], *tail)
    with pytest.raises(ValueError, match="unknown dtype code 9"):
        native.module.sparse_adamw_cpu([9], [W], [], [0], [0], [C], [C], [C], [], [], [C.int()], *lists[:2], *tail)


def test_ops_are_exported() -> None:
    assert {STEP.name, STEP8.name} == {"sparse_adamw_", "sparse_adamw8_"}
    assert pk.ops.sparse_adamw_ is sparse_adamw_


@pytest.mark.parametrize(("first", "second"), [("m", "v"), ("weights", "m"), ("m", "m"), ("values", "v")])
def test_a_tensor_to_change_is_listed_once(first: str, second: str) -> None:
    one = torch.zeros(6)
    lists = {name: [torch.ones(6), torch.ones(6)] for name in ("weights", "values", "grads", "m", "v")}
    lists[first][0] = lists[second][1] = one
    selections = [Selection.from_mask(torch.ones(6, dtype=torch.bool))] * 2
    with pytest.raises(ValueError, match="expected every tensor to change once"):
        sparse_adamw_(selections=selections, steps=1, **lists)


def test_views_to_change_share_no_memory() -> None:
    buffer, chosen = torch.zeros(16), [Selection.from_mask(torch.ones(6, dtype=torch.bool))]
    rest = {"selections": chosen, "grads": [torch.ones(6)], "steps": 1}
    for m, v in ((buffer[:6], buffer[5:11]), (buffer[:12:2], buffer[1:7]), (buffer[:6], buffer[:6].view(2, 3).view(6))):
        with pytest.raises(ValueError, match="shares memory"):
            sparse_adamw_([torch.ones(6)], m=[m], v=[v], **rest)
    with pytest.raises(ValueError, match=r"argument 'values'.*shares memory"):
        sparse_adamw_([buffer[:6]], m=[torch.zeros(6)], v=[torch.zeros(6)], values=[buffer[:6]], **rest)
    parts = [(buffer[:6], buffer[6:12]), (buffer[:12:2], buffer[1:13:2]), (torch.zeros(6), torch.zeros(6))]
    for m, v in parts:  # side by side and interlaced
        w = torch.ones(6)
        sparse_adamw_([w], m=[m.zero_()], v=[v.zero_()], **rest)
        torch.testing.assert_close(w, torch.full((6,), 1 - 1e-5 - 1e-3))


@pytest.mark.parametrize("rule", [{"steps": 1.5}, {"steps": torch.tensor(1)}, {"steps": 1, "betas": 0.9}])
def test_numbers_of_the_wrong_kind_are_named(rule: dict[str, Any]) -> None:
    one, chosen = [torch.ones(2)], [Selection.from_mask(torch.ones(2, dtype=torch.bool))]
    with pytest.raises(TypeError, match=f"sparse_adamw_: argument '{list(rule)[-1]}"):
        sparse_adamw_(one, chosen, [torch.ones(2)], [torch.zeros(2)], [torch.zeros(2)], **rule)
