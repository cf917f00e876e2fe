"""Selected entries of a linear layer's weight gradient, against the dense gradient gathered and torch's own SDDMM."""

from __future__ import annotations

import torch
from probkernels._core.backend import choose
from probkernels.ops import Selection, sampled_matmul
from probkernels.ops.sampled_matmul import MATMUL
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..machine import cores

DENSITIES = (0.001, 0.0058, 0.058, 0.2)  # 0.0058 and 0.058 are the paper's 5M and 50M of Stable Diffusion's weights
CPU_SIZE, GPU_SIZE = (1024, 1024, 1024), (8192, 4096, 4096)  # tokens, rows, columns


def grid(device: str) -> list[Params]:
    """CPU: float32, on one core and on all. GPU: bfloat16 and float32, where the break-even is looked for."""
    gpu = device == "cuda"
    tokens, rows, columns = GPU_SIZE if gpu else CPU_SIZE
    return [
        {
            "device": device,
            "dtype": dtype,
            "threads": threads,
            "tokens": tokens,
            "rows": rows,
            "columns": columns,
            "density": density,
        }
        for dtype in (("bfloat16", "float32") if gpu else ("float32",))
        for density in DENSITIES
        for threads in ([cores()] if gpu else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """grad_y (T, O), x (T, I), and a random selection of the weight (O, I)."""
    tokens, rows, columns = (params[name] for name in ("tokens", "rows", "columns"))
    return {
        "grad_y": torch.randn(tokens, rows).to(device, dtype),
        "x": torch.randn(tokens, columns).to(device, dtype),
        "selection": Selection.from_mask(torch.rand(rows, columns) < params["density"]).to(device),
    }


def selected(params: Params) -> int:
    """How many entries are selected, on average."""
    return round(params["rows"] * params["columns"] * params["density"])


def traffic(params: Params, mode: str) -> int:
    """Bytes that must move: both factors once, and the values."""
    size = getattr(torch, params["dtype"]).itemsize
    return size * params["tokens"] * (params["rows"] + params["columns"]) + 4 * selected(params)


def flops(params: Params, mode: str) -> int:
    """A multiplication and an addition for each token of each selected entry."""
    return 2 * params["tokens"] * selected(params)


def _ours(inputs: Inputs, params: Params) -> Task:
    def run() -> Tensor:
        return sampled_matmul(inputs["grad_y"], inputs["x"], inputs["selection"])

    return Task({"values": Run(run)}, lambda: [run()])


def _dense(inputs: Inputs, params: Params) -> Task:
    """The whole gradient, then its selected entries by an index that was made before."""
    index = inputs["selection"].to_index().long()

    def run() -> Tensor:
        return (inputs["grad_y"].t() @ inputs["x"]).view(-1).index_select(0, index)

    return Task({"values": Run(run)}, lambda: [run()])


def _sampled_addmm(inputs: Inputs, params: Params) -> Task:
    """The pattern is made before; values come in the same order."""
    mask, grad_y, x = inputs["selection"].to_mask(), inputs["grad_y"], inputs["x"]
    pattern = mask.to(grad_y.dtype).to_sparse_csr()

    def run() -> Tensor:
        return torch.sparse.sampled_addmm(pattern, grad_y.t(), x, beta=0.0)

    return Task({"values": Run(run)}, lambda: [run().values()])


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to: at the paper's density on one core."""
    params = results[0].params
    size = tuple(params[name] for name in ("tokens", "rows", "columns"))
    if (params["device"], size, params["density"], params["threads"]) != ("cpu", CPU_SIZE, 0.058, 1):
        return []
    op = f"ours_{choose(MATMUL, 'cpu', getattr(torch, params['dtype'])).name}"  # what a user gets
    verdicts = []
    for result in results:
        if (result.provider, result.status) == (op, "ok"):
            for peer, least in (("dense_gather", 6), ("sampled_addmm", 2)):
                if figure := result.faster_than.get(peer):
                    claim = f"{op}: times faster than {peer}, {size} density 0.058 threads=1"
                    verdicts.append(Verdict(claim, figure, f">= {least}", figure >= least))
    return verdicts


CASE = Case(
    name="sampled_matmul",
    modes=("values",),
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    judge=judge,
    providers=(
        Provider("ours_cpu", _ours, _dense, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _dense, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("ours_triton", _ours, _dense, kind="ours", backend="triton", devices=("cuda",)),
        Provider("dense_gather", _dense, _dense),
        Provider("sampled_addmm", _sampled_addmm, _dense),
    ),
)
