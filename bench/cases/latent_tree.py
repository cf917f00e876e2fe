"""Likelihoods and circuit flows of an HCLT of MNIST's shape, against plain torch, SPFlow and libcirkit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from probkernels.ops import latent_tree, latent_tree_flows
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Unavailable, Verdict
from ..machine import cores
from ._latent_tree_model import edges, make

STATES = (8, 16, 32, 64, 128)
LEAST = {"spflow": 25.0, "libcirkit": 3.0}  # times faster, flows against forward and backward, on one core


def grid(device: str) -> list[Params]:
    """Every number of states on all cores and on one; about the same arithmetic a point. Last, a hub with 783 children,
    whose products need exponents for each state."""
    shape = {"device": device, "dtype": "float32", "side": 28, "categories": 256}
    points = [
        {
            **shape,
            "threads": threads,
            "states": states,
            "batch": max(128, 8192 // states * (8 if device == "cuda" else 1)),
        }
        for states in STATES
        for threads in (sorted({1, cores()}) if device == "cpu" else [cores()])
    ]
    return [*points, {**points[0], "threads": cores(), "states": 16, "batch": 512, "tree": "hub"}]


def flops(params: Params, mode: str) -> int:
    """A multiplication and an addition for each edge and image, three times for flows."""
    return 2 * edges(params) * params["batch"] * (1 if mode == "fwd" else 3)


def traffic(params: Params, mode: str) -> int:
    """Bytes that must move: codes, and what the leaves' rows hold of each image."""
    row = getattr(torch, params["dtype"]).itemsize * params["states"]
    return params["side"] ** 2 * params["batch"] * (4 + row * (1 if mode == "fwd" else 3))


def _task(forward: Callable[[], Tensor], flows: Callable[[], Sequence[Tensor]]) -> Task:
    return Task({"fwd": Run(forward), "flows": Run(flows)}, lambda: [forward(), *flows()])


def _ours(inputs: Inputs, params: Params) -> Task:
    """Our op on the forced backend, or by default on the backend that users get."""
    weights, log_leaves, codes, tree = (inputs[name] for name in ("weights", "log_leaves", "codes", "tree"))
    leaves = log_leaves.exp()

    def forward() -> Tensor:
        return latent_tree(codes, weights, log_leaves, tree)

    return _task(forward, lambda: latent_tree_flows(codes, weights, leaves, tree))


def _likelihoods(inputs: Inputs, params: Params) -> Task:
    return Task({}, lambda: [latent_tree(*(inputs[name] for name in ("codes", "weights", "log_leaves", "tree")))])


def _nothing(inputs: Inputs, params: Params) -> Task:
    """The oracle of another model."""
    return Task({}, list)


def _trained(forward: Callable[[], Tensor], parameters: Sequence[Tensor], *, same_model: bool = True) -> Task:
    """A module of autograd's: its gradient in place of flows."""

    def backward() -> None:
        torch.autograd.grad(forward().sum(), parameters)

    def without_gradient() -> Tensor:
        with torch.no_grad():
            return forward()

    return Task(
        {"fwd": Run(without_gradient), "flows": Run(backward)}, lambda: [without_gradient()] if same_model else []
    )


def _spflow(inputs: Inputs, params: Params) -> Task:
    """SPFlow's modules on the same tree with the same parameters."""
    from spflow.meta import Scope
    from spflow.modules.leaves import Categorical
    from spflow.modules.products import ElementwiseProduct
    from spflow.modules.sums import Sum

    rows, weights = inputs["tree"], inputs["weights"].cpu()
    leaves = inputs["log_leaves"].exp().cpu()
    below: list[list[Any]] = [[] for _ in rows]
    for n, (parent, states, variable, weights_at, leaves_at, categories, _) in reversed(list(enumerate(rows))):
        table = leaves[leaves_at : leaves_at + categories * states].view(categories, states)
        node: Any = Categorical(scope=Scope([variable]), probs=table.t().reshape(1, states, 1, categories).contiguous())
        if below[n]:
            node = ElementwiseProduct(inputs=[node, *below[n]])
        if weights_at >= 0:
            above = rows[parent][1] if n else 1
            matrix = weights[weights_at : weights_at + above * states].view(above, states)
            node = Sum(inputs=node, weights=matrix.t().reshape(1, states, above, 1).contiguous())
        if n:
            below[parent].append(node)
    data = inputs["codes"].t().to(inputs["weights"].dtype).contiguous()
    module = node.to(data.device)
    return _trained(lambda: module.log_likelihood(data).flatten(), list(module.parameters()))


def _cirkit_circuit(inputs: Inputs, params: Params) -> Task:
    """libcirkit's tree of quadrants over as many variables with as many units; its parameters are its own."""
    from cirkit.pipeline import PipelineContext
    from cirkit.templates import data_modalities

    side, states = params["side"], params["states"]
    if params["categories"] != 256:
        raise Unavailable("its template for images has 256 categories")
    torch.manual_seed(0)
    symbolic = data_modalities.image_data(
        (1, side, side),
        region_graph="quad-tree-4",
        input_layer="categorical",
        num_input_units=states,
        sum_product_layer="cp",
        num_sum_units=states,
    )
    circuit = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True).compile(symbolic)
    module, data = circuit.to(inputs["weights"]), inputs["codes"].t().long().contiguous()
    return _trained(lambda: module(data).flatten(), list(module.parameters()), same_model=False)


def judge(results: list[Result]) -> list[Verdict]:
    """The claims about our speed: 16 states on one core."""
    params = results[0].params
    if (params["device"], params["states"], params["threads"]) != ("cpu", 16, 1) or "tree" in params:
        return []
    verdicts = []
    for result in results:
        if (result.provider, result.mode, result.status) == ("ours_cpu", "flows", "ok"):
            for peer, least in LEAST.items():
                if figure := result.faster_than.get(peer):
                    claim = f"ours_cpu: times faster than {peer}, forward and backward, 16 states, threads=1"
                    verdicts.append(Verdict(claim, figure, f">= {least}", figure >= least))
    return verdicts


CASE = Case(
    name="latent_tree",
    modes=("fwd", "flows"),
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    judge=judge,
    providers=(
        Provider("ours_cpu", _ours, _ours, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _ours, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch_reference", _ours, _ours, backend="reference"),
        Provider("spflow", _spflow, _likelihoods),
        Provider("libcirkit", _cirkit_circuit, _nothing),
    ),
)
