"""Kernels of infinitely wide networks, all layers in one pass: the ops, their kernel calls, ``arc_cosine``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import backend, checks
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import arc_cosine as reference

__all__ = ["arc_cosine", "arc_cosine_diagonal"]

DTYPES = (torch.float32, torch.float64)
ACTIVATIONS = {"relu": reference.RELU, "erf": reference.ERF, "heaviside": reference.HEAVISIDE}

KINDS = ("cpu", "cuda")
MOST = 128  # layers: kMostLayers of csrc/include/pk/arc_cosine.h
BLOCK_ROWS = 64  # of the backward: sums are those of blocks
COLUMNS = 128  # of a block on a GPU: kColumns of csrc/cuda/arc_cosine.cu

# --- kernels ---


def _pairs(k: Tensor, left: Tensor, right: Tensor, weights: Tensor, biases: Tensor) -> list[Tensor]:
    """What both kernels read."""
    lengths = (left, reference.safe_inverse(left), right, reference.safe_inverse(right))
    return [t.contiguous() for t in (k, *lengths, weights, biases)]


def _kernel(run: backend.Backend, *args: Any) -> tuple[Tensor, Tensor]:
    *tensors, diagonal, activation, residual, ntk = args
    given = _pairs(*tensors)
    k, weights = given[0], given[-1]
    nngp, tangent = _fake(k, ntk)
    on_diagonal = diagonal.contiguous() if diagonal.shape[-1] else None
    sizes = (*k.shape, len(weights) - 1, activation, residual, ntk)
    run.launch("arc_cosine", DTYPE_CODE[k.dtype], *given, on_diagonal, nngp, tangent, *sizes)
    return nngp, tangent


def _bwd_kernel(run: backend.Backend, *args: Any) -> tuple[Tensor, ...]:
    *tensors, diagonal, grad_nngp, grad_ntk, activation, residual, ntk = args
    given = [*_pairs(*tensors), grad_nngp.contiguous(), grad_ntk.contiguous()]
    k, layers = given[0], len(tensors[-1]) - 1
    batch, rows, columns = k.shape
    down, across = -(-rows // BLOCK_ROWS), -(-columns // COLUMNS) if run.kind == "cuda" else 1
    grad_k = torch.empty_like(k)
    of_left, of_right = k.new_empty(batch, across, layers, rows), k.new_empty(batch, down, layers, columns)
    of_layers = k.new_empty(batch * down * across, 2, layers + 1, dtype=torch.float64)
    sizes = (*k.shape, layers, activation, residual, ntk, diagonal.shape[-1] > 0, BLOCK_ROWS)
    run.launch("arc_cosine_bwd", DTYPE_CODE[k.dtype], *given, grad_k, of_left, of_right, of_layers, *sizes)
    of_weights, of_biases = of_layers.sum(0).to(k.dtype).unbind()
    return grad_k, of_left.sum(1), of_right.sum(1), of_weights.clone(), of_biases.clone()


# --- the ops ---


def _fake(k: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return k.new_empty(k.shape), k.new_empty(k.shape if args[-1] else (0,))


def _fake_bwd(k: Tensor, left: Tensor, right: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (k, left, right, weights, weights))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.activation, ctx.residual, ctx.ntk = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_nngp: Tensor, grad_ntk: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, diagonal = ctx.saved_tensors
    grads = BWD.call(*tensors, diagonal, grad_nngp, grad_ntk, ctx.activation, ctx.residual, ctx.ntk)
    of_diagonal = torch.zeros_like(diagonal)
    if diagonal.shape[-1]:
        both = (grad_nngp, grad_ntk if ctx.ntk else torch.zeros_like(grad_nngp))
        of_diagonal = torch.stack([g.diagonal(dim1=-2, dim2=-1) for g in both], -2)
    return *grads, of_diagonal, None, None, None


def _forward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(2, n, 4, generator=generator, dtype=torch.float64) for n in (3, 5))
    weights, biases = torch.tensor([1.5, 0.8, 2.0]).double(), torch.tensor([0.1, 0.2, 0.0]).double()
    found = []
    for activation, residual, same in ((0, False, False), (1, True, True)):
        other = x if same else z
        of_x, of_z = (
            reference.diagonals(t.square().mean(-1), weights, biases, activation, residual) for t in (x, other)
        )
        diagonal = torch.stack(of_x[1:], -2)[..., : x.shape[1] if same else 0]
        tensors = (x @ other.mT / 4, of_x[0], of_z[0], weights, biases, diagonal)
        found.append((*(t.to(device, dtype) for t in tensors), activation, residual, True))
    return found


def _backward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for *tensors, activation, residual, ntk in _forward_examples(device, dtype):
        shape = tensors[0].shape
        grads = (torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(2))
        found.append((*tensors, *grads, activation, residual, ntk))
    return found


BWD = Op(
    "arc_cosine_bwd",
    "(Tensor k, Tensor left, Tensor right, Tensor weights, Tensor biases, Tensor diagonal, Tensor grad_nngp, "
    "Tensor grad_ntk, int activation, bool residual, bool ntk) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    family="arc_cosine",
    reference=reference.arc_cosine_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=_fake_bwd,
    examples=_backward_examples,
    dtypes=DTYPES,
)

FWD = Op(
    "arc_cosine",
    "(Tensor k, Tensor left, Tensor right, Tensor weights, Tensor biases, Tensor diagonal, int activation, "
    "bool residual, bool ntk) -> (Tensor, Tensor)",
    reference=reference.arc_cosine,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=_fake,
    setup=_setup,
    backward=_backward,
    examples=_forward_examples,
    dtypes=DTYPES,
)

# --- the public functions ---


def _variances(op: str, name: str, value: Any, like: Tensor) -> Tensor:
    found = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if found.ndim != 1 or not 2 <= len(found) <= MOST + 1:
        expected = f"L + 1 numbers, 1 <= L <= {MOST}: of the input's layer, and of the layer behind each activation"
        raise ValueError(message(op, name, expected, checks.describe(value)))
    plain = found.detach()
    if checks.readable(plain) and not bool((plain >= 0).all() and plain.isfinite().all()):
        wrong = ~((plain >= 0) & plain.isfinite())
        raise ValueError(message(op, name, "finite numbers >= 0", checks.offender(plain, wrong)))
    return found


def variances_of_layers(op: str, weights: Any, biases: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Checks variances (L + 1) of weights and of biases, and makes them tensors like ``like``."""
    found = _variances(op, "weights", weights, like)
    shift = torch.zeros_like(found) if biases is None else _variances(op, "biases", biases, like)
    if found.shape != shift.shape:
        raise ValueError(
            message(op, "biases", f"shape {tuple(found.shape)}, that of 'weights'", f"{tuple(shift.shape)}")
        )
    return found, shift


