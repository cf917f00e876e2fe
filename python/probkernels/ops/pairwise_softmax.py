"""Softmax over all other points, summed by class: ops, their kernel calls, derivatives and ``pairwise_softmax``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op, numbers_known
from ..reference import pairwise_softmax as reference

__all__ = ["pairwise_softmax"]

KINDS = ("cpu", "triton")
DTYPES = (torch.float32, torch.float64)
ROWS, COLUMNS = 256, 1024  # of a tile on the CPU: a megabyte, which a core's cache holds
WIDE = 2.0**11  # |x / sigma|^2 / 2 from which float32 would lose more than 1e-4 of exp(score)
FAR = 2.0**33  # and float64 more than 1e-6: then differences of coordinates replace inner products

# --- kernels ---


class Points(NamedTuple):
    """Scaled points, sorted by class."""

    q: Tensor  # (N, D)
    half: Tensor  # (N): |q|^2 / 2
    order: Tensor  # (N): where each of them was
    labels: Tensor  # (N)
    bounds: Tensor  # (K + 1): class k is bounds[k] : bounds[k + 1]
    far: bool  # whether inner products would lose digits


def _points(x: Tensor, labels: Tensor, classes: int, sigma: float) -> Points:
    labels, order = labels.long().sort(stable=True)
    bounds = torch.searchsorted(labels, torch.arange(classes + 1, device=labels.device))
    q, half = _scaled(x, x.mean(0), sigma)
    readable = checks.readable(half)
    if x.dtype is torch.float32 and readable and not bool(half.amax() <= WIDE):
        x = x.double()
        q, half = _scaled(x, x.mean(0), sigma)
    far = x.dtype is torch.float64 and readable and bool(half.amax() > FAR)
    if far:  # one distant point moves the mean away from all others, but not the median
        q, half = _scaled(x, x.sort(0).values[len(x) // 2], sigma)
    return Points(q[order], half[order], order, labels, bounds, far)


def _scaled(x: Tensor, center: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    q = (x - center) / sigma
    return q, q.square().sum(1) / 2


def _unsorted(values: Tensor, order: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(values, dtype=dtype).index_copy_(0, order, values.to(dtype))


def _products(q: Tensor, tile: int) -> Iterator[tuple[int, int, Tensor]]:
    """The first row, the first column and the inner products of each tile. The next tile overwrites them."""
    count, rows = len(q), tile or ROWS
    buffer = q.new_empty(min(rows, count) * min(COLUMNS, count))
    for row in range(0, count, rows):
        for column in range(0, count, COLUMNS):
            left, right = q[row : row + rows], q[column : column + COLUMNS]
            products = buffer[: len(left) * len(right)].view(len(left), len(right))
            yield row, column, torch.mm(left, right.t(), out=products)


def _cpu(run: Backend, p: Points, classes: int, tile: int) -> tuple[Tensor, Tensor]:
    best, sums = p.half.new_full(p.half.shape, float("-inf")), p.q.new_zeros(len(p.q), classes)
    for row, column, products in _products(p.q, tile):
        sizes = (*products.shape, row, column, classes)
        run.launch("pairwise_softmax", DTYPE_CODE[p.q.dtype], products, p.half, p.bounds, best, sums, *sizes)
    total = sums.sum(1)
    return sums / total[:, None], best + total.log() - p.half


def _cpu_bwd(
    run: Backend, p: Points, grads: Tensor, delta: Tensor, log_sums: Tensor, classes: int, tile: int
) -> Tensor:
    """The gradient of q."""
    pulled, total, shift = torch.zeros_like(p.q), torch.zeros_like(p.half), log_sums + p.half
    state = (p.half, p.bounds, grads, grads.t().contiguous(), delta, shift, total)
    for row, column, products in _products(p.q, tile):
        sizes = (*products.shape, row, column, classes, len(p.q))
        run.launch("pairwise_softmax_bwd", DTYPE_CODE[p.q.dtype], products, *state, *sizes)
        pulled[row : row + len(products)].addmm_(products, p.q[column : column + products.shape[1]])
    return pulled - total[:, None] * p.q


def _triton(p: Points, classes: int) -> tuple[Tensor, Tensor]:
    from ..triton_kernels import pairwise_softmax as kernels  # imports triton, which a CPU machine may not have

    logs = p.q.new_empty(len(p.q), classes)
    kernels.pairwise_softmax(p.q, p.half, p.bounds, logs)
    total = logs.logsumexp(1)
    return (logs - total[:, None]).exp(), total - p.half


def _triton_bwd(p: Points, grads: Tensor, delta: Tensor, log_sums: Tensor) -> Tensor:
    """The gradient of q."""
    from ..triton_kernels import pairwise_softmax as kernels

    grad = torch.empty_like(p.q)
    kernels.pairwise_softmax_bwd(p.q, p.half, p.labels, grads, delta, log_sums + p.half, grad)
    return grad


def _far_shares(p: Points, rows: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time: where they are, their scores, and the softmax of these. Distances are sums of squared
    differences, which keep the digits that inner products of large coordinates lose."""
    for first in range(0, len(p.q), rows):
        some = slice(first, first + rows)
        scores = torch.cdist(p.q[some], p.q, compute_mode="donot_use_mm_for_euclid_dist").square_().div_(-2)
        scores.diagonal(first).fill_(float("-inf"))
        yield some, scores, scores.softmax(1)


