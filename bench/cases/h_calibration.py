"""A training step of h-calibration, against the authors' form: a sort, two convolutions and a k-means for each class.

The map is a temperature, which costs next to nothing beside the loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.uncertainty import h_calibration_loss
from torch import Tensor
from torch.nn import functional as F

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..claims import times_faster
from ..grids import one_core

LEAST = 50.0
WINDOW, CLUSTERS, LLOYD_STEPS = 200, 15, 25
FAISS_SAMPLE = 256 * CLUSTERS  # events from which faiss learns its centers: at most 256 for each


def grid(device: str) -> list[Params]:
    """The batch of the authors' study."""
    return one_core(("samples", "classes"), [(5000, 10)])


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Logits (N, C) that are too large by a factor of two, labels (N), and the logarithm of a temperature."""
    logits = 3 * torch.randn(params["samples"], params["classes"], dtype=torch.float64)
    return {
        "logits": logits.to(device, dtype),
        "labels": torch.distributions.Categorical(logits=logits / 2).sample().to(device),
        "log_temperature": torch.zeros((), device=device, dtype=dtype, requires_grad=True),
    }


def _centers(values: Tensor, steps: int) -> Tensor:
    """Centers of Lloyd's algorithm on values in ascending order, from their quantiles."""
    centers = values[(2 * torch.arange(CLUSTERS) + 1) * len(values) // (2 * CLUSTERS)]
    for _ in range(steps):
        chosen = _nearest(values, centers)
        sizes, sums = (torch.zeros_like(centers).index_add_(0, chosen, v) for v in (torch.ones_like(values), values))
        centers = torch.where(sizes > 0, sums / sizes, centers)
    return centers


def _nearest(values: Tensor, centers: Tensor) -> Tensor:
    return (values[:, None] - centers).abs().argmin(1)


def as_faiss(values: Tensor) -> Tensor:
    """Clusters at faiss's cost, and without its random numbers: centers from a sample, then a search for each event."""
    sample = values[torch.linspace(0, len(values) - 1, min(FAISS_SAMPLE, len(values))).long()]
    return _nearest(values, _centers(sample, LLOYD_STEPS))


def of_all(values: Tensor) -> Tensor:
    """Clusters of all events."""
    return _nearest(values, _centers(values, LLOYD_STEPS - 1))


def _of_events(probs: Tensor, outcomes: Tensor, clusters: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss of one set of events, step by step as the authors compute it."""
    order = torch.log(probs.flatten() + 1e-20).sort().indices
    p, y = probs.flatten()[order], outcomes.flatten()[order]
    window = p.new_full((1, 1, WINDOW + 1), 1 / (WINDOW + 1))
    missed, false = (
        F.conv1d(F.pad(x, (WINDOW // 2, WINDOW // 2))[None, None], window).flatten() for x in ((1 - p) * y, p * (1 - y))
    )
    gap = false - missed
    error = F.relu(F.relu(gap) + F.relu(-gap) - 1e-20)
    member = F.one_hot(clusters(p.detach()), CLUSTERS).t()
    return ((error * member).sum(1) / (member.sum(1) + 1e-5)).mean()


def authors_loss(probs: Tensor, labels: Tensor, clusters: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean over classes of the loss without the samples of the class."""
    outcomes = F.one_hot(labels, probs.shape[1])
    rest = [outcomes.argmax(1) != c for c in range(probs.shape[1])]
    return torch.stack([_of_events(probs[rows], outcomes[rows], clusters) for rows in rest]).mean()


def task(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Inputs, Params], Task]:
    """The Task of a loss: its value and the temperature's gradient."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        leaf = inputs["log_temperature"]

        def step() -> list[Tensor]:
            value = loss((inputs["logits"] * leaf.exp()).softmax(1), inputs["labels"])
            return [value.detach(), *torch.autograd.grad(value, leaf)]

        return Task({"step": Run(step)}, step)

    return prepare


def judge(results: list[Result]) -> list[Verdict]:
    """The figure we hold ourselves to."""
    params = results[0].params
    return times_faster(results, "authors_form", LEAST, f"N={params['samples']} C={params['classes']}")


authors, exact = (task(lambda p, y, k=clusters: authors_loss(p, y, k)) for clusters in (as_faiss, of_all))

CASE = Case(
    name="h_calibration",
    modes=("step",),
    grid=grid,
    make=make,
    judge=judge,
    tests=("uncertainty/test_h_calibration.py",),
    providers=(
        Provider("ours", task(h_calibration_loss), exact, kind="ours"),
        Provider("authors_form", authors, authors),
    ),
)
