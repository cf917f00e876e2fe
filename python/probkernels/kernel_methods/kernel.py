"""Kernels as modules: the base class, sums, products and scalings, the RBF kernel, and kernels of other libraries."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .rbf import rbf_kernel

DIAGONAL_ROWS = 64  # of a block whose diagonal is kept, for kernels that cannot compute the diagonal alone


class Kernel(nn.Module):
    """A positive semidefinite function of two points; the base class of all kernels.

    A subclass implements ``forward(x, z)`` and may implement ``diagonal(x)``. Kernels add, multiply, and scale by
    numbers, tensors and parameters: ``0.5 * RBF() + other``. Hyperparameters are parameters of the module.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import RBF
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> (2.0 * RBF() + RBF(lengthscale=0.1))(x)
        tensor([[3.0000, 1.2131],
                [1.2131, 3.0000]], grad_fn=<AddBackward0>)
    """

    def __call__(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """The matrix k(x, z): x (..., M, D) and z (..., N, D) give (..., M, N). Without z: k(x, x)."""
        return cast(Tensor, super().__call__(x, z))

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """The kernel matrix (..., M, N), in the dtype of x."""
        raise NotImplementedError

    def diagonal(self, x: Tensor) -> Tensor:
        """k(x_i, x_i) of every point: (..., M, D) gives (..., M)."""
        blocks = x.split(DIAGONAL_ROWS, -2)
        return torch.cat([self(block).diagonal(dim1=-2, dim2=-1) for block in blocks], -1)

    def __add__(self, other: object) -> Kernel:
        return _Combined(operator.add, self, as_kernel(other, "+"))

    def __mul__(self, other: object) -> Kernel:
        if isinstance(other, (int, float, Tensor)):
            return _Scaled(self, other)
        return _Combined(operator.mul, self, as_kernel(other, "*"))

    __radd__, __rmul__ = __add__, __mul__


class _Combined(Kernel):
    """The sum or the product of two kernels."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], first: Kernel, second: Kernel) -> None:
        super().__init__()
        self.combine, self.first, self.second = combine, first, second

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.combine(self.first(x, z), self.second(x, z))

    def diagonal(self, x: Tensor) -> Tensor:
        return self.combine(self.first.diagonal(x), self.second.diagonal(x))


class _Scaled(Kernel):
    """A kernel times a number, or times a tensor () whose gradient the kernel carries."""

    def __init__(self, kernel: Kernel, scale: float | Tensor) -> None:
        super().__init__()
        found = torch.as_tensor(scale).detach()
        if found.ndim > 0 or (checks.readable(found) and not bool(found >= 0 and found.isfinite())):
            raise ValueError(message("Kernel", "*", "a kernel, or one finite number >= 0", checks.shown(scale)))
        self.kernel, self.scale = kernel, scale

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.scale * self.kernel(x, z)

    def diagonal(self, x: Tensor) -> Tensor:
        return self.scale * self.kernel.diagonal(x)


class RBF(Kernel):
    """The RBF kernel variance * exp(-sum_d ((x_d - z_d) / lengthscale_d)^2 / 2), with trainable hyperparameters.

    Args:
        lengthscale: positive number for all inputs, or (D,): one for each input.
        variance: positive number.

    Attributes:
        log_lengthscale, log_variance: the parameters, float64 unless the module is cast.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import RBF
        >>> RBF(lengthscale=2.0, variance=3.0)(torch.tensor([[0.0]]), torch.tensor([[2.0]]))
        tensor([[1.8196]], grad_fn=<MulBackward0>)
    """

    def __init__(self, lengthscale: float | Tensor = 1.0, variance: float = 1.0) -> None:
        super().__init__()
        self.log_lengthscale = _log_parameter("RBF", "lengthscale", lengthscale, 1)
        self.log_variance = _log_parameter("RBF", "variance", variance, 0)

    @property
    def lengthscale(self) -> Tensor:
        """() or (D,)."""
        return self.log_lengthscale.exp()

    @property
    def variance(self) -> Tensor:
        """()."""
        return self.log_variance.exp()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        lengthscale = self.lengthscale.to(x)
        x = x / lengthscale
        return rbf_kernel(x, x if z is None else z / lengthscale, 1.0, self.variance.to(x))

    def diagonal(self, x: Tensor) -> Tensor:
        return self.variance.to(x).expand(x.shape[:-1])


class _Called(Kernel):
    """A kernel of another library, or a function of x and z."""

    def __init__(self, given: Callable[..., Any]) -> None:
        super().__init__()
        self.given = given

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        found = self.given(x, x if z is None else z)
        found = found.to_dense() if hasattr(found, "to_dense") and not isinstance(found, Tensor) else found
        expected = (x.shape[-2], (x if z is None else z).shape[-2])
        if not isinstance(found, Tensor) or tuple(found.shape[-2:]) != expected:
            wanted = f"a tensor (..., {expected[0]}, {expected[1]}) for x and z"
            raise ValueError(message("Kernel", "kernel", wanted, checks.describe(found)))
        return found.to(x)


def as_kernel(kernel: object, name: str = "kernel") -> Kernel:
    """Makes a :class:`Kernel` of a function ``k(x, z)`` or of a gpytorch kernel; a Kernel is returned as it is.

    Args:
        kernel: a callable: x (..., M, D) and z (..., N, D) give a tensor (..., M, N), or an object with ``to_dense``.
        name: what errors call it.

    Raises:
        TypeError: it is not callable. When it is called, ValueError: the result has another shape.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import as_kernel
        >>> linear = as_kernel(lambda x, z: x @ z.mT)
        >>> linear.diagonal(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([5., 9.])
    """
    if isinstance(kernel, Kernel):
        return kernel
    if not callable(kernel):
        raise TypeError(message("Kernel", name, "a kernel: a callable k(x, z)", checks.describe(kernel)))
    return _Called(kernel)


def _log_parameter(op: str, name: str, value: float | Tensor, most_dims: int) -> nn.Parameter:
    found = torch.as_tensor(value, dtype=torch.float64).detach()
    if found.ndim > most_dims or not bool((found.isfinite() & (found > 0)).all()):
        expected = "a positive number" + (", or positive numbers (D,)" if most_dims else "")
        raise ValueError(message(op, name, expected, checks.shown(value)))
    return nn.Parameter(found.log())
