"""Log-densities of histograms, the loss of prior-fitted networks, against torch's ways to write it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels._core.backend import choose
from probkernels.ops import bar_log_prob
from probkernels.ops.bar_log_prob import FWD, bars_of, log_density_in_bar
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..case import TRAINED, Case, Inputs, Params, Provider, Result, Task, Verdict, differentiable
from ..grids import points

JUDGED = (4096, 1000)
SIZES = [JUDGED, (65_536, 100), (1024, 10_000)]  # rows, bars: few bars, and the most that are used
AIMS = {"torch_log_softmax": 3.0, "torch_cross_entropy": 1.5, "torch_compile": 1.3}  # times faster than these
MODE = "fwd+bwd"


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("rows", "bars"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Logits (N, K), targets (N) with some in the tails, borders (K + 1), and the gradient of the result."""
    rows, bars = params["rows"], params["bars"]
    return {
        "logits": torch.randn(rows, bars).to(device, dtype).requires_grad_(),
        "y": torch.randn(rows).to(device, dtype),
        "borders": torch.linspace(-2, 2, bars + 1).to(device, dtype),
        "grad": torch.randn(rows).to(device, dtype),
    }


def traffic(params: Params, mode: str) -> int:
    """Forward: logits once. Backward: logits and their gradient once."""
    numbers = params["rows"] * params["bars"]
    return getattr(torch, params["dtype"]).itemsize * numbers * {"fwd": 1, "bwd": 2, "fwd+bwd": 3}[mode]


def flops(params: Params, mode: str) -> int:
    """An exponential and a sum each way."""
    return 2 * params["rows"] * params["bars"] * {"fwd": 1, "bwd": 1, "fwd+bwd": 2}[mode]


def by_log_softmax(logits: Tensor, y: Tensor, borders: Tensor) -> Tensor:
    """As it is published: log-densities of all bars, of which one is gathered; then the tails."""
    index = bars_of(y, borders)
    width = borders.diff()
    picked = (logits.log_softmax(1) - width.log()).gather(1, index[:, None])[:, 0]
    return picked + log_density_in_bar(y, index, borders, "half_normal") + width[index].log()


def by_cross_entropy(logits: Tensor, y: Tensor, borders: Tensor) -> Tensor:
    """The softmax in torch's fused loss."""
    index = bars_of(y, borders)
    return log_density_in_bar(y, index, borders, "half_normal") - cross_entropy(logits, index, reduction="none")


def task(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of logits, targets and borders."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        logits, y, borders = (inputs[name] for name in ("logits", "y", "borders"))
        return differentiable(lambda: function(logits, y, borders), [logits], inputs["grad"])

    return prepare


def compiled(inputs: Inputs, params: Params) -> Task:
    """The published form under torch.compile."""
    return task(torch.compile(by_log_softmax, dynamic=False))(inputs, params)


def judge(results: list[Result]) -> list[Verdict]:
    """The speed we hold ourselves to, on one core."""
    params = results[0].params
    if (params["device"], (params["rows"], params["bars"]), params["threads"]) != ("cpu", JUDGED, 1):
        return []
    op = f"ours_{choose(FWD, 'cpu', getattr(torch, params['dtype'])).name}"  # what a user gets
    found = []
    for result in results:
        if (result.provider, result.mode, result.status) != (op, MODE, "ok"):
            continue
        for peer, aim in AIMS.items():
            if (figure := result.faster_than.get(peer)) is not None:
                claim = f"{op}: times faster than {peer}, {JUDGED} threads=1"
                found.append(Verdict(claim, figure, f">= {aim:g}", figure >= aim))
    return found


ours, oracle = task(bar_log_prob), task(by_log_softmax)

CASE = Case(
    name="bar_log_prob",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    judge=judge,
    providers=(
        Provider("ours_cpu", ours, oracle, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_triton", ours, oracle, kind="ours", backend="triton", devices=("cuda",)),
        Provider("torch_log_softmax", oracle, oracle),
        Provider("torch_cross_entropy", task(by_cross_entropy), oracle),
        Provider("torch_compile", compiled, oracle),
    ),
)
