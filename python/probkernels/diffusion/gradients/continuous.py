"""The continuous adjoint of AdjointDPM, for comparison. It is not the gradient of the discrete steps.

With y = x / alpha the samplers here solve dy / d rho = eps(alpha y, t). The adjoint a = dL / dy then obeys
da / d rho = -alpha J^T a, J = d eps / dx, and the gradient of anything else that eps depends on is the integral of
(d eps / d other)^T a. The backward pass solves these from the sample to x_T by the same Runge-Kutta method on the same
times, and starts every interval at the state that the forward pass had there, as torchdiffeq's odeint_adjoint does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from ..solvers.runge_kutta import HEUN, MIDPOINT, RK4, Tableau, explicit
from ._sums import Gradients
from .exact import Plan

if TYPE_CHECKING:
    from ..run import Run

EULER: Tableau = ([0], [[]], [1])
TABLEAUX: dict[str, Tableau] = {"ddim": EULER, "heun": HEUN, "midpoint": MIDPOINT, "rk4": RK4}


class Adjoint:
    """The equations of one run, backwards.

    Args:
        plan: the plan of the forward run.
        tableau: the Runge-Kutta tableau of its method.
    """

    def __init__(self, plan: Plan, tableau: Tableau) -> None:
        made = plan.made
        process, times = made.model.process, made.scheme.times.detach()
        self.plan, self.rows, self.weights = plan, tableau[1], tableau[2]
        scheme = explicit(tableau)(process, times.flip(0))
        self.back = Plan(replace(made, scheme=scheme), plan.after, 0, None)
        self.back.surroundings, self.back.net, self.back.outputs = plan.surroundings, plan.net, plan.outputs
        last = scheme.steps
        starts = {(i, 0): plan.index[last - i, 0] for i in range(1, last)} if made.scheme.kind == scheme.kind else {}
        self.back.index = {place: starts.get(place, -1) for place in self.back.places}  # calls of the forward pass
        self.h = process.rho(times.flip(0)).diff().tolist()  # positive
        self.alpha = process.alpha(scheme.t).tolist()  # of every stage
        self.ends = float(process.alpha(times[0])), float(process.alpha(times[-1]))

    def backward(self, grad: Tensor, states: list[Tensor]) -> Gradients:
        """All gradients, from that of the sample (B, *S); ``states`` are x_0 .. x_N, the sample last."""
        with self.back.replaying():
            return self.sweep(grad, states)

    def sweep(self, grad: Tensor, states: list[Tensor]) -> Gradients:
        """:meth:`backward` from interval to interval."""
        found = self.back.gradients()
        a = grad * self.ends[1]
        for i, (h, x) in enumerate(zip(self.h, reversed(states), strict=False)):
            a = self.interval(i, h, x, a, found)
        found.x = a / self.ends[0]
        return found

    def interval(self, i: int, h: float, x: Tensor, a: Tensor, found: Gradients) -> Tensor:
        """a (B, *S) at the far end of interval i, whose near end has the state x (B, *S)."""
        values: list[Tensor | None] = [x, *[None] * len(self.rows), None, None]  # with eps at the stages; no noise
        slopes: list[Tensor] = []  # of a, for rho that grows
        for s, row in enumerate(self.rows):
            mix = self.back.steps[i].stages[s]
            assert mix is not None
            (u,) = mix(values)
            assert u is not None
            along = a
            for q, weight in enumerate(row):
                along = along + (h * weight) * slopes[q]
            values[1 + s], slope = self.pull((i, s), u, along, -h * self.weights[s], found)
            slopes.append(slope * -self.alpha[i][s])
        for s, weight in enumerate(self.weights):
            a = a + (h * weight) * slopes[s]
        return a

    def pull(
        self, place: tuple[int, int], u: Tensor, along: Tensor, share: float, found: Gradients
    ) -> tuple[Tensor, Tensor]:
        """eps at u (B, *S), and J^T along. Adds ``share`` times the gradients of the other inputs to ``found``."""
        call = self.back.call(place, u, graph=True)
        self.back.refuse_undeclared(call)
        if not call.k.requires_grad:
            return call.k[0].detach(), torch.zeros_like(u)
        active = found.active if share else []
        own, *others = torch.autograd.grad(call.k, [call.u, *active], along[None].to(call.k.dtype), allow_unused=True)
        found.add([None if other is None else other * share for other in others])
        return call.k[0].detach(), torch.zeros_like(u) if own is None else own


class Continuous(torch.autograd.Function):
    """The sample as a function of :meth:`Plan.inputs`."""

    @staticmethod
    def forward(ctx: Any, adjoint: Adjoint, *tensors: Tensor) -> Tensor:
        """Runs the sampler."""
        plan, back = adjoint.plan, adjoint.back
        sample, inputs, _ = plan.forward()
        stages = len(adjoint.rows)
        states = [*inputs[::stages], sample]
        ctx.adjoint, ctx.others = adjoint, len(back.parameters) + len(back.leaves)
        ctx.save_for_backward(*back.parameters, *back.leaves, *states)
        return sample

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Solves the adjoint equations."""
        if torch.is_grad_enabled():
            hint = "Hint: use grad='autograd' for second derivatives"
            raise NotImplementedError(f"sample: grad='continuous' has no second derivative (create_graph=True). {hint}")
        ctx.adjoint.plan.refuse_changes()
        states = list(ctx.saved_tensors)[ctx.others :]
        return (None, *ctx.adjoint.backward(grads[0], states).in_order())


def run(made: Run, after: Callable[[int, Tensor], object], solver: object) -> Tensor:
    """The sample (B, *S) of a run, with the continuous adjoint in place of its gradient."""
    if not isinstance(solver, str) or solver not in TABLEAUX:
        expected = f"one of {', '.join(map(repr, TABLEAUX))}, as grad is 'continuous'"
        raise ValueError(message("sample", "solver", expected, repr(solver), "use grad='exact'"))
    if any(made.scheme.draws):
        expected = "no noise, as grad is 'continuous'"
        raise ValueError(message("sample", "eta", expected, "some in every step", "use grad='exact'"))
    plan = Plan(made, after, 0, None)
    if any(c.requires_grad for c in plan.coefficients):
        expected = "times without a gradient, such a process and 'time', as grad is 'continuous'"
        raise ValueError(message("sample", "times", expected, "one that requires a gradient", "use grad='exact'"))
    if float(made.model.process.sigma(made.scheme.times[-1])) == 0:
        expected, hint = "some noise at the end, as grad is 'continuous'", "grid(..., t_min=...) ends earlier"
        raise ValueError(message("sample", "times", expected, "none", hint))
    if any(checks.is_sharded(p) for p in plan.parameters):
        expected = "parameters that are not sharded, as grad is 'continuous'"
        raise ValueError(message("sample", "model", expected, "DTensors", "use grad='exact'"))
    adjoint = Adjoint(plan, TABLEAUX[solver])
    return Continuous.apply(adjoint, *adjoint.back.inputs())
