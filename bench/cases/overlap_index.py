"""The overlap index of distances to the predicted class and to all others, against a loop over scipy's densities."""

from __future__ import annotations

import math

import torch
from probkernels.uncertainty import overlap_index

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..claims import times_faster
from ..grids import one_core

LEAST = 20.0
MARGIN, POINTS = 10.0, 1000  # of the loop's grid: from -MARGIN to MARGIN beyond the other class's largest distance


def grid(device: str) -> list[Params]:
    """Ten inputs with a hundred draws of ten prototypes."""
    return one_core(("inputs", "classes", "draws"), [(10, 10, 100)])


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Distances of the predicted class (n, 1, S) and of all others (n, C - 1, S), some of which overlap."""
    count, classes, draws = (params[name] for name in ("inputs", "classes", "draws"))
    near, width = 5 + 30 * torch.rand(count, classes, 1), 1 + 3 * torch.rand(count, classes, 1)
    distances = (near.sort(1).values + width * torch.randn(count, classes, draws)).to(device, dtype)
    return {"own": distances[:, :1], "others": distances[:, 1:]}


def ours(inputs: Inputs, params: Params) -> Task:
    """One call for all pairs."""

    def run() -> list[torch.Tensor]:
        return [overlap_index(inputs["own"], inputs["others"])]

    return Task({"index": Run(run)}, run)


def loop(inputs: Inputs, params: Params) -> Task:
    """The published loop over inputs and classes: densities by ``gaussian_kde``, a midpoint sum of the smaller one."""
    import numpy as np
    from scipy.stats import gaussian_kde

    own, others = (inputs[name].double().numpy() for name in ("own", "others"))

    def run() -> list[torch.Tensor]:
        found = np.zeros(others.shape[:2])
        for i in range(len(found)):
            first = gaussian_kde(own[i, 0])
            for j in range(found.shape[1]):
                second = gaussian_kde(others[i, j])
                ends = np.linspace(-MARGIN, others[i, j].max() + MARGIN, POINTS + 1)
                middles = (ends[:-1] + ends[1:]) / 2
                found[i, j] = np.sum(np.min(np.array([first(middles), second(middles)]), axis=0) * (ends[1] - ends[0]))
        return [torch.from_numpy(found)]

    return Task({"index": Run(run)}, run)


def densities(inputs: Inputs, params: Params) -> Task:
    """The definition in torch, pair by pair, on a finer grid that holds both densities."""

    def density(draws: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        width = draws.std() * len(draws) ** -0.2  # Scott's rule
        return (-((at[:, None] - draws) / width).square() / 2).exp().mean(1) / (width * math.sqrt(2 * math.pi))

    def overlap(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        both = torch.cat([first, second])
        at = torch.linspace(float(both.min()) - MARGIN, float(both.max()) + MARGIN, 2 * POINTS, dtype=both.dtype)
        return torch.minimum(density(first, at), density(second, at)).sum() * (at[1] - at[0])

    def run() -> list[torch.Tensor]:
        rows = zip(inputs["own"][:, 0], inputs["others"], strict=True)
        return [torch.stack([torch.stack([overlap(own, other) for other in others]) for own, others in rows])]

    return Task({}, run)


def judge(results: list[Result]) -> list[Verdict]:
    """The figure we hold ourselves to."""
    params = results[0].params
    where = f"{params['inputs']} inputs, {params['classes']} classes, {params['draws']} draws"
    return times_faster(results, "scipy_loop", LEAST, where)


CASE = Case(
    name="overlap_index",
    modes=("index",),
    grid=grid,
    make=make,
    judge=judge,
    tests=("uncertainty/test_overlap.py",),
    providers=(Provider("ours", ours, densities, kind="ours"), Provider("scipy_loop", loop, densities)),
)
