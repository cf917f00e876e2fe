"""CaPE's kernel targets, against the authors' loop over samples."""

from __future__ import annotations

import math

import torch
from probkernels.uncertainty import kernel_targets
from torch.nn import functional as F

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..claims import times_faster
from ..grids import one_core

LEAST = 50.0
SIZES = [(5000, 0.05, 100), (5000, 0.1, 500)]  # the authors' script, and their class without options


def grid(device: str) -> list[Params]:
    """Both widths of the authors."""
    return one_core(("samples", "sigma", "window"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Probabilities (N) and labels (N) drawn from them."""
    probs = torch.rand(params["samples"])
    return {"probs": probs.to(device, dtype), "labels": (torch.rand(len(probs)) < probs).long().to(device)}


def ours(inputs: Inputs, params: Params) -> Task:
    """One call."""

    def run() -> list[torch.Tensor]:
        return [kernel_targets(inputs["probs"], inputs["labels"], sigma=params["sigma"], window=params["window"])]

    return Task({"targets": Run(run)}, run)


def loop(inputs: Inputs, params: Params) -> Task:
    """The authors' loop, on numpy's float64 arrays as theirs. Its sort is stable, as the targets depend on it."""
    import numpy as np
    from scipy.stats import norm

    probs, labels = (inputs[name].double().numpy() for name in ("probs", "labels"))
    count, window = params["samples"], params["window"]

    def run() -> list[torch.Tensor]:
        order = np.argsort(probs, kind="stable")
        p, y, found = probs[order], labels[order], np.zeros(count)
        for i in range(count):
            near = slice(np.maximum(0, i - window), np.minimum(i + window, count))
            weight = norm.pdf(p[near], loc=p[i], scale=params["sigma"])
            found[i] = np.sum(weight * y[near]) / np.sum(weight)
        targets = np.zeros(count)
        for i in range(count):
            targets[order[i]] = found[i]
        return [torch.from_numpy(targets)]

    return Task({"targets": Run(run)}, run)


def windows(inputs: Inputs, params: Params) -> Task:
    """The definition, with the windows of all samples side by side."""
    window = params["window"]

    def run() -> list[torch.Tensor]:
        p, order = inputs["probs"].sort(stable=True)
        near = F.pad(p, (window, window - 1), value=math.inf).unfold(0, 2 * window, 1)
        weight = (-((near - p[:, None]) / params["sigma"]).square() / 2).exp()
        outcomes = F.pad(inputs["labels"][order].to(p.dtype), (window, window - 1)).unfold(0, 2 * window, 1)
        return [torch.empty_like(p).index_copy_(0, order, (weight * outcomes).sum(1) / weight.sum(1))]

    return Task({}, run)


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to."""
    params = results[0].params
    where = f"N={params['samples']} sigma={params['sigma']} W={params['window']}"
    return times_faster(results, "authors_loop", LEAST, where)


CASE = Case(
    name="kernel_targets",
    modes=("targets",),
    grid=grid,
    make=make,
    judge=judge,
    tests=("uncertainty/test_cape.py", "uncertainty/test_gaussian_window.py"),
    providers=(Provider("ours", ours, windows, kind="ours"), Provider("authors_loop", loop, windows)),
)
