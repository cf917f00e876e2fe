"""2000 linear experts of which a tenth is on, gates shared by the batch: skipped, against all of them computed."""

from __future__ import annotations

import torch
from probkernels.nn import GatedExperts
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..grids import one_core

LEAST = 5.0
RATE = 0.1
CLASSES = 10
PARTS, ALL = "experts and read-out", "with the gater"  # each forward and backward


def grid(device: str) -> list[Params]:
    """The size of the paper's experiment."""
    return one_core(("inputs", "experts", "rows"), [(784, 2000, 256)])


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x, the gates (1, experts), the gradient, and the weights by name: a tenth of the experts is on."""
    x, layer = torch.randn(params["rows"], params["inputs"]), _layer(params, skip=False)
    with torch.no_grad():
        last = layer.gater[-1]  # type: ignore[index]
        a = layer._pre_activations(x)
        top = a.flatten().sort(descending=True).values
        on = round(RATE * a.numel())
        last.bias.sub_((top[on - 1] + top[on]) / 2)
        made = {"x": x, "gates": layer._pre_activations(x).relu(), "grad": torch.randn(params["rows"], CLASSES)}
    return {name: value.detach().to(device, dtype) for name, value in (made | dict(layer.named_parameters())).items()}


def _layer(params: Params, skip: bool) -> GatedExperts:
    return GatedExperts(params["inputs"], params["experts"], CLASSES, unit="rectifier", shared=True, skip=skip)


def _form(inputs: Inputs, params: Params, skip: bool) -> Task:
    layer = _layer(params, skip).to(inputs["x"])
    gates = inputs["gates"].clone().requires_grad_()
    named = dict(layer.named_parameters())
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(inputs[name])
    leaves = [*named.values(), gates]

    def trained(y: Tensor) -> None:
        y.backward(inputs["grad"])

    def fresh() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        return inputs["x"]

    def outputs() -> list[Tensor]:
        y = layer(fresh())
        trained(y)
        whole = [y.detach(), *(p.grad.clone() for p in named.values() if p.grad is not None)]
        trained(layer._mixed(fresh(), gates))
        open_only = gates.grad * (gates.detach() != 0)  # type: ignore[operator]  # a rectifier asks for no others
        return [*whole, open_only]

    parts = Run(lambda: trained(layer._mixed(fresh(), gates)))
    return Task({PARTS: parts, ALL: Run(lambda: trained(layer(fresh())))}, outputs)


def skipped(inputs: Inputs, params: Params) -> Task:
    """Experts that are off are not computed."""
    return _form(inputs, params, True)


def dense(inputs: Inputs, params: Params) -> Task:
    """All experts are computed and multiplied by their gates."""
    return _form(inputs, params, False)


def judge(results: list[Result]) -> list[Verdict]:
    """The figure we hold ourselves to, without the gater; with it the figure is reported."""
    found = [r for r in results if r.provider == "ours" and "dense" in r.faster_than]
    least = LEAST if results[0].mode == PARTS else 1.0
    text = f"gated experts, {results[0].mode}: times faster than dense"
    return [Verdict(text, r.faster_than["dense"], f">= {least:g}", r.faster_than["dense"] >= least) for r in found]


CASE = Case(
    name="gated_experts",
    modes=(PARTS, ALL),
    grid=grid,
    make=make,
    judge=judge,
    tests=("nn/test_gated_experts.py",),
    providers=(Provider("ours", skipped, dense, kind="ours"), Provider("dense", dense, dense)),
)
