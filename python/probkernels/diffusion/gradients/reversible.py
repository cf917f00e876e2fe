"""Gradients by running backwards: asynchronous leapfrog in fixed point, where every step can be undone to the bit.

The state is y = x / alpha and p, an average of eps, in int64 with 36 fractional bits. A step (:func:`leapfrog_step_`)
adds rounded multiples of p to y and replaces p by 2 damping eps - keep p. Both can be undone without error, so the
backward pass needs only the end of the run, whatever the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..._core.errors import message
from ...ops.leapfrog_step import ONE, adjoint
from ...ops.leapfrog_step import step as leapfrog
from ...reference.leapfrog_step import LARGEST, SHIFT
from ._sums import Gradients
from .exact import Plan

if TYPE_CHECKING:
    from ..run import Run

Evaluate = Callable[[int, Tensor], Tensor]  # step, x (B, *S) in its middle -> the noise that the net predicts


class State(NamedTuple):
    """A state of the run: (B, *S) int64 each, changed in place. ``rest`` holds what damping would lose of p."""

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
        self.bad = torch.zeros(1, dtype=torch.int32, device=plan.made.x.device)  # 1 once a number did not fit
        self.check_room()

    def check_room(self) -> None:
        """``rest`` grows by log2(1 / keep) bits a step, and has 63."""
        share = self.keep / 2**SHIFT
        if share < 1 and len(self.h) * math.log2(1 / share) + math.log2(1 / (1 - share)) + 2 * SHIFT > 62:
            expected = f"so little that {len(self.h)} steps fit into 63 bits"
            raise ValueError(message("sample", "damping", expected, repr(self.damping), "use fewer steps, or less"))

    def rounded(self, value: Tensor) -> Tensor:
        """float64 (B, *S) as int64."""
        self.bad |= ~(value.abs() < LARGEST).all()
        return value.round().long()

    def start(self) -> Tensor:
        """y of x_T."""
        return self.rounded(self.plan.made.x.detach().double() * (ONE / self.first))

    def input(self, y: Tensor, alpha: float) -> Tensor:
        """x (B, *S) of the net, in the dtype of x_T."""
        return (y.double() * (alpha / ONE)).to(self.plan.made.x.dtype)

    def half(self, n: int) -> float:
        """Half of step n; 0 beyond the ends."""
        return self.h[n] / 2 if 0 <= n < len(self.h) else 0.0

    def alpha(self, n: int) -> float:
        """alpha in the middle of step n; beyond the ends, at them."""
        return self.first if n < 0 else self.middle[n] if n < len(self.h) else self.last

    def step(
        self, state: State, e: Tensor | None, first: float, second: float, alpha: float, *,
        undo: bool = False, seen: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Changes the state in place by :func:`leapfrog_step_`. Returns x (B, *S) of the net."""
        x = torch.empty_like(state.y, dtype=self.plan.made.x.dtype)
        factors = (2 * self.damping * ONE, first, second, alpha / ONE, self.last / ONE, self.keep, undo)
        leapfrog(x, *state, None if e is None else e.to(x.dtype), seen, self.bad, *factors)
        return x

    def forth(self, state: State, evaluate: Evaluate, after: Callable[[int, Tensor], object] | None = None) -> Tensor:
        """Takes all steps, in place; ``after(n, x)`` follows each. Returns x (B, *S) at the end."""
        x = self.step(state, None, 0.0, self.half(0), self.alpha(0))
        for n in range(len(self.h)):
            seen = None if after is None else torch.empty_like(x)
            x = self.step(state, evaluate(n, x), self.half(n), self.half(n + 1), self.alpha(n + 1), seen=seen)
            if after is not None and seen is not None:
                after(n, seen)
        self.refuse_overflow()
        return x

    def back(self, state: State, evaluate: Evaluate) -> Tensor:
        """Undoes all steps, in place. Returns x (B, *S) at the start."""
        last = len(self.h) - 1
        x = self.step(state, None, 0.0, -self.half(last), self.alpha(last))
        for n in reversed(range(len(self.h))):
            e = evaluate(n, x)
            x = self.step(state, e, -self.half(n), -self.half(n - 1), self.alpha(n - 1), undo=True)
        return x

    def forward(self) -> tuple[State, Tensor]:
        """Runs forward. Returns the end of the run, and x (B, *S) there."""
        y, plan = self.start(), self.plan
        p = self.rounded(plan.evaluate((0, 0), self.input(y, self.first))[0].double() * ONE)
        state = State(y, p, None if self.keep == 2**SHIFT else torch.zeros_like(p))
        x = self.forth(state, lambda n, u: plan.evaluate((n + 1, 0), u)[0], plan.after)
        plan.finish()
        return state, x

    def refuse_overflow(self) -> None:
        """Raises if a number overflowed or was not finite. Looks once, at the end."""
        if self.bad.item():
            largest = LARGEST / ONE
            raise FloatingPointError(f"sample: the net gave NaN or infinity, or x / alpha exceeded {largest:.3g}")

    def backward(self, grad: Tensor, state: State) -> Gradients:
        """Undoes the run and pulls the gradient of the sample (B, *S) back along it."""
        with self.plan.replaying():
            return self.sweep(grad, State(*(None if t is None else t.clone() for t in state)))  # type: ignore[arg-type]

    def sweep(self, grad: Tensor, state: State) -> Gradients:
        """:meth:`backward` from step to step."""
        found, keep = self.plan.gradients(), self.keep / 2**SHIFT
        to_y = grad * self.last
        to_p = self.half(len(self.h) - 1) * to_y
        to_e = (1 + keep) * to_p

        def evaluate(n: int, x: Tensor) -> Tensor:
            nonlocal to_e
            along, e = self.pull((n + 1, 0), x, to_e, found)
            to_e = torch.empty_like(to_p)
            along = torch.zeros_like(to_y) if along is None else along.to(to_y.dtype)
            adjoint(to_y, to_p, along, to_e, self.middle[n], self.half(n), self.half(n - 1), keep, 1 + keep)
            return e

        x = self.back(state, evaluate)
        along, e = self.pull((0, 0), x, to_p, found)
        self.refuse_other_start(state.y, state.p, e)
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
        state, x = leapfrog.forward()
        ctx.leapfrog, ctx.others = leapfrog, len(plan.parameters) + len(plan.leaves) + 1
        rest = [] if state.rest is None else [state.rest]
        ctx.save_for_backward(*plan.parameters, *plan.leaves, plan.made.x, state.y, state.p, *rest)
        return x

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


def run(made: Run, after: Callable[[int, Tensor], object], solver: object, damping: float) -> Tensor:
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
