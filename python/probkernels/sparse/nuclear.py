"""The nuclear norm of a matrix and its subgradient, without a singular value decomposition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._given import transformed
from .slots import Slot, values_dtype

NEGLIGIBLE = 1e-12  # of the largest eigenvalue of the Gram matrix: singular values below 1e-6 of the largest are none
NEWTON_STEPS = 16


def polar(a: Tensor, method: str | None = None) -> Tensor:
    """The polar factor U V^T of a = U S V^T (O, I), which is the subgradient of the nuclear norm, in a's dtype.

    Args:
        a: (O, I) float32 or float64.
        method: ``"eigh"`` takes eigenvectors of the smaller Gram matrix in float64: exact to about 1e-5; singular
            values below 1e-6 of the largest count as 0. ``"newton_schulz"`` needs matrix products only; its cosine to
            the exact factor is .9996. None: ``"eigh"`` on a CPU, ``"newton_schulz"`` on a GPU.

    Raises:
        TypeError: ``a`` is not floating-point.
        ValueError: ``a`` is not a matrix, or the method is unknown.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.sparse.polar(torch.tensor([[3.0, 0.0], [4.0, 5.0]]))
        tensor([[ 0.8944, -0.4472],
                [ 0.4472,  0.8944]])
    """
    checks.float_tensor("polar", "a", a)
    checks.one_of("polar", "method", method, (None, "eigh", "newton_schulz"))
    if a.dim() != 2:
        raise ValueError(message("polar", "a", "a matrix", f"shape {tuple(a.shape)}"))
    wide = a if a.shape[0] <= a.shape[1] else a.t()  # (n, m), n <= m
    if not wide.any():
        return torch.zeros_like(a)
    method = method or ("newton_schulz" if a.is_cuda else "eigh")
    made = _by_eigenvectors(wide) if method == "eigh" else _by_newton(wide)
    return (made if wide is a else made.t()).to(a.dtype)


def _by_eigenvectors(a: Tensor) -> Tensor:
    exact = a.double()
    squares, vectors = torch.linalg.eigh(exact @ exact.t())  # ascending
    kept = squares > NEGLIGIBLE * squares[-1]
    inverse = torch.where(kept, squares, 1).rsqrt() * kept
    return (vectors * inverse) @ (vectors.t() @ exact)


def _by_newton(a: Tensor) -> Tensor:
    x = a.to(values_dtype(a))
    x = x / x.norm()
    for _ in range(NEWTON_STEPS):
        x = 1.5 * x - 0.5 * (x @ x.t()) @ x
    return x


def nuclear_norm(a: Tensor, method: str | None = None) -> Tensor:
    """The nuclear norm of a (O, I): the sum of its singular values, a scalar. Differentiable once.

    Args:
        a: (O, I) float32 or float64.
        method: see :func:`polar`.

    Raises:
        TypeError: ``a`` is not floating-point.
        ValueError: ``a`` is not a matrix, or the method is unknown.
        NotImplementedError: torch.func, vmap or forward mode is active, or the gradient is differentiated again.

    Example:
        >>> import torch, probkernels as pk
        >>> a = torch.tensor([[3.0, 0.0], [4.0, 5.0]], dtype=torch.float64, requires_grad=True)
        >>> norm = pk.sparse.nuclear_norm(a)
        >>> norm.backward()
        >>> round(norm.item(), 6), round(a.grad[0, 1].item(), 6)
        (8.944272, -0.447214)
    """
    refuse_transforms("nuclear_norm")
    return _Nuclear.apply(a, method)


def refuse_transforms(op: str) -> None:
    """Raises if torch.func or vmap is active."""
    if transformed():
        raise NotImplementedError(
            f"{op}: torch.func, vmap and forward mode do not see through it. Hint: use autograd's backward(), or "
            "torch.linalg.matrix_norm(a, 'nuc')"
        )


class _Once(torch.autograd.Function):
    """A gradient whose derivative raises. torch's ``once_differentiable`` may drop the derivative silently."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *of: Tensor) -> Tensor:
        """``gradient`` itself; ``of`` is what it depends on."""
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Raises."""
        raise NotImplementedError(
            "nuclear_norm: its second derivative does not exist. Hint: torch.linalg.matrix_norm(a, 'nuc') has one"
        )


class _Nuclear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, method: str | None) -> Tensor:
        direction = polar(a, method)
        ctx.save_for_backward(direction, a)
        return (direction * a).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        direction, a = ctx.saved_tensors
        return _Once.apply(grad * direction, a, grad), None


def masked(slot: Slot, weight: Tensor, current: Tensor) -> Tensor:
    """The trained entries ``current`` (count) in a matrix of zeros (O, I)."""
    dense = torch.zeros(weight.shape, dtype=values_dtype(weight), device=weight.device)
    slot.selection.scatter_(dense, current)
    return dense


class SlotNuclear(torch.autograd.Function):
    """The nuclear norm of a slot's matrix; its subgradient goes to the values (count), wherever these are stored."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, current: Tensor, weight: Tensor, slot: Slot, method: str | None) -> Tensor:
        """A scalar."""
        dense = masked(slot, weight, current)
        direction = polar(dense, method)
        ctx.save_for_backward(slot.selection.gather(direction), values)
        return (direction * dense).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad () -> (count)."""
        direction, values = ctx.saved_tensors
        return _Once.apply(grad * direction, values, grad), None, None, None, None
