"""Gradients through 50 steps of DDIM: to the noise, the condition and the weights, exactly and as the peers do it."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from probkernels.diffusion import VP, Denoiser, grid, sample, table
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ._diffusion_nets import CONDITION, NETS

STEPS = 50
PROCESS = VP()
BATCH = {"mlp": 8, "unet": 4}
MODE = "gradient"
ALL_GRAPHS = 10**10  # bytes: as many graphs as there are


def points(device: str) -> list[Params]:
    """Both networks, with weights that learn and with frozen ones, on one core."""
    shape = {"device": device, "dtype": "float32", "threads": 1, "steps": STEPS}
    return [
        {**shape, "net": net, "weights": weights, "batch": batch}
        for net, batch in BATCH.items()
        for weights in ("learned", "frozen")
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x_T, grad_x (B, *S), cond (B, 32), and the network's weights by name."""
    net = NETS[params["net"]]()
    rows = params["batch"]
    x_T, grad_x = (torch.randn(rows, *net.shape).to(device, dtype) for _ in range(2))
    weights = {name: p.detach().to(device, dtype) for name, p in net.named_parameters()}
    return {"x_T": x_T, "grad_x": grad_x, "cond": torch.randn(rows, CONDITION).to(device, dtype), **weights}


class Problem:
    """A denoiser with the point's weights, and the leaves that get gradients."""

    def __init__(self, inputs: Inputs, params: Params) -> None:
        net = NETS[params["net"]]().to(inputs["x_T"])
        net.load_state_dict({name: value for name, value in inputs.items() if name not in ("x_T", "grad_x", "cond")})
        net.requires_grad_(params["weights"] == "learned")
        self.net, self.model = net, Denoiser(net, PROCESS, pred="v")
        self.x_T, self.cond = (inputs[name].clone().requires_grad_() for name in ("x_T", "cond"))
        self.grad_x = inputs["grad_x"]
        self.times = grid(PROCESS, params["steps"])
        self.leaves = [self.x_T, self.cond, *(p for p in net.parameters() if p.requires_grad)]
        self.given = self.times[:-1].to(self.x_T)[:, None].expand(-1, len(self.x_T)).to(self.x_T.device)  # (N, B)

    def coefficients(self) -> list[tuple[float, float]]:
        """(p, q) of each step x' = p x + q output: DDIM with the conversion from v folded in."""
        steps = table(PROCESS, self.times, "ddim")
        on_x, on_output = self.model.coefficients("eps", self.times[:-1])
        return list(zip((steps.a + steps.b[:, 0] * on_x).tolist(), (steps.b[:, 0] * on_output).tolist(), strict=True))


def _task(
    problem: Problem, draw: Callable[[], Tensor], outputs: Callable[[Tensor, list[Tensor]], Sequence[Tensor]]
) -> Task:
    """The sample's gradient to the leaves."""

    def run() -> tuple[Tensor, list[Tensor]]:
        x = draw()
        return x, list(torch.autograd.grad(x, problem.leaves, problem.grad_x))

    def found() -> Sequence[Tensor]:
        x, grads = run()
        return outputs(x.detach(), grads)

    return Task({MODE: Run(run)}, found)


def everything(x: Tensor, grads: list[Tensor]) -> list[Tensor]:
    """The sample and all gradients."""
    return [x, *grads]


def the_sample(x: Tensor, grads: list[Tensor]) -> list[Tensor]:
    """The sample only, for a method whose gradient is not the sample's: its gradient has its own row."""
    return [x]


def the_gradients(x: Tensor, grads: list[Tensor]) -> list[Tensor]:
    """All gradients."""
    return grads


def _ours(inputs: Inputs, params: Params, *, outputs: Any = everything, **mode: Any) -> Task:
    problem = Problem(inputs, params)

    def draw() -> Tensor:
        return sample(problem.model, problem.x_T, solver="ddim", times=problem.times, cond=problem.cond, **mode)

    return _task(problem, draw, outputs)


