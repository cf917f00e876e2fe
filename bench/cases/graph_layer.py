"""The first layer of a graph network on sparse features: A (X W) as the library computes it, against dense (A X) W."""

from __future__ import annotations

import torch
from probkernels.local_learning import GCN, Graph
from probkernels.local_learning.graph import as_features
from torch import Tensor
from torch.nn.functional import linear

from ..case import TRAINED, Case, Inputs, Params, Provider, Result, Task, Verdict, differentiable
from ..claims import times_faster
from ..grids import one_core

LEAST = 5.0
DENSITY = 0.018  # of the features
CORAML = (2995, 2879, 8158, 128)  # made-up data of its size


def grid(device: str) -> list[Params]:
    """A layer of 128 outputs on a graph of CoraML's size."""
    return one_core(("nodes", "features", "edges", "outputs"), [CORAML])


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Features of which few are not zero, edges in both directions, the layer's parameters, and a gradient."""
    nodes, features, edges, outputs = (params[name] for name in ("nodes", "features", "edges", "outputs"))
    x = (torch.rand(nodes, features) < DENSITY).float()
    ends = torch.randint(nodes, (2, edges))
    made = {"x": x / (x.norm(dim=1, keepdim=True) + 1e-8), "grad": torch.randn(nodes, outputs)}
    leaves = {"weight": torch.randn(outputs, features) / features**0.5, "bias": torch.zeros(outputs)}
    return {
        "edges": torch.cat([ends, ends.flip(0)], 1).to(device),
        **{name: value.to(device, dtype) for name, value in made.items()},
        **{name: value.to(device, dtype).requires_grad_() for name, value in leaves.items()},
    }


def ours(inputs: Inputs, params: Params) -> Task:
    """The library's layer on sparse features."""
    x, graph = as_features(inputs["x"].to_sparse()), Graph(inputs["edges"], params["nodes"])
    layer = GCN(params["features"], params["outputs"]).to(inputs["x"])
    layer.weight, layer.bias = (torch.nn.Parameter(inputs[name].detach()) for name in ("weight", "bias"))
    return differentiable(lambda: layer(x, graph), [layer.weight, layer.bias], inputs["grad"])


def dense(inputs: Inputs, params: Params) -> Task:
    """(A X) W with dense features: a sparse product as wide as the features, then a dense one."""
    a = _matrix(inputs, params)
    leaves = [inputs["weight"], inputs["bias"]]
    return differentiable(lambda: linear(a @ inputs["x"], *leaves), leaves, inputs["grad"])


def cached(inputs: Inputs, params: Params) -> Task:
    """The same with A X computed once for all steps."""
    product = _matrix(inputs, params) @ inputs["x"]
    leaves = [inputs["weight"], inputs["bias"]]
    return differentiable(lambda: linear(product, *leaves), leaves, inputs["grad"])


def _matrix(inputs: Inputs, params: Params) -> Tensor:
    return Graph(inputs["edges"], params["nodes"]).gcn(inputs["x"].dtype).forward


def judge(results: list[Result]) -> list[Verdict]:
    """The figure we hold ourselves to: a training step."""
    return times_faster(results, "dense", LEAST, "CoraML's size") if results[0].mode == TRAINED[-1] else []


CASE = Case(
    name="graph_layer",
    modes=TRAINED,
    grid=grid,
    make=make,
    judge=judge,
    tests=("local_learning/test_forward_gnn.py",),
    providers=(
        Provider("ours", ours, dense, kind="ours"), Provider("dense", dense, dense), Provider("cached", cached, dense)
    ),
)  # fmt: skip
