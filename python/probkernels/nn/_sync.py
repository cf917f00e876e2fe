"""PowerNorm's statistics over a process group, by all-reduces that the next forward waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._core.registry import assert_later, uncompiled

TAGS = 61  # small, so that sums of squares over thousands of ranks are exact in float32


class _Call:
    """A synchronized forward whose backward is awaited."""

    def __init__(self, number: int, rows: Tensor | float) -> None:
        self.number, self.rows = number, rows
        self.grad: Tensor | None = None


class _Route(torch.autograd.Function):
    """The probe for one forward: tells the gradient that comes from this forward from those of others."""

    @staticmethod
    def forward(ctx: Any, probe: Tensor, arrived: list[_Call], call: _Call) -> Tensor:
        ctx.arrived, ctx.call = arrived, call
        return probe.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        call = ctx.call
        if call.grad is None:
            ctx.arrived.append(call)
        call.grad = grad.detach() if call.grad is None else call.grad + grad.detach()
        return grad, None, None


class _Pending:
    """An all-reduce under way of [rows * mean (C), rows, tag, tag^2, 1]; all ranks must mean the same by it."""

    def __init__(self, work: Any, buffer: Tensor, apply: Callable[[Tensor], None] | None) -> None:
        self.work, self.buffer, self.apply = work, buffer, apply

    def wait(self) -> Tensor:
        """The mean (C) over all ranks' rows; NaN when there are none."""
        self.work.wait()
        rows, tags, squares, ranks = self.buffer[-4:]
        assert_later(  # no host waits for a GPU
            tags * tags == squares * ranks,
            "PowerNorm(sync=...): the ranks reduce different things. Hint: each must call the module equally often, and"
            " run the backward passes of its calls in the same order",
        )
        return self.buffer[:-4] / rows


class Reductions:
    """What one module reduces over ``group``, in the same order on every rank.

    A forward reduces its batch's mean square, its backward the gradient of nu. A forward that finds an earlier one
    still without a backward reduces zero rows for it: so a rank may skip a backward that others run.
    """

    def __init__(self, group: dist.ProcessGroup | bool) -> None:
        self.group = None if group is True else group
        self.number = 0  # of forwards
        self.pending: list[_Pending] = []
        self.open: list[_Call] = []  # forwards without a reduction of nu's gradient
        self.arrived: list[_Call] = []  # forwards whose gradient has come

    @uncompiled
    def _start(
        self, mean: Tensor, rows: Tensor | float, tag: int, apply: Callable[[Tensor], None] | None = None
    ) -> _Pending:
        tag %= TAGS
        count, *rest = (
            n.to(mean.dtype).reshape(1) if isinstance(n, Tensor) else mean.new_full((1,), n)
            for n in (rows, tag, tag * tag, 1)
        )
        buffer = torch.cat([torch.where(count > 0, mean * count, 0), count, *rest])
        return _Pending(dist.all_reduce(buffer, group=self.group, async_op=True), buffer, apply)

    @uncompiled
    def mean_square(self, mean_sq: Tensor, rows: Tensor | float, apply: Callable[[Tensor], None]) -> None:
        """Starts to average a forward's statistic; ``apply`` takes the result when it is settled."""
        self.number += 1
        self.pending.append(self._start(mean_sq, rows, 2 * self.number, apply))

    @uncompiled
    def mean_square_now(self, mean_sq: Tensor, rows: Tensor | float) -> Tensor:
        """Averages a forward's statistic and waits for it."""
        self.number += 1
        return self._start(mean_sq, rows, 2 * self.number).wait()

    @uncompiled
    def probe(self, probe: Tensor, rows: Tensor | float) -> Tensor:
        """The probe for a forward of so many rows, whose backward is now awaited."""
        call = _Call(self.number, rows)
        self.open.append(call)
        return _Route.apply(probe, self.arrived, call)

    def nu_arrived(self, apply: Callable[[Tensor], None]) -> None:
        """Starts to average the gradients that a backward has brought, forward by forward."""
        calls = sorted(self.arrived, key=lambda call: call.number)
        self.arrived.clear()
        for call in calls:
            assert call.grad is not None
            self.pending.append(self._start(call.grad, call.rows, 2 * call.number + 1, apply))
            call.grad = None
        self.open = [call for call in self.open if call not in calls]

    @uncompiled
    def close(self, like: Tensor, apply: Callable[[Tensor], None]) -> None:
        """Takes part in the reductions of forwards that have had no backward here."""
        for call in self.open:
            self.pending.append(self._start(torch.zeros_like(like), 0.0, 2 * call.number + 1, apply))
        self.open = []

    @uncompiled
    def settle(self) -> None:
        """Applies what all-reduces have brought, in order."""
        pending, self.pending = self.pending, []
        with torch.no_grad():
            for item in pending:
                mean = item.wait()
                assert item.apply is not None
                item.apply(mean)
