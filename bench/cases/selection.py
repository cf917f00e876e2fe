"""Reading and writing the selected entries of a weight, in both encodings, against what torch offers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels._core.formats.bitmap import pack
from probkernels.ops import Selection
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..grids import points

SIDE = 2048
DENSITIES = (0.058, 0.0058)  # the paper's 50M and 5M of 860M weights
LEAST = {0.058: 2.0, 0.0058: 5.0}  # times faster than a boolean mask, gathering and scattering


def grid(device: str) -> list[Params]:
    """Every density on one core and on all."""
    return points(device, ("side", "density"), [(SIDE, density) for density in DENSITIES], once=False)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """w, target (side, side); mask like them; values (count)."""
    shape = (params["side"], params["side"])
    mask = torch.rand(shape) < params["density"]
    return {
        "w": torch.randn(shape).to(device, dtype),
        "target": torch.randn(shape).to(device, dtype),
        "values": torch.randn(int(mask.sum())).to(device, dtype),
        "mask": mask.to(device),
    }


def traffic(params: Params, mode: str) -> int:
    """Bytes that must move: the values, and the lines of 64 bytes of the weight in which one of them lies."""
    entries, d, size = params["side"] ** 2, params["density"], getattr(torch, params["dtype"]).itemsize
    lines = entries * size * (1 - (1 - d) ** (64 // size))
    return int(d * entries * size + (lines if mode == "gather" else 2 * lines))


def _task(inputs: Inputs, gather: Callable[[], Tensor], scatter: Callable[[Tensor], None]) -> Task:
    def outputs() -> list[Tensor]:
        target = inputs["target"].clone()
        scatter(target)
        return [gather(), target]

    target = inputs["target"].clone()
    return Task({"gather": Run(gather), "scatter": Run(lambda: scatter(target))}, outputs)


def _selection(inputs: Inputs, selection: Selection) -> Task:
    w, values = inputs["w"], inputs["values"]
    return _task(inputs, lambda: selection.gather(w), lambda target: selection.scatter_(target, values))


def _bitmap(inputs: Inputs, params: Params) -> Task:
    mask = inputs["mask"]
    return _selection(inputs, Selection(mask.shape, inputs["values"].numel(), None, *pack(mask)))


def _list(inputs: Inputs, params: Params) -> Task:
    mask = inputs["mask"]
    index = mask.view(-1).nonzero()[:, 0].int()
    return _selection(inputs, Selection(mask.shape, index.numel(), index, None, None))


def _torch_mask(inputs: Inputs, params: Params) -> Task:
    """Boolean indexing, as the official code does: a nonzero, and so on a GPU a wait, in every call."""
    w, mask, values = inputs["w"], inputs["mask"], inputs["values"]

    def scatter(target: Tensor) -> None:
        target[mask] = values

    return _task(inputs, lambda: w[mask], scatter)


def _torch_masked(inputs: Inputs, params: Params) -> Task:
    w, mask, values = inputs["w"], inputs["mask"], inputs["values"]
    return _task(inputs, lambda: w.masked_select(mask), lambda target: target.masked_scatter_(mask, values))


def _torch_index(inputs: Inputs, params: Params) -> Task:
    """A list of int64 positions: eight bytes per entry."""
    w, values = inputs["w"].view(-1), inputs["values"]
    index = inputs["mask"].view(-1).nonzero()[:, 0]
    return _task(inputs, lambda: w.index_select(0, index), lambda target: target.view(-1).index_copy_(0, index, values))


def judge(results: list[Result]) -> list[Verdict]:
    """Faster than boolean indexing, in the encoding that is chosen at this density."""
    params = results[0].params
    ours = "bitmap" if params["density"] > 1 / 30 else "list"
    least = LEAST.get(params["density"])
    return [
        Verdict(
            f"{r.provider} {r.mode}: times faster than torch_mask, density {params['density']} {params['threads']}",
            r.faster_than["torch_mask"],
            f">= {least}",
            r.faster_than["torch_mask"] >= least,
        )
        for r in results
        if least and r.provider == f"ours_{ours}" and "torch_mask" in r.faster_than
    ]


CASE = Case(
    name="selection",
    modes=("gather", "scatter"),
    grid=grid,
    make=make,
    bytes=traffic,
    judge=judge,
    providers=(
        Provider("ours_bitmap", _bitmap, _torch_mask, kind="ours"),
        Provider("ours_list", _list, _torch_mask, kind="ours"),
        Provider("torch_mask", _torch_mask, _torch_mask),
        Provider("torch_masked", _torch_masked, _torch_mask),
        Provider("torch_index", _torch_index, _torch_mask),
    ),
)
