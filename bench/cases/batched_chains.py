"""Iterations of HMC for 32 chains in one batch, against plain modules and autograd, chain by chain."""

from __future__ import annotations

import torch
from probkernels.bnn import HMC, CategoricalLikelihood, GaussianLikelihood, GaussianPrior, functional_call, scaled_mlp
from torch import Tensor, nn

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..claims import times_faster
from ..grids import one_core

CHAINS, POINTS, LEAPFROG, ITERATIONS = 32, 40, 20, 5
STEP = 1e-8  # so small that all providers end where they started, up to rounding
LEAST = {4: 5.0, 3: 10.0}  # times faster than the loop: of 1-50-50-1, and of 2-10-2


def grid(device: str) -> list[Params]:
    """A regression network with two hidden layers, and a small classifier."""
    return one_core(("inputs", "hidden", "layers", "outputs"), [(1, 50, 4, 1), (2, 10, 3, 2)])


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """X (40, in), targets, and the starts of 32 chains by parameter."""
    x = torch.randn(POINTS, params["inputs"]).to(device, dtype)
    starts = GaussianPrior(_net(params, dtype)).sample(CHAINS)
    return {"X": x, "y": x[:, :1].sin(), **{name: p.to(device) for name, p in starts.items()}}


def _net(params: Params, dtype: torch.dtype) -> nn.Sequential:
    sizes = (params["inputs"], *[params["hidden"]] * (params["layers"] - 2), params["outputs"])
    return scaled_mlp(sizes, dtype=dtype)


def _starts(inputs: Inputs) -> dict[str, Tensor]:
    return {name: p for name, p in inputs.items() if name not in ("X", "y")}


def ours(inputs: Inputs, params: Params) -> Task:
    """All chains at once."""
    net, regression = _net(params, inputs["X"].dtype), params["outputs"] == 1
    likelihood = GaussianLikelihood(0.1) if regression else CategoricalLikelihood()
    y = inputs["y"] if regression else (inputs["y"][:, 0] > 0).long()
    sampler, how = HMC(STEP, LEAPFROG, adapt=False), {"samples": 1, "warmup": ITERATIONS - 1}

    def run() -> list[Tensor]:
        posterior = sampler.sample(
            net, GaussianPrior(net), likelihood, inputs["X"], y, chains=CHAINS, initial=_starts(inputs), **how
        )
        return [posterior.functions(inputs["X"])[:, 0]]

    return Task({"iterations": Run(run)}, run)


def loop(inputs: Inputs, params: Params) -> Task:
    """Plain modules and autograd, a leapfrog loop for each chain: what one writes without vmap."""
    X = inputs["X"]
    net = _net(params, X.dtype)
    regression = params["outputs"] == 1
    y = inputs["y"] if regression else (inputs["y"][:, 0] > 0).long()
    weights = list(net.parameters())

    def energy() -> Tensor:
        f = net(X)
        nll = (f - y).square().sum() / 0.2 if regression else nn.functional.cross_entropy(f, y, reduction="sum")
        return nll + sum(p.square().sum() for p in weights) / 2

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(energy(), weights))

    def run() -> list[Tensor]:
        found = []
        for k in range(CHAINS):
            for p, start in zip(weights, _starts(inputs).values(), strict=True):
                p.data.copy_(start[k])
            for _ in range(ITERATIONS):
                momenta = [torch.randn_like(p) for p in weights]
                for _ in range(LEAPFROG + 1):
                    for p, m, g in zip(weights, momenta, gradient(), strict=True):
                        m.sub_(g, alpha=STEP)
                        p.data.add_(m, alpha=STEP)
            found.append(net(X).detach())
        return [torch.stack(found)]

    return Task({"iterations": Run(run)}, run)


def starts(inputs: Inputs, params: Params) -> Task:
    """Function values at the starts, which such small steps hardly change."""
    net = _net(params, inputs["X"].dtype)
    return Task({}, lambda: [functional_call(net, _starts(inputs), inputs["X"]).detach()])


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to."""
    params = results[0].params
    where = f"{params['inputs']} inputs, {params['hidden']} units, {params['layers'] - 2} hidden layers"
    return times_faster(results, "loop", LEAST[params["layers"]], where)


CASE = Case(
    name="batched_chains",
    modes=("iterations",),
    grid=grid,
    make=make,
    judge=judge,
    tests=("bnn/test_samplers.py",),
    providers=(Provider("ours", ours, starts, kind="ours"), Provider("loop", loop, starts)),
)
