"""NNGP and NTK of a convolutional network, against the recursion in torch over the maps of all pairs of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.ops import conv_arc_cosine, conv_arc_cosine_diagonal
from probkernels.reference import conv_arc_cosine as reference
from torch import Tensor

from ..case import TRAINED, Case, Inputs, Params, Provider, Run, Task
from ..grids import points

SIZES = [(64, 16, 3), (32, 28, 4)]  # images, height and width, layers
NAMES = ("x", "z", "x_lengths", "z_lengths", "weights", "biases")


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("images", "size", "layers"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Images of 3 channels, their lengths, and variances of all layers."""
    x, z = torch.randn(2, params["images"], 3, params["size"], params["size"], dtype=torch.float64)
    weights, biases = torch.full((params["layers"] + 1,), 1.96), torch.full((params["layers"] + 1,), 0.09)
    lengths = [conv_arc_cosine_diagonal(t, weights=weights, biases=biases)[0] for t in (x, z)]
    tensors = zip(NAMES, (x, z, *lengths, weights, biases), strict=True)
    inputs = {name: t.to(device, dtype).requires_grad_() for name, t in tensors}
    return {**inputs, "grad_y": torch.randn(2, params["images"], params["images"]).to(device, dtype)}


def traffic(params: Params, mode: str) -> int:
    """Forward: images and lengths in, two matrices out. Backward: all of them in, gradients of the first out."""
    pixels = params["images"] * params["size"] ** 2 * (3 + params["layers"])
    matrices = params["images"] ** 2
    forward, backward = pixels + matrices, 2 * pixels + matrices
    total = {"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[mode]
    return int(getattr(torch, params["dtype"]).itemsize * 2 * total)


def ours(x: Tensor, z: Tensor, of_x: Tensor, of_z: Tensor, weights: Tensor, biases: Tensor) -> tuple[Tensor, ...]:
    """The op."""
    nngp, ntk = conv_arc_cosine(x, z, of_x, of_z, weights=weights, biases=biases)
    assert ntk is not None
    return nngp, ntk


def written(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Layer by layer."""
    x, z, of_x, of_z, weights, biases = tensors
    return reference.conv_arc_cosine(x, z, of_x, of_z, weights, biases, 0, True)


def task(function: Callable[..., tuple[Tensor, ...]]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of the inputs."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        leaves = [inputs[name] for name in NAMES]

        def fresh() -> tuple[Tensor, ...]:
            for leaf in leaves:
                leaf.grad = None
            return function(*leaves)

        def backward(kernels: tuple[Tensor, ...]) -> None:
            torch.autograd.backward(kernels, list(inputs["grad_y"]))

        def outputs() -> list[Tensor]:
            kernels = fresh()
            backward(kernels)
            return [*(t.detach() for t in kernels), *(leaf.grad for leaf in leaves)]

        runs = (Run(fresh), Run(backward, setup=fresh), Run(lambda: backward(fresh())))
        return Task(dict(zip(TRAINED, runs, strict=True)), outputs)

    return prepare


by_torch = task(written)

CASE = Case(
    name="conv_arc_cosine",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    providers=(
        Provider("ours_cpu", task(ours), by_torch, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", task(ours), by_torch, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch_eager", by_torch, by_torch),
    ),
)
