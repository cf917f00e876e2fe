"""Stationary kernels besides RBF: Matern kernels and the periodic kernel, as functions of batches and as modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..ops.rbf_mean import exponents
from .kernel import Kernel, _log_parameter
from .rbf import rbf_kernel

ORDERS = (0.5, 1.5, 2.5)


def matern_kernel(
    x: Tensor, z: Tensor, lengthscale: float | Tensor, variance: float | Tensor, nu: float = 2.5
) -> Tensor:
    """The Matern kernel matrix of order nu, with r = |x - z| / lengthscale.

    nu = 5/2: variance * (1 + √5 r + 5 r²/3) exp(-√5 r); nu = 3/2: variance * (1 + √3 r) exp(-√3 r); nu = 1/2:
    variance * exp(-r). First derivatives are right everywhere, and 0 at r = 0.

    Args:
        x: (..., M, D) points, float32 or float64.
        z: (..., N, D) points of the same dtype.
        lengthscale: positive number, or a tensor (..., 1, 1): one for each matrix.
        variance: a number, or a tensor that broadcasts with the result.
        nu: 0.5, 1.5 or 2.5.

    Returns:
        (..., M, N) kernel matrix.

    Raises:
        TypeError, ValueError: as :func:`rbf_kernel`; or there is no kernel of this order.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import matern_kernel
        >>> matern_kernel(torch.tensor([[0.0]]), torch.tensor([[0.0], [0.3]]), 0.5, 1.0)
        tensor([[1.0000, 0.7690]])
    """
    checks.one_of("matern_kernel", "nu", nu, ORDERS)
    rbf_kernel(x[..., :0, :], z[..., :0, :], lengthscale, 1.0)  # its checks
    squared = -2 * exponents(x / lengthscale, z / lengthscale, False)  # exact near 0, where the root would show errors
    s = (2 * nu * squared).clamp(min=torch.finfo(squared.dtype).tiny).sqrt()  # clamped: the root has no slope at 0
    polynomial = 1 + s * (nu > 0.5) + s.square() / 3 * (nu > 1.5)
    return variance * polynomial * (-s).exp()


def periodic_kernel(
    x: Tensor, z: Tensor, lengthscale: float | Tensor, period: float | Tensor, variance: float | Tensor
) -> Tensor:
    """The periodic kernel matrix k(x, z) = variance * exp(-2 sum_d sin(π (x_d - z_d) / period)² / lengthscale²).

    It is the RBF kernel of points on circles.

    Args:
        x: (..., M, D) points, float32 or float64.
        z: (..., N, D) points of the same dtype.
        lengthscale: positive number, or a tensor (..., 1, 1): one for each matrix.
        period: positive number, or a tensor (..., 1, 1).
        variance: a number, or a tensor that broadcasts with the result.

    Returns:
        (..., M, N) kernel matrix.

    Raises:
        TypeError, ValueError: as :func:`rbf_kernel`; or a period is not positive.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import periodic_kernel
        >>> periodic_kernel(torch.tensor([[0.0]]), torch.tensor([[0.3], [0.4]]), 0.5, 0.4, 1.0)
        tensor([[0.0183, 1.0000]])
    """
    for name, value in (("x", x), ("z", z)):
        checks.wide_float_tensor("periodic_kernel", name, value)
    if isinstance(period, Tensor):
        wrong = ~(period > 0) | ~period.isfinite()
        if wrong.any():
            raise ValueError(message("periodic_kernel", "period", "positive numbers", checks.offender(period, wrong)))
    else:
        checks.positive("periodic_kernel", "period", period)
    return rbf_kernel(on_circle(x, period), on_circle(z, period), lengthscale, variance)


def on_circle(x: Tensor, period: float | Tensor) -> Tensor:
    """Cosines and sines (..., M, 2 D) of points (..., M, D), which make one turn in a period."""
    angle = 2 * math.pi * x / period
    return torch.cat([angle.cos(), angle.sin()], -1)


class Matern(Kernel):
    """The Matern kernel of order nu with trainable hyperparameters: see :func:`matern_kernel`.

    Args:
        lengthscale: positive number for all inputs, or (D,): one for each input.
        variance: positive number.
        nu: 0.5, 1.5 or 2.5.

    Attributes:
        log_lengthscale, log_variance: the parameters, float64 unless the module is cast.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import Matern
        >>> Matern(lengthscale=2.0, variance=3.0)(torch.tensor([[0.0]]), torch.tensor([[2.0]]))
        tensor([[1.5720]], grad_fn=<MulBackward0>)
    """

    def __init__(self, lengthscale: float | Tensor = 1.0, variance: float = 1.0, nu: float = 2.5) -> None:
        super().__init__()
        checks.one_of("Matern", "nu", nu, ORDERS)
        self.nu = nu
        self.log_lengthscale = _log_parameter("Matern", "lengthscale", lengthscale, 1)
        self.log_variance = _log_parameter("Matern", "variance", variance, 0)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        scale, variance = self.log_lengthscale.exp().to(x), self.log_variance.exp().to(x)
        x = x / scale
        return matern_kernel(x, x if z is None else z / scale, 1.0, variance, self.nu)

    def diagonal(self, x: Tensor) -> Tensor:
        return self.log_variance.exp().to(x).expand(x.shape[:-1])


class Periodic(Kernel):
    """The periodic kernel with trainable hyperparameters: see :func:`periodic_kernel`.

    Args:
        lengthscale: positive number.
        period: positive number.
        variance: positive number.

    Attributes:
        log_lengthscale, log_period, log_variance: the parameters, float64 unless the module is cast.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import Periodic
        >>> Periodic(lengthscale=0.5, period=0.4)(torch.tensor([[0.0]]), torch.tensor([[0.3]]))
        tensor([[0.0183]], grad_fn=<MulBackward0>)
    """

    def __init__(self, lengthscale: float = 1.0, period: float = 1.0, variance: float = 1.0) -> None:
        super().__init__()
        self.log_lengthscale = _log_parameter("Periodic", "lengthscale", lengthscale, 0)
        self.log_period = _log_parameter("Periodic", "period", period, 0)
        self.log_variance = _log_parameter("Periodic", "variance", variance, 0)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        scale, period, variance = (t.exp().to(x) for t in (self.log_lengthscale, self.log_period, self.log_variance))
        return periodic_kernel(x, x if z is None else z, scale, period, variance)

    def diagonal(self, x: Tensor) -> Tensor:
        return self.log_variance.exp().to(x).expand(x.shape[:-1])
