"""Attention over a set equals attention with the dense mask, in value and gradient; what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels._core import attention
from probkernels.amortized import ContextCache, set_attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

N, M = 6, 5
COUNTS = torch.tensor([6, 0, 3])
POSITIONS = torch.tensor([[0, 6, 2, 6, 1], [0, 0, 0, 0, 0], [3, 0, 1, 2, 3]])
CASES = {
    "full": {},
    "padded": {"counts": COUNTS},
    "causal": {"context": "causal"},
    "pointers": {"context": "causal", "positions": POSITIONS[0]},
    "padded pointers": {"context": "causal", "counts": COUNTS, "positions": POSITIONS},
    "scaled": {"scale": 0.7},
    "turned": {"context": "causal", "scale": -0.7},
    "even": {"context": "causal", "counts": COUNTS, "scale": 0.0},
}


def inputs(dtype: torch.dtype = torch.float64, n: int = N, m: int = M, d: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves query, key and value (3, 2, n + m, d)."""
    draw = torch.Generator().manual_seed(n + m)
    q, k, v = torch.randn(3, 3, 2, n + m, d, generator=draw, dtype=torch.float64).to(dtype).unbind(0)
    return q.clone().requires_grad_(), k.clone().requires_grad_(), v.clone().requires_grad_()


def dense(q: Tensor, k: Tensor, v: Tensor, n: int, **case: Any) -> Tensor:
    """Attention with the mask of all pairs; outputs of padding are 0."""
    rows, total = len(q), q.shape[2]
    mask = torch.eye(total, dtype=torch.bool).repeat(rows, 1, 1)
    counts = case.get("counts", torch.full((rows,), n))
    positions = case.get("positions", counts[:, None].expand(rows, total - n)).expand(rows, total - n)
    for b in range(rows):
        for i in range(total):
            reach = counts[b] if i < n else positions[b, i - n]
            if i < n and case.get("context") == "causal":
                reach = min(counts[b], torch.tensor(i + 1))
            mask[b, i, :reach] = True
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], scale=case.get("scale"))
    there = torch.cat([torch.arange(n) < counts[:, None], torch.ones(rows, total - n, dtype=torch.bool)], 1)
    return torch.where(there[:, None, :, None], out, 0)