def _loop(inputs: Inputs, params: Params, *, checkpointed: bool) -> Task:
    """A sampler as one writes it by hand, with nothing to compute in a step that does not depend on the state."""
    problem = Problem(inputs, params)
    coefficients = problem.coefficients()

    def step(x: Tensor, n: int) -> Tensor:
        p, q = coefficients[n]
        return p * x + q * problem.net(x, problem.given[n], problem.cond)

    def draw() -> Tensor:
        x = problem.x_T
        for n in range(len(coefficients)):
            x = checkpoint(step, x, n, use_reentrant=False, preserve_rng_state=False) if checkpointed else step(x, n)
        return x

    return _task(problem, draw, everything)


def _torchdiffeq(inputs: Inputs, params: Params, *, outputs: Any) -> Task:
    """AdjointDPM's method: dy / d rho = eps, and Euler's method on the adjoint ODE."""
    from torchdiffeq import odeint_adjoint

    problem = Problem(inputs, params)
    rho, alpha = PROCESS.rho(problem.times), PROCESS.alpha(problem.times)
    rising = (-rho).tolist()
    noise = [tuple(c) for c in torch.stack(problem.model.coefficients("eps", problem.times), 1).tolist()]
    at = problem.times.to(problem.x_T)[:, None].expand(-1, len(problem.x_T))

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = problem.net

        def forward(self, r: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            y, cond = state
            now = float(r.detach())  # one of the grid's, in single precision
            n = bisect.bisect_left(rising, -now - 1e-5 * now)
            x, (p, q) = float(alpha[n]) * y, noise[n]
            return p * x + q * self.net(x, at[n], cond), torch.zeros_like(cond)

    field = Field()

    def draw() -> Tensor:
        start = (problem.x_T / float(alpha[0]), problem.cond)
        return odeint_adjoint(field, start, rho, method="euler")[0][-1] * float(alpha[-1])

    return _task(problem, draw, outputs)


def _network(inputs: Inputs, params: Params) -> Task:
    """The least that keeping states can cost: each call of the network without a graph, then with one and its VJP,
    added up over the calls as ``.backward()`` does."""
    problem = Problem(inputs, params)
    x = problem.x_T.detach().requires_grad_()
    leaves = [x, *problem.leaves[1:]]

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        for t in problem.given:
            with torch.no_grad():
                problem.net(x, t, problem.cond)
        for t in problem.given:
            torch.autograd.backward(problem.net(x, t, problem.cond), problem.grad_x, inputs=leaves)

    return Task({MODE: Run(run)}, list)


def _nothing(inputs: Inputs, params: Params) -> Task:
    return Task({}, list)


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to, in shares of the other's time.

    With states alone "exact" calls the network as often as "checkpoint": only kept graphs can take 0.7 of its time.
    """
    seconds = {r.provider: r.median_s for r in results if r.median_s is not None}
    net, weights = results[0].params["net"], results[0].params["weights"]
    goals = [("exact_bytes", "checkpoint", 0.70), ("exact_bytes", "exact", 0.80)]
    goals += [("exact", "torchdiffeq_euler", 1 / 3)] if net == "mlp" else [("exact", "network", 1.05)]
    return [
        Verdict(f"{ours}: share of {other}'s time, {net}, {weights} weights", ratio, f"<= {most:.3g}", ratio <= most)
        for ours, other, most in goals
        if ours in seconds and other in seconds
        for ratio in [seconds[ours] / seconds[other]]
    ]


AUTOGRAD = partial(_ours, grad="autograd")
CASE = Case(
    name="diffusion_gradients",
    modes=(MODE,),
    grid=points,
    make=make,
    judge=judge,
    tests=(),
    providers=(
        Provider("exact", partial(_ours, grad="exact"), AUTOGRAD, kind="ours"),
        Provider("exact_bytes", partial(_ours, grad="exact", store=ALL_GRAPHS), AUTOGRAD, kind="ours"),
        Provider("exact_revolve", partial(_ours, grad="exact", store="revolve"), AUTOGRAD, kind="ours"),
        Provider("unrolled", partial(_loop, checkpointed=False), AUTOGRAD),
        Provider("checkpoint", partial(_loop, checkpointed=True), AUTOGRAD),
        Provider("torchdiffeq_euler", partial(_torchdiffeq, outputs=the_sample), partial(AUTOGRAD, outputs=the_sample)),
        Provider(
            "torchdiffeq_euler_gradient",
            partial(_torchdiffeq, outputs=the_gradients),
            partial(AUTOGRAD, outputs=the_gradients),
        ),
        Provider("network", _network, _nothing, kind="floor"),
    ),
)
