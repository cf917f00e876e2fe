"""A whole training step of a transformer block: SaRA beside training every weight, forward and backward included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from probkernels.ops import magnitude_kth
from probkernels.optim import SaRAAdamW
from torch import Tensor, nn

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict, of_op
from ..machine import cores

DENSITY = 0.058  # the paper's 50M of 860M weights
RULE = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-3, "weight_decay": 1e-2}  # a step of rounding error is none
LEAST = 1.2  # times faster than training every weight


def grid(device: str) -> list[Params]:
    """One width, on one core and on all; 512 and 2048 tokens a step."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "width": 512, "batch": batch, "tokens": 128}
        for batch in (4, 16)
        for threads in sorted({1, cores()})
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x, grad_y (B, T, C), and the block's weights by name."""
    x, grad_y = (torch.randn(params["batch"], params["tokens"], params["width"]).to(device, dtype) for _ in range(2))
    weights = {name: p.detach().to(device, dtype) for name, p in _block(params["width"]).named_parameters()}
    for name, value in weights.items():
        if name.endswith("bias"):  # a bias of zero would move by rounding error alone where its gradient vanishes
            value.normal_(std=0.02)
    return {"x": x, "grad_y": grad_y, **weights}


def _block(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(width, nhead=8, dim_feedforward=4 * width, dropout=0.0, batch_first=True)


def _loaded(inputs: Inputs, params: Params) -> nn.Module:
    block = _block(params["width"]).to(inputs["x"])
    block.load_state_dict({name: value for name, value in inputs.items() if name not in ("x", "grad_y")})
    return block


def _threshold(block: nn.Module) -> float:
    weights = [p.detach() for p in block.parameters()]
    return magnitude_kth(weights, int(DENSITY * sum(w.numel() for w in weights)))


def _task(inputs: Inputs, block: nn.Module, optimizer: Any, trained: Callable[[], list[Tensor]]) -> Task:
    def step() -> None:
        optimizer.zero_grad()
        block(inputs["x"]).backward(inputs["grad_y"])
        optimizer.step()

    def outputs() -> list[Tensor]:
        step()
        return [value.detach().clone() for value in trained()]

    return Task({"step": Run(step)}, outputs)


def _ours(inputs: Inputs, params: Params) -> Task:
    block = _loaded(inputs, params)
    optimizer = SaRAAdamW(block, threshold=_threshold(block), **RULE)
    return _task(inputs, block, optimizer, lambda: list(block.state_dict().values()))


def _full(inputs: Inputs, params: Params) -> Task:
    block = _loaded(inputs, params)
    optimizer = torch.optim.AdamW(block.parameters(), fused=True, **RULE)
    return _task(inputs, block, optimizer, lambda: list(block.parameters()))


def _masked(inputs: Inputs, params: Params) -> Task:
    """Every weight trained, and those that are not selected put back."""
    block = _loaded(inputs, params)
    limit = _threshold(block)
    before = [p.detach().clone() for p in block.parameters()]
    optimizer = torch.optim.AdamW(block.parameters(), **RULE)

    def trained() -> list[Tensor]:
        return [torch.where(b.abs() < limit, p, b) for p, b in zip(block.parameters(), before, strict=True)]

    return _task(inputs, block, optimizer, trained)


def judge(results: list[Result]) -> list[Verdict]:
    """Against training every weight."""
    params = results[0].params
    where = f"{params['batch'] * params['tokens']} tokens, threads {params['threads']}"
    return [
        Verdict(f"SaRA step: times faster than every weight, {where}", r.faster_than["full_adamw"], f">= {LEAST}",
                r.faster_than["full_adamw"] >= LEAST)
        for r in results
        if r.provider == "ours" and "full_adamw" in r.faster_than
    ]  # fmt: skip


CASE = Case(
    name="sara_step",
    modes=("step",),
    tests=tuple(map(of_op, ("magnitude_select", "selection", "sparse_adamw"))),
    grid=grid,
    make=make,
    judge=judge,
    providers=(Provider("ours", _ours, _masked, kind="ours"), Provider("full_adamw", _full, _full)),
)