def _layers(
    op: str, weights: Any, biases: Any, activation: str, normalize: bool, like: Tensor
) -> tuple[Tensor, Tensor, int]:
    checks.one_of(op, "activation", activation, list(ACTIVATIONS))
    found, shift = variances_of_layers(op, weights, biases, like)
    if normalize:
        if activation == "erf":
            hint = "only kernels whose diagonal is a multiple of the input's have such a norm"
            raise ValueError(message(op, "normalize", "False for 'erf'", "True", hint))
        found = torch.cat([found[:1], 2 * found[1:]])
    return found, shift, ACTIVATIONS[activation]


def _check_diagonal(op: str, name: str, value: Tensor, expected: Sequence[int], k: Tensor) -> None:
    checks.wide_float_tensor(op, name, value)
    checks.shape(op, name, value, expected, "(one number for each point)")
    checks.same_device(op, name, value, k, "k")
    if value.dtype != k.dtype:
        raise TypeError(message(op, name, f"the dtype of 'k' ({k.dtype})", str(value.dtype)))


def arc_cosine(
    k: Tensor,
    x_diagonal: Tensor,
    z_diagonal: Tensor | None = None,
    *,
    weights: Sequence[float] | Tensor,
    biases: Sequence[float] | Tensor | None = None,
    activation: str = "relu",
    residual: bool = False,
    normalize: bool = False,
    ntk: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Kernels of an infinitely wide fully connected network, from a block of the inputs' kernel: NNGP and NTK at once.

    A layer maps K to ``w phi(K) + b`` and the tangent kernel T to ``K_new + w phi'(K) T``. phi is the arc-cosine
    kernel of order 1 (``relu``), its twin for ``erf``, or ``sqrt(k_x k_z) (pi - angle) / (2 pi)`` (``heaviside``).
    Where the two points are the same, the result is the closed form and not a rounded cosine.

    Args:
        k: (..., M, N) inner products of the inputs, float32 or float64: ``x @ z.mT / D``, or a block of a Gram matrix.
        x_diagonal: (..., M) k(x, x) of the rows' points.
        z_diagonal: (..., N) k(z, z) of the columns' points. None: the columns are the rows, so that k is symmetric
            with diagonal ``x_diagonal``.
        weights: (L + 1,) variances of weights: of the layer at the input, then behind each of the L activations.
        biases: (L + 1,) variances of biases. None: no biases.
        activation: ``"relu"``, ``"erf"`` or ``"heaviside"``.
        residual: adds its input to each block "activation, dense layer" but the last.
        normalize: doubles the variances behind the activations, so that ``relu`` and ``heaviside`` keep the diagonal.
        ntk: whether to compute the NTK. ``heaviside`` has none.

    Returns:
        The NNGP and the NTK (None without ``ntk``), both (..., M, N). Differentiable with respect to all tensors.
        Cosines are clamped to 1 - eps, so that gradients are finite at equal points; a point with k(x, x) = 0 has
        cosine 0 with all others and no gradient through its length.

    Raises:
        TypeError, ValueError: a dtype, shape, device or number is wrong.

    Backends: C++ (CPU), CUDA, plain torch. Deterministic.

    Reference: Cho, Saul, "Kernel Methods for Deep Learning", NIPS 2009; Lee, Yun, Yang, Lee, "Scale Mixtures of Neural
    Network Gaussian Processes", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> nngp, ntk = pk.ops.arc_cosine(x @ x.mT, torch.ones(2), weights=[1.0, 2.0])
        >>> nngp
        tensor([[1.0000, 0.3183],
                [0.3183, 1.0000]])
    """
    op = "arc_cosine"
    checks.wide_float_tensor(op, "k", k)
    if k.ndim < 2:
        raise ValueError(message(op, "k", "shape (..., M, N)", f"shape {tuple(k.shape)}"))
    same = z_diagonal is None
    if same and k.shape[-1] != k.shape[-2]:
        raise ValueError(message(op, "z_diagonal", "k(z, z) (..., N) beside a k that is not square", "None"))
    _check_diagonal(op, "x_diagonal", x_diagonal, k.shape[:-1], k)
    if z_diagonal is not None:
        _check_diagonal(op, "z_diagonal", z_diagonal, (*k.shape[:-2], k.shape[-1]), k)
    layers = _layers(op, weights, biases, activation, normalize, k)
    if ntk and activation == "heaviside":
        raise ValueError(message(op, "ntk", "False for 'heaviside', which has no NTK", "True"))
    blocks, rows, columns = k.shape[:-2].numel(), *k.shape[-2:]
    left, *ends = reference.diagonals(x_diagonal.reshape(blocks, rows), *layers, residual)
    right = left
    if z_diagonal is not None:
        right, *_ = reference.diagonals(z_diagonal.reshape(blocks, columns), *layers, residual)
    diagonal = torch.stack(ends, -2) if same else k.new_zeros(blocks, 2, 0)
    flat = k.reshape(blocks, rows, columns)
    nngp, tangent = FWD.call(flat, left, right, layers[0], layers[1], diagonal, layers[2], residual, ntk)
    return nngp.view(k.shape), tangent.view(k.shape) if ntk else None


def arc_cosine_diagonal(
    k: Tensor,
    *,
    weights: Sequence[float] | Tensor,
    biases: Sequence[float] | Tensor | None = None,
    activation: str = "relu",
    residual: bool = False,
    normalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """The diagonals of both kernels of :func:`arc_cosine`, from that of the inputs' kernel.

    Args:
        k: (..., M) k(x, x), float32 or float64.
        weights: as in :func:`arc_cosine`.
        biases: as in :func:`arc_cosine`.
        activation: as in :func:`arc_cosine`.
        residual: as in :func:`arc_cosine`.
        normalize: as in :func:`arc_cosine`.

    Returns:
        The diagonals of the NNGP and of the NTK, (..., M). That of the NTK means nothing for ``heaviside``.

    Raises:
        TypeError, ValueError: a dtype, shape or number is wrong.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.ops.arc_cosine_diagonal(torch.tensor([1.0, 4.0]), weights=[1.0, 1.0])
        (tensor([0.5000, 2.0000]), tensor([1., 4.]))
    """
    op = "arc_cosine_diagonal"
    checks.wide_float_tensor(op, "k", k)
    if k.ndim == 0:
        raise ValueError(message(op, "k", "shape (..., M)", "shape ()"))
    _, nngp, tangent = reference.diagonals(k, *_layers(op, weights, biases, activation, normalize, k), residual)
    return nngp, tangent
