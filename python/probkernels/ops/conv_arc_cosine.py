"""Kernels of infinitely wide convolutional networks, all layers of a tile of image pairs in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import backend, checks
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import conv_arc_cosine as reference
from ..reference.arc_cosine import safe_inverse
from .arc_cosine import ACTIVATIONS, DTYPES, variances_of_layers

__all__ = ["conv_arc_cosine", "conv_arc_cosine_diagonal"]

GROUPS = {"cpu": 8, "cuda": 32}  # the most groups of images in sums of the backward: a task takes a pair of groups
COLUMNS = {"cpu": 16, "cuda": 1}  # images of z that go together: kLanes of csrc/include/pk/vec.h

# --- kernels ---


def _given(run: backend.Backend, *tensors: Tensor) -> list[Tensor]:
    """What both kernels read."""
    x, z, left, right, weights, biases = tensors
    others = [z, right, safe_inverse(right)]
    if run.kind == "cpu":  # images side by side
        others = [t.permute(1, 2, 3, 0) for t in others]
    return [t.contiguous() for t in (x, others[0], left, safe_inverse(left), *others[1:], weights, biases)]


def _kernel(run: backend.Backend, *args: Any) -> tuple[Tensor, Tensor]:
    *tensors, activation, ntk = args
    x, z, weights = tensors[0], tensors[1], tensors[4]
    nngp, tangent = _fake(*args)
    sizes = (len(x), len(z), *x.shape[1:], len(weights) - 1, activation, ntk)
    run.launch("conv_arc_cosine", DTYPE_CODE[x.dtype], *_given(run, *tensors), nngp, tangent, *sizes)
    return nngp, tangent


def _bwd_kernel(run: backend.Backend, *args: Any) -> tuple[Tensor, ...]:
    *tensors, grad_nngp, grad_ntk, activation, ntk = args
    given = _given(run, *tensors)
    x, z, weights = tensors[0], tensors[1], tensors[4]
    down = min(len(x), GROUPS[run.kind])
    across = min(-(-len(z) // COLUMNS[run.kind]), GROUPS[run.kind])
    of_x, of_left = (given[k].new_zeros(across, *given[k].shape) for k in (0, 2))
    of_z, of_right = (given[k].new_zeros(down, *given[k].shape) for k in (1, 4))
    of_layers = x.new_zeros(down * across, 2, len(weights), dtype=torch.float64)
    sums = (of_x, of_z, of_left, of_right, of_layers)
    sizes = (len(x), len(z), *x.shape[1:], len(weights) - 1, activation, ntk, down, across)
    grads = grad_nngp.contiguous(), grad_ntk.contiguous()
    run.launch("conv_arc_cosine_bwd", DTYPE_CODE[x.dtype], *given, *grads, *sums, *sizes)
    columns = [t.sum(0) for t in (of_z, of_right)]
    if run.kind == "cpu":
        columns = [t.permute(3, 0, 1, 2).contiguous() for t in columns]
    of_weights, of_biases = of_layers.sum(0).to(x.dtype).unbind()
    return of_x.sum(0), columns[0], of_left.sum(0), columns[1], of_weights.clone(), of_biases.clone()


# --- the ops ---


def _fake(x: Tensor, z: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    shape = x.shape[0], z.shape[0]
    return x.new_empty(shape), x.new_empty(shape if args[-1] else (0,))


def _fake_bwd(*args: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in args[:6])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.activation, ctx.ntk = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_nngp: Tensor, grad_ntk: Tensor) -> tuple[Tensor | None, ...]:
    given = (*ctx.saved_tensors, grad_nngp, grad_ntk, ctx.activation, ctx.ntk)
    return *BWD.call(*given), None, None


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Each activation; with the tangent kernel and without."""
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(n, 2, 3, 4, generator=generator, dtype=torch.float64) for n in (3, 5))
    weights, biases = torch.tensor([1.5, 0.8, 2.0]).double(), torch.tensor([0.1, 0.2, 0.0]).double()
    found = []
    for activation, ntk in ((0, False), (1, True)):
        left, right = (reference.diagonals(t, weights, biases, activation)[0] for t in (x, z))
        tensors = (t.to(device, dtype) for t in (x, z, left, right, weights, biases))
        found.append((*tensors, activation, ntk))
    return found


def _backward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for *tensors, activation, ntk in _examples(device, dtype):
        shape = len(tensors[0]), len(tensors[1])
        grads = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape, shape if ntk else (0,))]
        found.append((*tensors, *(g.to(device, dtype) for g in grads), activation, ntk))
    return found


BWD = Op(
    "conv_arc_cosine_bwd",
    "(Tensor x, Tensor z, Tensor left, Tensor right, Tensor weights, Tensor biases, Tensor grad_nngp, "
    "Tensor grad_ntk, int activation, bool ntk) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    family="conv_arc_cosine",
    reference=reference.conv_arc_cosine_bwd,
    kernels=dict.fromkeys(("cpu", "cuda"), _bwd_kernel),
    fake=_fake_bwd,
    examples=_backward_examples,
    dtypes=DTYPES,
)

FWD = Op(
    "conv_arc_cosine",
    "(Tensor x, Tensor z, Tensor left, Tensor right, Tensor weights, Tensor biases, int activation, bool ntk) "
    "-> (Tensor, Tensor)",
    reference=reference.conv_arc_cosine,
    kernels=dict.fromkeys(("cpu", "cuda"), _kernel),
    fake=_fake,
    setup=_setup,
    backward=_backward,
    examples=_examples,
    dtypes=DTYPES,
)

