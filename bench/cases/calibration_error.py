"""The expected calibration error in bins of equal width and of equal mass, against plain torch and beside a sort."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.uncertainty import ece
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..grids import one_core

BINS = 15
MODES = ("width", "mass")
MOST = {"top_label": 2.0, "class_wise": 1.0}  # of the sort's time; class-wise in bins of equal width only


def grid(device: str) -> list[Params]:
    """Top label of many samples; all classes of fewer."""
    return one_core(("samples", "classes", "of"), [(1_000_000, 100, "top_label"), (50_000, 100, "class_wise")])


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Probabilities (N, C), most of them sure, and labels (N), half of them the top label."""
    probs = (4 * torch.randn(params["samples"], params["classes"])).softmax(1)
    guess = torch.randint(params["classes"], (len(probs),))
    labels = torch.where(torch.rand(len(probs)) < 0.5, probs.argmax(1), guess)
    return {"probs": probs.to(device, dtype), "labels": labels.to(device)}


def plain_ece(probs: Tensor, hit: Tensor, equal: str) -> Tensor:
    """The error of one event: bins by comparison with edges, or by rank after a sort."""
    if equal == "mass":
        order = probs.argsort()
        of_rank = ((torch.arange(len(order)) + 1) * BINS - 1) // len(order)
        bin_of = torch.empty_like(order).index_copy_(0, order, of_rank)
    else:
        bin_of = torch.bucketize(probs.contiguous(), torch.linspace(0, 1, BINS + 1, dtype=probs.dtype)[1:-1])
    return probs.new_zeros(BINS).scatter_add_(0, bin_of, probs - hit.to(probs.dtype)).abs().sum() / len(probs)


def plain_top_label(probs: Tensor, labels: Tensor, equal: str) -> Tensor:
    """The error of the largest probability."""
    top, predicted = probs.max(1)
    return plain_ece(top, predicted == labels, equal)


def plain_class_wise(probs: Tensor, labels: Tensor, equal: str) -> Tensor:
    """The mean error of the classes, one after the other."""
    errors = [plain_ece(probs[:, c], labels == c, equal) for c in range(probs.shape[1])]
    return torch.stack(errors).mean()


def task(function: Callable[[Tensor, Tensor, str, str], Tensor]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of probabilities, labels, bins and events."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        def call(equal: str) -> Tensor:
            return function(inputs["probs"], inputs["labels"], equal, params["of"])

        modes = {equal: Run(lambda equal=equal: call(equal)) for equal in MODES}
        return Task(modes, lambda: [call(equal) for equal in MODES])

    return prepare


def sort(inputs: Inputs, params: Params) -> Task:
    """``torch.sort`` of what is binned, which a method with a sort cannot beat."""
    probs = inputs["probs"]
    values = probs.amax(1) if params["of"] == "top_label" else probs.t().contiguous()

    def run() -> None:
        values.sort()

    return Task(dict.fromkeys(MODES, Run(run)), list)


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to, in the time of the sort."""
    seconds = {(r.provider, r.mode): r.median_s for r in results if r.median_s is not None}
    of = results[0].params["of"]
    size = tuple(results[0].params[name] for name in ("samples", "classes"))
    return [
        Verdict(f"{of} ECE, equal {equal}, {size}: share of torch_sort's time", share, f"< {MOST[of]:g}", holds)
        for equal in (MODES if of == "top_label" else MODES[:1])
        if {("ours", equal), ("torch_sort", equal)} <= seconds.keys()
        for share in [seconds["ours", equal] / seconds["torch_sort", equal]]
        for holds in [share < MOST[of]]
    ]


def _plain(probs: Tensor, labels: Tensor, equal: str, of: str) -> Tensor:
    return (plain_top_label if of == "top_label" else plain_class_wise)(probs, labels, equal)


ours = task(lambda probs, labels, equal, of: ece(probs, labels, bins=BINS, equal=equal, mode=of))
plain = task(_plain)

CASE = Case(
    name="calibration_error",
    modes=MODES,
    grid=grid,
    make=make,
    judge=judge,
    tests=("uncertainty/test_values.py", "uncertainty/test_binning.py"),
    providers=(
        Provider("ours", ours, plain, kind="ours"),
        Provider("torch_bins", plain, plain),
        Provider("torch_sort", sort, sort, kind="floor"),
    ),
)
