"""Attention over a set against torch's attention with the dense mask, and queries from a cache against a whole pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.amortized import ContextCache, set_attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..case import TRAINED, Case, Inputs, Params, Prepare, Provider, Result, Run, Task, Verdict, differentiable
from ..claims import times_faster
from ..grids import one_core

NAMES = ("batch", "heads", "contexts", "queries", "d")
JUDGED, FEW = (1, 4, 1000, 1000, 32), (1, 4, 1000, 10, 32)  # as many queries as contexts; a few late queries
SIZES = [JUDGED, FEW, (1, 4, 1000, 1000, 128), (4, 4, 200, 2000, 32)]
QUERY = "query"  # outputs of the queries alone, of contexts that were seen before
AIMS = {(JUDGED, "fwd"): ("dense_mask", 2.2), (JUDGED, "fwd+bwd"): ("dense_mask", 2.0), (FEW, QUERY): ("no_cache", 5.0)}
LEAVES = ("query", "key", "value")


def grid(device: str) -> list[Params]:
    """Every size on one core."""
    return one_core(NAMES, SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Leaves query, key and value (B, H, n + m, d), and the gradient of the output."""
    batch, heads, contexts, queries, d = (params[name] for name in NAMES)
    found = {name: torch.randn(batch, heads, contexts + queries, d).to(device, dtype) for name in (*LEAVES, "grad_y")}
    return {name: x.requires_grad_(name in LEAVES) for name, x in found.items()}


def flops(params: Params, mode: str) -> int:
    """Two products for each pair that is seen; the backward has five."""
    batch, heads, n, m, d = (params[name] for name in NAMES)
    pairs = m * (n + 1) + (0 if mode == QUERY else n * n)
    return 2 * batch * heads * pairs * d * {"fwd": 2, "bwd": 5, "fwd+bwd": 7, QUERY: 2}[mode]


def task(forward: Callable[[Inputs, int], Tensor], late: Callable[[Inputs, int], Callable[[], Tensor]]) -> Prepare:
    """The Task of attention over a set, and of its queries alone."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        n = params["contexts"]
        trained = differentiable(lambda: forward(inputs, n), [inputs[name] for name in LEAVES], inputs["grad_y"])
        with torch.no_grad():
            queries = late({name: inputs[name].detach() for name in LEAVES}, n)
        modes = {**trained.modes, QUERY: Run(queries)}
        return Task(modes, lambda: [*trained.outputs(), queries()])

    return prepare


def ours(inputs: Inputs, n: int) -> Tensor:
    """One call for contexts and queries."""
    return set_attention(inputs["query"], inputs["key"], inputs["value"], n)


def dense(inputs: Inputs, n: int) -> Tensor:
    """The mask is made once a call, as a model without padding would."""
    total = inputs["query"].shape[2]
    seen = torch.arange(total, device=inputs["query"].device)
    mask = (seen < n) | (seen == seen[:, None])
    return scaled_dot_product_attention(inputs["query"], inputs["key"], inputs["value"], attn_mask=mask)


def cached(inputs: Inputs, n: int) -> Callable[[], Tensor]:
    """Queries after the cache is made."""
    cache = ContextCache((inputs["key"][:, :, :n],), (inputs["value"][:, :, :n],))
    late = [inputs[name][:, :, n:] for name in LEAVES]
    return lambda: cache.attend(0, *late)


def whole(forward: Callable[[Inputs, int], Tensor]) -> Callable[[Inputs, int], Callable[[], Tensor]]:
    """Queries from a pass of contexts and queries."""
    return lambda inputs, n: lambda: forward(inputs, n)[:, :, n:]


def again(inputs: Inputs, params: Params) -> Task:
    """Queries by a pass of ours, of contexts and queries."""
    whole_pass = task(ours, whole(ours))(inputs, params)
    return Task({QUERY: whole_pass.modes[QUERY]}, whole_pass.outputs)


def judge(results: list[Result]) -> list[Verdict]:
    """The speed we hold ourselves to, on one core."""
    params = results[0].params
    size = tuple(params[name] for name in NAMES)
    found = []
    for (judged, mode), (peer, least) in AIMS.items():
        if size == judged and params["threads"] == 1:
            mine = [r for r in results if r.mode == mode]
            found += times_faster(mine, peer, least, f"{mode} {size}")
    return found


ORACLE = task(dense, whole(dense))
CASE = Case(
    name="set_attention",
    modes=(*TRAINED, QUERY),
    grid=grid,
    make=make,
    flops=flops,
    judge=judge,
    tests=("amortized/test_set_attention.py",),
    providers=(
        Provider("ours", task(ours, cached), ORACLE, kind="ours"),
        Provider("no_cache", again, ORACLE, modes=(QUERY,)),
        Provider("dense_mask", ORACLE, ORACLE),
    ),
)
