"""``Operator``: the base of all measurement operators, and compositions of them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

ITERATIONS = 50  # of conjugate gradients at most
TOLERANCE = 1e-7  # of the residual's norm, relative to that of the right-hand side


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The real inner product of each row of a and b (B, *S), as (B, 1, ..): Re <a, b> for complex rows."""
    product = (a.conj() * b).real if a.is_complex() else a * b
    return product.flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))


def as_rows(value: Any, like: Tensor) -> Any:
    """A number, or one number a row (B,) in the shape (B, 1, ..) that multiplies ``like`` (B, *S)."""
    if isinstance(value, Tensor) and value.ndim == 1 and like.ndim > 1:
        return value.view(-1, *[1] * (like.ndim - 1))
    return value


def of_rows(value: float | Tensor, like: Tensor) -> bool:
    """Whether a value of :func:`as_rows` is one number, or one a row of ``like``, and not one an entry."""
    if not isinstance(value, Tensor) or value.numel() == 1:
        return True
    return value.ndim == like.ndim and len(value) == len(like) == value.numel()


class Operator(nn.Module):
    """Base of all linear measurement operators y = A x.

    A subclass defines ``_forth`` (A) and ``_back`` (A^T), and sets ``gram`` if A A^T is a multiple of the identity on
    the range of A. The first axis of x and y is the batch. The adjoint belongs to the real inner product Re <a, b>, so
    that x and y may be real or complex. An operator is a module: its tensors are buffers that move with ``.to()``, and
    ``A``, ``A_adjoint`` and ``A_dagger`` are the names that deepinv uses.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Mask, Operator
        >>> first: Operator = Mask(torch.tensor([True, False]))
        >>> first(torch.tensor([[3.0, 4.0]]))
        tensor([[3., 0.]])
    """

    gram: float | None = None  # g in A A^T = g I on the range of A

    def forward(self, x: Tensor) -> Tensor:
        """A x: :meth:`A`."""
        return self.A(x)

    def A(self, x: Tensor) -> Tensor:
        """A x for x (B, *S), float or complex."""
        return self._forth(self._checked("x", x))

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y for y (B, *M): Re <A x, y> = Re <x, A^T y>."""
        return self._back(self._checked("y", y))

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, the least-squares solution of least norm, for y (B, *M).

        Raises:
            NotImplementedError: the operator has no pseudo-inverse in closed form.
        """
        if self.gram is None:
            hint = "WithPinv(operator) computes one by conjugate gradients; 'pigdm' and 'ddrm' with noise need none"
            raise NotImplementedError(f"{self._name()}: has no pseudo-inverse in closed form. Hint: {hint}")
        return self.adjoint(y) / self.gram

    def solve(self, r: Tensor, ridge: float | Tensor) -> Tensor:
        """(A A^T + ridge I)^-1 r for r (B, *M) in the range of A.

        ``ridge`` >= 0 is a number, (B,) or of r's shape. By conjugate gradients where there is no closed form.
        """
        ridge = as_rows(ridge, r)
        if self.gram is not None and of_rows(ridge, r):
            return r / (self.gram + ridge)
        return conjugate_gradients(lambda v: self.A(self.adjoint(v)) + ridge * v, r)

    def lstsq(self, y: Tensor, iterations: int = ITERATIONS) -> Tensor:
        """A^+ y by conjugate gradients on A^T A x = A^T y, from 0: what it converges to has least norm."""
        return conjugate_gradients(lambda v: self.adjoint(self.A(v)), self.adjoint(y), iterations)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """:meth:`adjoint`, as deepinv names it."""
        return self.adjoint(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        """:meth:`pinv`, as deepinv names it."""
        return self.pinv(y)

    def __matmul__(self, other: Operator) -> Operator:
        return Compose(self, other)

    def __rmul__(self, factor: float) -> Operator:
        return Scaled(factor, self)

    def _forth(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _back(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def _name(self) -> str:
        return type(self).__name__

    def _checked(self, name: str, value: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            hint = checks.AS_TENSOR if not isinstance(value, Tensor) else f"{name}.float() converts it"
            expected = "a floating-point or complex tensor"
            raise TypeError(message(self._name(), name, expected, checks.describe(value), hint))
        if value.ndim < 1:
            raise ValueError(message(self._name(), name, "shape (B, ...)", "shape ()", "one alone is a batch of one"))
        return value

    def _refuse_shape(self, name: str, value: Tensor, last: Sequence[int], hint: str = "") -> None:
        """Raises unless the last axes of ``value`` are ``last``, behind an axis for the batch."""
        if value.ndim <= len(last) or tuple(value.shape[value.ndim - len(last) :]) != tuple(last):
            expected = f"shape (B, ..., {', '.join(map(str, last))})" if last else "shape (B, ...)"
            raise ValueError(message(self._name(), name, expected, f"shape {tuple(value.shape)}", hint))


def conjugate_gradients(apply: Any, b: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Solves ``apply(x) = b`` for each row of b (B, *S), where ``apply`` is symmetric and not negative."""
    x, r, p = torch.zeros_like(b), b, b
    size = start = inner(b, b)
    for _ in range(iterations):
        going = size > TOLERANCE**2 * start  # rows that have converged stay as they are
        if not bool(going.any()):
            break
        q = apply(p)
        curvature = inner(p, q)
        step = torch.where(going & (curvature > 0), size / torch.where(curvature > 0, curvature, 1.0), 0.0)
        x, r = x + step * p, r - step * q
        before, size = size, inner(r, r)
        p = r + torch.where(going, size / torch.where(going, before, 1.0), 0.0) * p
    return x


class Identity(Operator):
    """A x = x: denoising.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Identity
        >>> Identity()(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    gram = 1.0

    def _forth(self, x: Tensor) -> Tensor:
        return x

    def _back(self, y: Tensor) -> Tensor:
        return y


class Compose(Operator):
    """A x = outer(inner(x)); ``outer @ inner`` makes one.

    It has no pseudo-inverse in closed form, for inner^+ outer^+ is none in general; see :class:`WithPinv`.

    Args:
        outer: the operator applied last.
        inner: the operator applied first.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Blur, Downsample
        >>> smaller = Downsample(2, ndim=1) @ Blur(torch.ones(3) / 3)
        >>> smaller(torch.tensor([[0.0, 3.0, 0.0, 0.0]]))
        tensor([[1.0000, 0.5000]])
    """

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__()
        for name, value in (("outer", outer), ("inner", inner)):
            require_operator("Compose", name, value)
        self.outer, self.inner = outer, inner
        if isinstance(inner, Identity):
            self.gram = outer.gram
        elif isinstance(outer, Identity):
            self.gram = inner.gram

    def _forth(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(x))

    def _back(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


class Scaled(Operator):
    """A x = factor operator(x); ``factor * operator`` makes one.

    Args:
        factor: a real number, not 0.
        operator: the operator.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Identity
        >>> twice = 2 * Identity()
        >>> twice(torch.ones(1, 2)), twice.pinv(torch.ones(1, 2))
        (tensor([[2., 2.]]), tensor([[0.5000, 0.5000]]))
    """

    operator: Operator

    def __init__(self, factor: float, operator: Operator) -> None:
        super().__init__()
        if isinstance(factor, bool) or not isinstance(factor, Real):
            raise TypeError(message("Scaled", "factor", "a real number", checks.describe(factor)))
        if checks.number("Scaled", "factor", factor) == 0:
            raise ValueError(message("Scaled", "factor", "a number that is not 0", repr(factor)))
        require_operator("Scaled", "operator", operator)
        self.factor: float = float(factor)
        self.operator = operator
        self.gram = None if operator.gram is None else self.factor**2 * operator.gram

    def _forth(self, x: Tensor) -> Tensor:
        return self.factor * self.operator.A(x)

    def _back(self, y: Tensor) -> Tensor:
        return self.factor * self.operator.adjoint(y)

    def pinv(self, y: Tensor) -> Tensor:
        """See the base."""
        return self.operator.pinv(y) / self.factor

    def solve(self, r: Tensor, ridge: float | Tensor) -> Tensor:
        """See the base."""
        return self.operator.solve(r, ridge / self.factor**2) / self.factor**2


class Stack(Operator):
    """Several operators on the same x; y (B, M) holds all their measurements, flattened, one after another.

    Args:
        operators: the operators.
        shape: *S, the shape of one x.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Identity, Matrix, Stack
        >>> both = Stack([Identity(), Matrix(torch.ones(1, 3))], (3,))
        >>> both(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 2., 3., 6.]])
    """

    def __init__(self, operators: Sequence[Operator], shape: Sequence[int]) -> None:
        super().__init__()
        if not operators:
            raise ValueError(message("Stack", "operators", "at least one operator", "none"))
        for i, operator in enumerate(operators):
            require_operator("Stack", f"operators[{i}]", operator)
        self.operators, self.shape = nn.ModuleList(operators), tuple(shape)
        with torch.no_grad():
            # of one row of zeros, on the device of the operators' tensors
            device = next((t.device for t in self.buffers()), torch.device("cpu"))
            self.parts = [tuple(op(torch.zeros(1, *shape, device=device)).shape[1:]) for op in operators]

    def _forth(self, x: Tensor) -> Tensor:
        self._refuse_shape("x", x, self.shape)
        return torch.cat([operator(x).flatten(1) for operator in self.operators], 1)

    def _back(self, y: Tensor) -> Tensor:
        sizes = [torch.Size(part).numel() for part in self.parts]
        self._refuse_shape("y", y, (sum(sizes),))
        pieces = [piece.unflatten(1, part) for piece, part in zip(y.split(sizes, 1), self.parts, strict=True)]
        back = [op.adjoint(piece) for op, piece in zip(self.operators, pieces, strict=True)]  # type: ignore[operator]
        return torch.stack(back).sum(0)


class WithPinv(Operator):
    """An operator with a pseudo-inverse by conjugate gradients.

    Args:
        operator: the operator.
        iterations: steps of conjugate gradients at most.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Radon, WithPinv
        >>> scan = WithPinv(Radon(8, torch.arange(12) * torch.pi / 12))
        >>> x = torch.ones(1, 8, 8)
        >>> y = scan(x)
        >>> bool(((scan(scan.pinv(y)) - y).abs() < 1e-2).all())
        True
    """

    def __init__(self, operator: Operator, iterations: int = ITERATIONS) -> None:
        super().__init__()
        require_operator("WithPinv", "operator", operator)
        self.operator, self.gram = operator, operator.gram
        self.iterations = checks.integer("WithPinv", "iterations", iterations)

    def _forth(self, x: Tensor) -> Tensor:
        return self.operator.A(x)

    def _back(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(y)

    def solve(self, r: Tensor, ridge: float | Tensor) -> Tensor:
        """See the base."""
        return self.operator.solve(r, ridge)

    def pinv(self, y: Tensor) -> Tensor:
        """See the base."""
        return self.lstsq(y, self.iterations)


def require_operator(op: str, name: str, value: object) -> None:
    """Raises unless ``value`` is an :class:`Operator`."""
    if not isinstance(value, Operator):
        raise TypeError(message(op, name, "an Operator", checks.describe(value), "as_operator(...) adapts physics"))
