"""Gradients by running backwards: asynchronous leapfrog in fixed point, where every step can be undone to the bit.

The state is y = x / alpha and p, an average of eps, in int64 with 36 fractional bits. A step adds rounded multiples of
p to y and replaces p by 2 damping eps - keep p. Both can be undone without error, so the backward pass needs only the
end of the run, whatever the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..._core.errors import message
from ._sums import Gradients
from .exact import Plan

if TYPE_CHECKING:
    from ..run import Run

ONE = 2.0**36  # what stands for 1
LARGEST = 2.0**60  # of increments and states, so that no sum overflows
SHIFT = 10  # damping is a multiple of 2^-11


class State(NamedTuple):
    """A state of the run: (B, *S) int64 each. ``rest`` holds the bits of p that damping would lose; None without."""

    y: Tensor
    p: Tensor
    rest: Tensor | None


class Leapfrog:
    """The integer map of N steps from x_T, and its inverse.

    Args:
        plan: gives the net. Its scheme is ALF's, whose row 0 evaluates eps at x_T and row n + 1 step n.
        damping: in (1/2, 1], rounded to a multiple of 2^-11; 1 for none.
    """

    def __init__(self, plan: Plan, damping: float) -> None:
        self.plan, scheme, process = plan, plan.scheme, plan.made.model.process
        times = scheme.times[1:].detach()
        self.h = process.rho(times).diff().tolist()
        self.middle = process.alpha(scheme.t[1:, 0].detach()).tolist()
        self.first, self.last = float(process.alpha(times[0])), float(process.alpha(times[-1]))
        self.keep = round((2 * damping - 1) * 2**SHIFT)
        self.damping = (1 + self.keep / 2**SHIFT) / 2
        self.fits: list[Tensor] = []  # whether numbers were finite and within range, one a conversion
        self.check_room()

    def check_room(self) -> None:
        """``rest`` grows by log2(1 / keep) bits a step, and has 63."""
        share = self.keep / 2**SHIFT
        if share < 1 and len(self.h) * math.log2(1 / share) + math.log2(1 / (1 - share)) + 2 * SHIFT > 62:
            expected = f"so little that {len(self.h)} steps fit into 63 bits"
            raise ValueError(message("sample", "damping", expected, repr(self.damping), "use fewer steps, or less"))

    def rounded(self, value: Tensor) -> Tensor:
        """float64 (B, *S) as int64."""
        self.fits.append((value.abs() < LARGEST).all())
        return value.round().long()

    def start(self) -> Tensor:
        """y of x_T."""
        return self.rounded(self.plan.made.x.detach().double() * (ONE / self.first))

    def moved(self, y: Tensor, p: Tensor, h: float) -> Tensor:
        y = y + self.rounded(p.double() * (h / 2))
        self.fits.append((y.double().abs() < LARGEST).all())
        return y

    def input(self, y: Tensor, alpha: float) -> Tensor:
        """x (B, *S) of the net, in the dtype of x_T."""
        return (y.double() * (alpha / ONE)).to(self.plan.made.x.dtype)

    def kicked(self, p: Tensor, rest: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor | None]:
        """p after the evaluation e."""
        if rest is not None:
            rest = (rest << SHIFT) + (p & (2**SHIFT - 1))
            p = (p >> SHIFT) * self.keep + rest % self.keep
            rest = torch.div(rest, self.keep, rounding_mode="floor")
        return self.rounded(e.double() * (2 * self.damping * ONE)) - p, rest

    def unkicked(self, p: Tensor, rest: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inverse of :meth:`kicked`."""
        p = self.rounded(e.double() * (2 * self.damping * ONE)) - p
        if rest is not None:
            rest = rest * self.keep + p % self.keep
            p = (torch.div(p, self.keep, rounding_mode="floor") << SHIFT) + (rest & (2**SHIFT - 1))
            rest = rest >> SHIFT
        return p, rest

    def forward(self) -> State:
        """Runs forward and returns the end of the run."""
        y = self.start()
        p = self.rounded(self.plan.evaluate((0, 0), self.input(y, self.first))[0].double() * ONE)
        rest = None if self.keep == 2**SHIFT else torch.zeros_like(p)
        for n, (h, alpha) in enumerate(zip(self.h, self.middle, strict=True)):
            y = self.moved(y, p, h)
            p, rest = self.kicked(p, rest, self.plan.evaluate((n + 1, 0), self.input(y, alpha))[0])
            y = self.moved(y, p, h)
            self.plan.after(n, self.input(y, self.last))
        self.refuse_overflow()
        self.plan.finish()
        return State(y, p, rest)

    def refuse_overflow(self) -> None:
        """Raises if a number overflowed or was not finite. Looks once, at the end."""
        if not torch.stack(self.fits).all():
            largest = LARGEST / ONE
            raise FloatingPointError(f"sample: the net gave NaN or infinity, or x / alpha exceeded {largest:.3g}")
        self.fits.clear()

    def backward(self, grad: Tensor, state: State) -> Gradients:
        """Undoes the run and pulls the gradient of the sample (B, *S) back along it."""
        with self.plan.replaying():
            return self.sweep(grad, state)

    def sweep(self, grad: Tensor, state: State) -> Gradients:
        """:meth:`backward` from step to step."""
        found, (y, p, rest) = self.plan.gradients(), state
        to_y, to_p = grad * self.last, torch.zeros_like(grad)
        for n in reversed(range(len(self.h))):
            h, alpha = self.h[n], self.middle[n]
            to_p = to_p + (h / 2) * to_y
            y = self.moved(y, p, -h)
            along, e = self.pull((n + 1, 0), self.input(y, alpha), 2 * self.damping * to_p, found)
            p, rest = self.unkicked(p, rest, e)
            to_y = to_y if along is None else to_y + alpha * along
            to_p = (h / 2) * to_y - (2 * self.damping - 1) * to_p
            y = self.moved(y, p, -h)
        along, e = self.pull((0, 0), self.input(y, self.first), to_p, found)
        self.refuse_other_start(y, p, e)
        found.x = (to_y if along is None else to_y + self.first * along) / self.first
        return found

    def pull(self, place: tuple[int, int], u: Tensor, along: Tensor, found: Gradients) -> tuple[Tensor | None, Tensor]:
        """The cotangent of u (B, *S), and eps there, for the cotangent ``along`` of eps."""
        own, e = self.plan.pull(place, u, along[None], found)
        return own, e[0]

    def refuse_other_start(self, y: Tensor, p: Tensor, e: Tensor) -> None:
        """Raises unless the run came back to its start to the bit: otherwise the net's function has changed."""
        if not (torch.equal(y, self.start()) and torch.equal(p, self.rounded(e.double() * ONE))):
            hint = "Hint: the net must give the same bits again, with a graph or without; use grad='exact'"
            raise RuntimeError(f"sample: running backwards did not end at x_T{self.plan.suspects()}. {hint}")