def _far(p: Points, classes: int, tile: int) -> tuple[Tensor, Tensor]:
    sums, logs = p.q.new_zeros(len(p.q), classes), torch.empty_like(p.half)
    for some, scores, shares in _far_shares(p, tile or ROWS):
        sums[some].index_add_(1, p.labels, shares)
        logs[some] = scores.logsumexp(1)
    return sums, logs


def _far_bwd(p: Points, grads: Tensor, delta: Tensor, tile: int) -> Tensor:
    """The gradient of q."""
    pulled = torch.zeros_like(p.q)
    for some, _, shares in _far_shares(p, tile or ROWS):
        pull = shares.mul_(grads[some][:, p.labels].sub_(delta[some, None]))
        pulled[some] += pull @ p.q - pull.sum(1)[:, None] * p.q[some]
        pulled += pull.t() @ p.q[some] - pull.sum(0)[:, None] * p.q
    return pulled


def _kernel(run: Backend, x: Tensor, labels: Tensor, classes: int, sigma: float, tile: int) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        p = _points(x, labels, classes, sigma)
        if p.far:
            found = _far(p, classes, tile)
        else:
            found = _triton(p, classes) if run.kind == "triton" else _cpu(run, p, classes, tile)
    return _unsorted(found[0], p.order, x.dtype), _unsorted(found[1], p.order, torch.float64)


def _bwd_kernel(
    run: Backend,
    x: Tensor,
    labels: Tensor,
    shares: Tensor,
    log_sums: Tensor,
    grad_shares: Tensor,
    grad_log_sums: Tensor,
    classes: int,
    sigma: float,
    tile: int,
) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        p = _points(x, labels, classes, sigma)
        share, logs, grads, grad_logs = (
            t[p.order].to(p.q.dtype) for t in (shares, log_sums, grad_shares, grad_log_sums)
        )
        delta = (grads * share).sum(1) - grad_logs
        if p.far:
            grad = _far_bwd(p, grads, delta, tile)
        elif run.kind == "triton":
            grad = _triton_bwd(p, grads, delta, logs)
        else:
            grad = _cpu_bwd(run, p, grads, delta, logs, classes, tile)
        grad /= sigma
    return _unsorted(grad, p.order, x.dtype)


# --- the ops ---


def _forward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64).to(device, dtype)
    return [(x, torch.tensor([0, 2, 2, 0, 3, 2, 0], device=device), 4, 0.8, 0)]


def _backward_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    ((x, labels, *rest),) = _forward_examples(torch.device("cpu"), torch.float64)
    outputs = reference.pairwise_softmax(x, labels, *rest)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in outputs]
    dtypes = (dtype, torch.float64) * 2
    tensors = [t.to(device, d) for t, d in zip((*outputs, *grads), dtypes, strict=True)]
    return [(x.to(device, dtype), labels.to(device), *tensors, *rest)]