def value_and_gradients(out: Tensor, leaves: tuple[Tensor, ...]) -> list[Tensor]:
    """The output, and its gradients for random weights."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad(out, leaves, weights)]


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 6e-2)])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_mask(case: str, dtype: torch.dtype, bound: float) -> None:
    found, leaves = inputs(dtype), inputs()
    for x, y in zip(leaves, found, strict=True):
        x.data.copy_(y.data)
    truth = value_and_gradients(dense(*leaves, N, **CASES[case]), leaves)
    for got, want in zip(value_and_gradients(set_attention(*found, N, **CASES[case]), found), truth, strict=True):
        assert got.dtype is dtype
        assert (got.double() - want).abs().max() <= bound


@pytest.mark.parametrize("case", CASES)
def test_the_plain_path_equals_the_dense_mask(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = inputs()
    truth = value_and_gradients(dense(*leaves, N, **CASES[case]), leaves)
    monkeypatch.setattr(attention, "_FLASH", None)
    found = value_and_gradients(set_attention(*leaves, N, **CASES[case]), leaves)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (1, 1), (40, 70)])
def test_sizes(n: int, m: int) -> None:
    leaves = inputs(n=n, m=m)
    truth = value_and_gradients(dense(*leaves, n), leaves)
    torch.testing.assert_close(value_and_gradients(set_attention(*leaves, n), leaves), truth, rtol=0, atol=1e-10)


def test_strides_do_not_matter() -> None:
    """The kernel reads rows as adjacent numbers, also of gradients."""
    leaves = inputs()
    turned = [x.mT.contiguous().mT for x in leaves]
    found = torch.autograd.grad(set_attention(*turned, N).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(dense(*leaves, N).sum(), leaves), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["full", "padded pointers"])
def test_first_and_second_derivatives(case: str) -> None:
    leaves = tuple(x[:, :1, :, :2].detach().requires_grad_() for x in inputs())
    assert torch.autograd.gradcheck(lambda *x: set_attention(*x, N, **CASES[case]), leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *x: set_attention(*x, N, **CASES[case]), leaves, fast_mode=True)


def test_one_tensor_as_query_key_and_value() -> None:
    x = inputs()[0]
    first = torch.autograd.grad(set_attention(x, x, x, N).square().sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(dense(x, x, x, N).square().sum(), x)[0]
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)


def test_transforms_of_functions() -> None:
    q, k, v = (x.detach() for x in inputs())
    want = torch.func.grad(lambda q: dense(q, k, v, N).square().sum())(q)
    got = torch.func.grad(lambda q: set_attention(q, k, v, N).square().sum())(q)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    each = torch.func.vmap(lambda q, k, v: set_attention(q[None], k[None], v[None], N)[0])(q, k, v)
    torch.testing.assert_close(each, dense(q, k, v, N), rtol=0, atol=1e-10)
    counted = torch.func.vmap(lambda q, n: set_attention(q[None], q[None], q[None], N, counts=n[None])[0])(q, COUNTS)
    torch.testing.assert_close(counted, dense(q, q, q, N, counts=COUNTS), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_narrow_integers(dtype: torch.dtype) -> None:
    """200 and 256 do not fit into them."""
    x = torch.randn(1, 1, 257, 4, generator=torch.Generator().manual_seed(0))
    for n in (200, 256):
        counts = torch.tensor([100])
        where = torch.full((257 - n,), 90)
        causal = {"context": "causal", "counts": counts, "positions": where}
        narrow = {"context": "causal", "counts": counts.to(dtype), "positions": where.to(dtype)}
        assert torch.equal(set_attention(x, x, x, n, **narrow), set_attention(x, x, x, n, **causal))


def test_no_queries_with_pointers() -> None:
    leaves = inputs(m=0)
    found = set_attention(*leaves, N, context="causal", positions=POSITIONS[:, :0])
    assert torch.equal(found, set_attention(*leaves, N, context="causal", positions=POSITIONS[0, :0]))


def test_padding_may_hold_anything() -> None:
    """NaN in padding reaches neither outputs nor gradients."""
    leaves = inputs()
    clean = value_and_gradients(set_attention(*leaves, N, counts=COUNTS), leaves)
    for x in leaves:
        x.data[1, :, :N] = float("nan")
        x.data[2, :, 3:N] = float("inf")
    found = value_and_gradients(set_attention(*leaves, N, counts=COUNTS), leaves)
    torch.testing.assert_close(found, clean, rtol=0, atol=0)


def test_cache_equals_one_pass() -> None:
    leaves = inputs()
    truth = value_and_gradients(set_attention(*leaves, N, counts=COUNTS)[:, :, N:], leaves)
    q, k, v = leaves
    cache = ContextCache((k[:, :, :N],), (v[:, :, :N],), COUNTS)
    found = value_and_gradients(cache.attend(0, q[:, :, N:], k[:, :, N:], v[:, :, N:]), leaves)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    assert not cache.to("cpu").detach().keys[0].requires_grad


def test_compiled_without_graph_breaks() -> None:
    leaves = inputs(torch.float32)
    compiled = torch.compile(set_attention, backend="aot_eager", fullgraph=True)
    found = value_and_gradients(compiled(*leaves, N, counts=COUNTS), leaves)
    torch.testing.assert_close(found, value_and_gradients(set_attention(*leaves, N, counts=COUNTS), leaves))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"n_context": 12}, ValueError, "'n_context': expected 0 to 11, the number of tokens, got 12"),
    ({"n_context": torch.tensor([1, 2])}, TypeError, "'n_context'"),
    ({"context": "casual"}, ValueError, "did you mean 'causal'"),
    ({"counts": torch.tensor([6, 7, 0])}, ValueError, r"'counts': expected 0 to 6, got 7 at \[1\]"),
    ({"counts": torch.tensor([6, 7])}, ValueError, r"'counts': expected shape \(3,\)"),
    ({"counts": torch.ones(3)}, TypeError, "'counts': expected an integer tensor"),
    ({"positions": POSITIONS[0]}, ValueError, "'positions': expected None with context='full'"),
    ({"positions": POSITIONS, "context": "causal", "counts": COUNTS - COUNTS}, ValueError, r"got 6 at \[0, 1\]"),
    ({"positions": POSITIONS[0, :2], "context": "causal"}, ValueError, r"'positions': expected shape \(5,\) or"),
    ({"key": torch.zeros(3, 2, 10, 4)}, ValueError, r"'key': expected shape \(3, 2, 11, 4\)"),
    ({"value": torch.zeros(3, 2, 11, 4)}, TypeError, "'value': expected dtype torch.float64"),
    ({"query": torch.zeros(3, 11, 4)}, ValueError, r"'query': expected shape \(B, H, T, d\)"),
    ({"query": [1.0]}, TypeError, "'query': expected a floating-point tensor"),
    ({"scale": "big"}, TypeError, "'scale': expected a number"),
]


@pytest.mark.parametrize("bad, error, text", BAD)
def test_bad_input(bad: dict[str, Any], error: type[Exception], text: str) -> None:
    q, k, v = inputs()
    with pytest.raises(error, match=text):
        set_attention(**{"query": q, "key": k, "value": v, "n_context": N, **bad})
