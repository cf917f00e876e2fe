"""Log-densities of bars fused with a linear layer: equal to the unfused ones, in little memory."""

from __future__ import annotations

import math
import weakref

import probkernels as pk
import pytest
import torch
from probkernels.amortized import bar_log_prob_linear
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode


def problem(rows: int, features: int, bars: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    sizes = (rows, features), (bars, features), (bars,), (rows,)
    inputs = [torch.randn(size, dtype=dtype) for size in sizes]
    return [*(t.requires_grad_() for t in inputs), torch.linspace(-1, 1, bars + 1, dtype=dtype).requires_grad_()]


@pytest.mark.parametrize("chunk_bytes", [1, 200, 1 << 20])
def test_values_and_gradients_equal_the_unfused(chunk_bytes: int) -> None:
    hidden, weight, bias, y, borders = inputs = problem(7, 3, 11)
    found = bar_log_prob_linear(*inputs, chunk_bytes=chunk_bytes)
    truth = pk.ops.bar_log_prob(linear(hidden, weight, bias), y, borders)
    torch.testing.assert_close(found, truth, rtol=1e-13, atol=1e-13)
    grad = torch.randn_like(y)
    got, expected = (torch.autograd.grad(t, inputs, grad, create_graph=True) for t in (found, truth))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    second = [torch.autograd.grad(sum(g.square().sum() for g in gs), inputs) for gs in (got, expected)]
    torch.testing.assert_close(*second, rtol=1e-11, atol=1e-11)


def test_shapes_without_bias_or_rows() -> None:
    _, weight, _, _, borders = problem(1, 3, 11)
    hidden, y = torch.randn(2, 5, 3, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    found = bar_log_prob_linear(hidden, weight, None, y, borders, "bounded")
    torch.testing.assert_close(found, pk.ops.bar_log_prob(linear(hidden, weight), y, borders, "bounded"))
    assert bar_log_prob_linear(hidden[:0], weight, None, y[:0], borders).shape == (0, 5)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make and that live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def _drop(self, key: int, size: int) -> None:
        self.live -= size
        self.known.discard(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return found


def test_memory_is_that_of_chunks() -> None:
    """Logits and their gradient would be 2 x 4 MB; without chunks the same count finds them."""
    inputs = problem(1000, 8, 1000, torch.float32)
    hidden, weight, bias, y, borders = (t.detach() for t in inputs)
    hidden.requires_grad_()
    weight.requires_grad_()

    def peak(chunk_bytes: int) -> int:
        with LiveBytes() as count:
            bar_log_prob_linear(hidden, weight, bias, y, borders, chunk_bytes=chunk_bytes).sum().backward()
        return count.peak

    few = 100_000
    assert peak(few) < 4 * few + 300_000  # and some tensors of N, N D and K D numbers
    assert peak(1 << 30) > 7_000_000


def test_wrong_values() -> None:
    hidden, weight, bias, y, borders = (t.detach() for t in problem(4, 3, 5))
    for args, text in [
        ((hidden, weight[:, :2], bias, y, borders), r"'weight': expected shape \(5, 3\)"),
        ((hidden, weight, bias[:4], y, borders), r"'bias': expected shape \(5,\)"),
        ((hidden, weight, bias, y[:3], borders), r"'y': expected shape \(4,\)"),
        ((hidden, weight, bias, y, borders[:5]), r"'borders': expected shape \(6,\).*of 'weight'"),
        ((hidden, weight, bias, y * math.nan, borders), r"'y': expected numbers, got nan at \[0\]"),
        ((hidden, weight, bias, y + 9, borders, "bounded"), r"'y': .*bounded support \[-1, 1\]"),
    ]:
        with pytest.raises(ValueError, match=text):
            bar_log_prob_linear(*args)