BWD = Op(
    "pairwise_softmax_bwd",
    "(Tensor x, Tensor labels, Tensor shares, Tensor log_sums, Tensor grad_shares, Tensor grad_log_sums, int classes, "
    "float sigma, int tile) -> Tensor",
    family="pairwise_softmax",
    reference=reference.pairwise_softmax_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=lambda x, *_: x.new_empty(x.shape),
    examples=_backward_examples,
    dtypes=DTYPES,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, labels, *ctx.rest = inputs
    ctx.save_for_backward(x, labels, *output)


def _backward(ctx: Any, grad_shares: Tensor, grad_log_sums: Tensor) -> tuple[Tensor | None, ...]:
    return BWD.call(*ctx.saved_tensors, grad_shares, grad_log_sums, *ctx.rest), None, None, None, None


FWD = Op(
    "pairwise_softmax",
    "(Tensor x, Tensor labels, int classes, float sigma, int tile) -> (Tensor, Tensor)",
    reference=reference.pairwise_softmax,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda x, labels, classes, *_: (
        x.new_empty(x.shape[0], classes),
        x.new_empty(x.shape[0], dtype=torch.float64),  # of a narrow kernel they are large, and exp(s - log_sums) is not
    ),
    setup=_setup,
    backward=_backward,
    examples=_forward_examples,
    dtypes=DTYPES,
)

# --- the public function ---


def _check_labels(op: str, labels: Tensor, classes: int, x: Tensor) -> None:
    checks.integer_tensor(op, "labels", labels)
    checks.shape(op, "labels", labels, x.shape[:1], "(one label for each row of 'x')")
    checks.same_device(op, "labels", labels, x, "x")
    if not numbers_known(labels):
        return
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        raise ValueError(message(op, "labels", f"classes 0 to {classes - 1}", checks.offender(labels, wrong)))


def pairwise_softmax(
    x: Tensor, labels: Tensor, classes: int, sigma: float = 1.0, *, tile: int | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax over the distances to all other points, summed by class: attention whose values are labels.

    With ``s[i, j] = -|x_i - x_j|^2 / (2 sigma^2)``, ``shares[i, k] = sum over j != i of class k of exp(s[i, j]) / sum
    over j != i of exp(s[i, j])``. This is the leave-one-out Gaussian kernel estimate of the class probabilities at each
    point. The maximum of each row is subtracted, so that no width is too small: as sigma goes to 0, the share of the
    nearest neighbor's class goes to 1. No N x N matrix is stored; memory is O(N (D + K)).

    Args:
        x: (N, D) points, N >= 2, in any floating-point dtype; half precision is computed in float32.
        labels: (N) integers in [0, classes).
        classes: K.
        sigma: width of the kernel, > 0.
        tile: rows of x that a CPU compares with others at a time. None chooses.

    Returns:
        shares: (N, K), rows sum to 1. float32, or float64 for float64 points.
        log_sums: (N), the logarithm of ``sum over j != i of exp(s[i, j])``: a kernel density without its constant.

        Both are differentiable in x any number of times and in forward mode; second derivatives and forward mode store
        N x N numbers. NaN or infinity in x makes all outputs NaN.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape, device, label or number is wrong.

    Backends: C++ (CPU), Triton (GPU), plain torch. Deterministic for a given number of threads.

    Reference: Zhang, Sun, Lim, Zhang, "Towards Provably Unlearnable Examples via Bayes Error Optimisation", AAAI 2026.

    Example:
        >>> import torch, probkernels as pk
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
        >>> shares, log_sums = pk.ops.pairwise_softmax(x, labels, 2)
        >>> shares
        tensor([[0.9820, 0.0180],
                [0.8176, 0.1824],
                [1.0000, 0.0000]])
    """
    op = "pairwise_softmax"
    checks.float_tensor(op, "x", x)
    if x.dim() != 2 or x.shape[0] < 2 or x.shape[1] == 0:
        expected = "shape (points, features) with at least two points and one feature"
        raise ValueError(message(op, "x", expected, f"shape {tuple(x.shape)}", "x.flatten(1) flattens images"))
    checks.integer(op, "classes", classes)
    _check_labels(op, labels, classes, x)
    checks.positive(op, "sigma", sigma, finite=False)
    rows = 0 if tile is None else checks.integer(op, "tile", tile)
    wide = x if x.dtype in DTYPES else x.float()
    shares, log_sums = FWD.call(wide, labels, classes, float(sigma), rows)
    return shares, log_sums.to(wide.dtype)
