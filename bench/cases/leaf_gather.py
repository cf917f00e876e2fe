"""Lookups by category and the sums by category that are their gradient, against torch's gather and scatters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.ops import leaf_gather, leaf_histogram
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..grids import points

# variables, categories, units, batch: MNIST's pixels with 16 and 64 states, and a table of few categories
SIZES = [(784, 256, 16, 512), (784, 256, 64, 128), (64, 17, 8, 512)]
GATHER, HISTOGRAM = "gather", "histogram"


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("variables", "categories", "units", "batch"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """table (V, C, K), values (V, K, B), and codes (V, B) int32 of which most are 0, as in images of digits."""
    variables, categories, units, batch = (params[name] for name in ("variables", "categories", "units", "batch"))
    codes = torch.randint(categories, (variables, batch)) * (torch.rand(variables, batch) < 0.2)
    return {
        "table": torch.randn(variables, categories, units).to(device, dtype),
        "values": torch.rand(variables, units, batch).to(device, dtype),
        "codes": codes.int().to(device),
    }


def traffic(params: Params, mode: str) -> int:
    """The table, the codes and the values, each once; of a table no more rows than there are samples are read."""
    variables, categories, units, batch = (params[name] for name in ("variables", "categories", "units", "batch"))
    rows = min(categories, batch) if mode == GATHER else categories
    return variables * (units * (rows + batch) * getattr(torch, params["dtype"]).itemsize + 4 * batch)


def _task(gather: Callable[[], Tensor], histogram: Callable[[], Tensor]) -> Task:
    return Task({GATHER: Run(gather), HISTOGRAM: Run(histogram)}, lambda: [gather(), histogram()])


def _ours(inputs: Inputs, params: Params) -> Task:
    table, values, codes = inputs["table"], inputs["values"], inputs["codes"]
    return _task(lambda: leaf_gather(table, codes), lambda: leaf_histogram(codes, values, params["categories"]))


def _torch_gather(inputs: Inputs, params: Params) -> Task:
    """gather and scatter_add along the categories, with int64 codes that were made before."""
    table, values = inputs["table"], inputs["values"]
    at = inputs["codes"].long()[..., None].expand(-1, -1, params["units"])

    def histogram() -> Tensor:
        return torch.zeros_like(table).scatter_add_(1, at, values.transpose(1, 2))

    return _task(lambda: table.gather(1, at).transpose(1, 2).contiguous(), histogram)


def _torch_index(inputs: Inputs, params: Params) -> Task:
    """index_select and index_add_ of rows, with flat int64 positions that were made before."""
    table, values, batch = inputs["table"], inputs["values"], params["batch"]
    first = torch.arange(params["variables"], device=table.device)[:, None] * params["categories"]
    at, rows = (inputs["codes"].long() + first).flatten(), table.flatten(0, 1)

    def gather() -> Tensor:
        return rows.index_select(0, at).unflatten(0, (-1, batch)).transpose(1, 2).contiguous()

    def histogram() -> Tensor:
        sums = torch.zeros_like(rows).index_add_(0, at, values.transpose(1, 2).flatten(0, 1))
        return sums.view_as(table)

    return _task(gather, histogram)


CASE = Case(
    name="leaf_gather",
    modes=(GATHER, HISTOGRAM),
    grid=grid,
    make=make,
    bytes=traffic,
    providers=(
        Provider("ours_cpu", _ours, _torch_gather, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _torch_gather, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch_gather_scatter", _torch_gather, _torch_gather),
        Provider("torch_index_select_add", _torch_index, _torch_gather),
    ),
)