class Reversible(torch.autograd.Function):
    """The sample as a function of :meth:`Plan.inputs`."""

    @staticmethod
    def forward(ctx: Any, leapfrog: Leapfrog, *tensors: Tensor) -> Tensor:
        """Runs the sampler."""
        plan = leapfrog.plan
        state = leapfrog.forward()
        ctx.leapfrog, ctx.others = leapfrog, len(plan.parameters) + len(plan.leaves) + 1
        rest = [] if state.rest is None else [state.rest]
        ctx.save_for_backward(*plan.parameters, *plan.leaves, plan.made.x, state.y, state.p, *rest)
        return leapfrog.input(state.y, leapfrog.last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Runs backwards."""
        if torch.is_grad_enabled():
            hint = "Hint: use grad='autograd' for second derivatives"
            raise NotImplementedError(f"sample: grad='reversible' has no second derivative (create_graph=True). {hint}")
        ctx.leapfrog.plan.refuse_changes()
        y, p, *rest = ctx.saved_tensors[ctx.others :]
        state = State(y, p, rest[0] if rest else None)
        return (None, *ctx.leapfrog.backward(grads[0], state).in_order())


def run(made: Run, after: Callable[[int, Tensor], None], solver: object, damping: float) -> Tensor:
    """The sample (B, *S) of a run of ALF in fixed point."""
    if solver != "alf":
        hint = "other solvers cannot be undone to the bit; use grad='exact'"
        raise ValueError(message("sample", "solver", "'alf', as grad is 'reversible'", repr(solver), hint))
    if not 0.5 + 2.0 ** -(SHIFT + 1) <= damping <= 1:
        raise ValueError(message("sample", "damping", "a number in (1/2, 1], as grad is 'reversible'", repr(damping)))
    plan = Plan(made, after, 0, None)
    if plan.learns:
        expected = "times without a gradient, and such a process, as grad is 'reversible'"
        raise ValueError(message("sample", "times", expected, "one that requires a gradient", "use grad='exact'"))
    return Reversible.apply(Leapfrog(plan, damping), *plan.inputs())
