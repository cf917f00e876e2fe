"""The gradients of counter-current learning: the closed form beside autograd's."""

from __future__ import annotations

import itertools

import torch
from probkernels.local_learning import CounterCurrent
from torch import Tensor, nn

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict

SHAPES = {  # widths, rows, and how many times faster than autograd's form the closed form should be
    "digits": ((64, 128, 128, 128, 128, 10), 128, 1.35),
    "mnist": ((784, 256, 256, 256, 256, 256, 10), 256, 1.1),
}


def grid(device: str) -> list[Params]:
    """The networks of the paper's experiments on one thread."""
    return [{"device": device, "dtype": "float32", "threads": 1, "network": network} for network in SHAPES]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x, y, and the weights of both networks by name."""
    widths, rows, _ = SHAPES[params["network"]]
    x, y = torch.randn(rows, widths[0]).to(device, dtype), torch.randint(widths[-1], (rows,)).to(device)
    return {"x": x, "y": y, **{name: p.detach().to(device, dtype) for name, p in _model(widths).named_parameters()}}


def _model(widths: tuple[int, ...]) -> CounterCurrent:
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m, bias=False), nn.ELU()]
    return CounterCurrent(nn.Sequential(*layers[:-1]))


def _form(form: str, inputs: Inputs, params: Params) -> Task:
    model = _model(SHAPES[params["network"]][0]).to(inputs["x"])
    model.load_state_dict({name: value for name, value in inputs.items() if name not in ("x", "y")})

    def step() -> None:
        model.gradients(inputs["x"], inputs["y"], form=form)

    def outputs() -> list[Tensor]:
        step()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    return Task({"gradients": Run(step)}, outputs)


def _closed(inputs: Inputs, params: Params) -> Task:
    return _form("closed", inputs, params)


def _autograd(inputs: Inputs, params: Params) -> Task:
    return _form("autograd", inputs, params)


def judge(results: list[Result]) -> list[Verdict]:
    """Against the gradients of autograd."""
    network = results[0].params["network"]
    least = SHAPES[network][2]
    text = f"counter-current: closed form times faster than autograd's, {network}"
    gains = [r.faster_than["autograd"] for r in results if r.provider == "ours" and "autograd" in r.faster_than]
    return [Verdict(text, gain, f">= {least}", gain >= least) for gain in gains]


CASE = Case(
    name="counter_current",
    modes=("gradients",),
    tests=("local_learning/test_counter_current.py",),
    grid=grid,
    make=make,
    judge=judge,
    providers=(Provider("ours", _closed, _autograd, kind="ours"), Provider("autograd", _autograd, _autograd)),
)
