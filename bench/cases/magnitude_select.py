"""Selecting the smallest weights by a threshold, and finding the threshold for a share of them, against torch."""

from __future__ import annotations

import torch
from probkernels.ops import Selection, magnitude_kth, magnitude_select
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..machine import cores

SIDE, DEVIATION = 2048, 0.0274
THRESHOLD = 2**-9  # 5.7 % of normal weights of that deviation; a number of every dtype
LEAST = {"select": ("torch_nonzero", 1.5), "kth": ("torch_kthvalue", 3.0)}  # times faster


def grid(device: str) -> list[Params]:
    """float32 and bfloat16, on one core and on all."""
    return [
        {"device": device, "dtype": dtype, "threads": threads, "side": SIDE}
        for dtype in ("float32", "bfloat16")
        for threads in sorted({1, cores()})
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """w (side, side), normal."""
    return {"w": (DEVIATION * torch.randn(params["side"], params["side"])).to(device, dtype)}


def traffic(params: Params, mode: str) -> int:
    """Reading the weight: once to select, twice to find a threshold."""
    passes = {"select": 1, "kth": 2}[mode]
    return passes * params["side"] ** 2 * getattr(torch, params["dtype"]).itemsize


def _ours(inputs: Inputs, params: Params) -> Task:
    w = inputs["w"]

    def select() -> Selection:
        return magnitude_select(w, THRESHOLD)

    def kth() -> float:
        return magnitude_kth([w], _rank(w))

    modes = {"select": Run(select), "kth": Run(kth)}
    return Task(modes, lambda: [select().to_index(), torch.tensor(kth(), device=w.device)])


# --- torch. The selection is wanted as positions, or as a mask with its size known. ---


def _rank(w: Tensor) -> int:
    return w.numel() // 20


def _nonzero(inputs: Inputs, params: Params) -> Task:
    w = inputs["w"]

    def select() -> Tensor:
        return (w.abs() < THRESHOLD).view(-1).nonzero()[:, 0]

    return Task({"select": Run(select)}, lambda: [select()])


def _mask(inputs: Inputs, params: Params) -> Task:
    """The official code's mask: one byte per weight."""
    w = inputs["w"]

    def select() -> tuple[Tensor, int]:
        mask = w.abs() < THRESHOLD
        return mask, int(mask.sum())

    return Task({"select": Run(select)}, lambda: [select()[0].view(-1).nonzero()[:, 0]])


def _kthvalue(inputs: Inputs, params: Params) -> Task:
    w = inputs["w"]

    def kth() -> Tensor:
        return w.abs().view(-1).kthvalue(_rank(w)).values

    return Task({"kth": Run(kth)}, lambda: [kth()])


def _topk(inputs: Inputs, params: Params) -> Task:
    w = inputs["w"]

    def kth() -> Tensor:
        return w.abs().view(-1).topk(_rank(w), largest=False, sorted=False).values.max()

    return Task({"kth": Run(kth)}, lambda: [kth()])


def _both(inputs: Inputs, params: Params) -> Task:
    """The oracle of our op."""
    return Task({}, lambda: [*_nonzero(inputs, params).outputs(), *_kthvalue(inputs, params).outputs()])


def judge(results: list[Result]) -> list[Verdict]:
    """The claim: how many times faster than torch."""
    where = f"{results[0].params['dtype']} threads={results[0].params['threads']}"
    verdicts = []
    for r in results:
        peer, least = LEAST.get(r.mode, ("", 0.0))
        figure = r.faster_than.get(peer)
        if r.kind == "ours" and figure is not None:
            claim = f"{r.provider} {r.mode}: times faster than {peer}, {where}"
            verdicts.append(Verdict(claim, figure, f">= {least}", figure >= least))
    return verdicts


CASE = Case(
    name="magnitude_select",
    modes=("select", "kth"),
    grid=grid,
    make=make,
    bytes=traffic,
    judge=judge,
    providers=(
        Provider("ours", _ours, _both, kind="ours"),
        Provider("torch_nonzero", _nonzero, _nonzero, modes=("select",)),
        Provider("torch_mask", _mask, _nonzero, modes=("select",)),
        Provider("torch_kthvalue", _kthvalue, _kthvalue, modes=("kth",)),
        Provider("torch_topk", _topk, _kthvalue, modes=("kth",)),
    ),
)