# --- the public functions ---


def conv_arc_cosine(
    x: Tensor,
    z: Tensor,
    x_lengths: Tensor,
    z_lengths: Tensor,
    *,
    weights: Sequence[float] | Tensor,
    biases: Sequence[float] | Tensor | None = None,
    activation: str = "relu",
    ntk: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The kernels of an infinitely wide convolutional network, between all pairs of images.

    The network is L times "3 x 3 convolution with zeros around the image, activation", then a dense layer on all pixels
    (flattened). Each pixel of an image meets the same pixel of the other: a map (H, W) for each pair of images, which
    stays in cache. Where both images are the same, take the diagonals of :func:`conv_arc_cosine_diagonal`: angles from
    rounded cosines are off by up to sqrt(eps).

    Args:
        x: (M, C, H, W) images, float32 or float64.
        z: (N, C, H, W) images.
        x_lengths: (M, L, H, W), from :func:`conv_arc_cosine_diagonal`. For global average pooling, give crops of images
            and of their lengths: a window of x against a shifted one of z.
        z_lengths: (N, L, H, W), likewise.
        weights: (L + 1,) variances of weights: of the L convolutions and of the dense layer.
        biases: (L + 1,) variances of biases. None: no biases.
        activation: ``"relu"`` or ``"erf"``.
        ntk: whether to compute the NTK.

    Returns:
        The NNGP and the NTK (None without ``ntk``), both (M, N). Differentiable with respect to all tensors. The
        backward repeats the forward pair by pair; its memory grows with M + N and not with M N.

    Raises:
        TypeError, ValueError: a dtype, shape, device or number is wrong.

    Backends: C++ (CPU), CUDA, plain torch. Deterministic.

    Reference: Novak et al., "Bayesian Deep Convolutional Networks with Many Channels are Gaussian Processes", ICLR
    2019.

    Example:
        >>> import torch, probkernels as pk
        >>> x, net = torch.eye(2).reshape(2, 1, 1, 2), {"weights": [9.0, 2.0]}
        >>> lengths, nngp, ntk = pk.ops.conv_arc_cosine_diagonal(x, **net)
        >>> pk.ops.conv_arc_cosine(x[:1], x[1:], lengths[:1], lengths[1:], **net, ntk=False)
        (tensor([[0.3183]]), None)
    """
    op = "conv_arc_cosine"
    _check_images(op, "x", x)
    _check_images(op, "z", z, x)
    *net, code = _layers(op, weights, biases, activation, x)
    for name, value, images in (("x_lengths", x_lengths, x), ("z_lengths", z_lengths, z)):
        checks.wide_float_tensor(op, name, value)
        expected = (len(images), len(net[0]) - 1, *images.shape[2:])
        if tuple(value.shape) != expected or (value.dtype, value.device) != (x.dtype, x.device):
            wanted = f"shape {expected}, {x.dtype}, on {x.device}"
            raise ValueError(message(op, name, wanted, checks.describe(value), "see conv_arc_cosine_diagonal"))
    nngp, tangent = FWD.call(x, z, x_lengths, z_lengths, *net, code, ntk)
    return nngp, tangent if ntk else None


def conv_arc_cosine_diagonal(
    x: Tensor,
    *,
    weights: Sequence[float] | Tensor,
    biases: Sequence[float] | Tensor | None = None,
    activation: str = "relu",
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`conv_arc_cosine` needs of each image alone, and the kernels of each image with itself.

    Args:
        x: (M, C, H, W) images, float32 or float64.
        weights: as in :func:`conv_arc_cosine`.
        biases: as in :func:`conv_arc_cosine`.
        activation: as in :func:`conv_arc_cosine`.

    Returns:
        The lengths (M, L, H, W) of all pixels in all layers, and the diagonals (M,) of the NNGP and of the NTK.

    Raises:
        TypeError, ValueError: a dtype, shape or number is wrong.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.ops.conv_arc_cosine_diagonal(torch.ones(1, 1, 1, 1), weights=[9.0, 2.0])[1:]
        (tensor([1.]), tensor([2.]))
    """
    op = "conv_arc_cosine_diagonal"
    _check_images(op, "x", x)
    return reference.diagonals(x, *_layers(op, weights, biases, activation, x))


def _layers(op: str, weights: Any, biases: Any, activation: str, like: Tensor) -> tuple[Tensor, Tensor, int]:
    checks.one_of(op, "activation", activation, ["relu", "erf"])
    return *variances_of_layers(op, weights, biases, like), ACTIVATIONS[activation]


def _check_images(op: str, name: str, value: Tensor, like: Tensor | None = None) -> None:
    checks.wide_float_tensor(op, name, value, "cast the images: x.float()")
    wrong = value.ndim != 4 or 0 in value.shape[1:]
    if like is not None:
        wrong = wrong or value.shape[1:] != like.shape[1:] or (value.dtype, value.device) != (like.dtype, like.device)
    if wrong:
        expected = "images (M, C, H, W)" + (f" like 'x', {checks.describe(like)}" if like is not None else "")
        raise ValueError(message(op, name, expected, checks.describe(value)))
