"""The RBF kernel, and sums of RBF kernels."""

from __future__ import annotations

from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..ops.rbf_mean import can_expand, check_lengthscale, exponents, rbf_mean

__all__ = ["rbf_kernel", "rbf_mean"]


def rbf_kernel(x: Tensor, z: Tensor, lengthscale: float | Tensor, variance: float | Tensor) -> Tensor:
    """The RBF kernel matrix k(x, z) = variance * exp(-|x - z|^2 / (2 lengthscale^2)).

    Args:
        x: (..., M, D) points, float32 or float64.
        z: (..., N, D) points of the same dtype.
        lengthscale: positive number, or a tensor (..., 1, 1): one for each matrix.
        variance: a number, or a tensor that broadcasts with the result.

    Returns:
        (..., M, N) kernel matrix.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, or a lengthscale is not positive.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import rbf_kernel
        >>> rbf_kernel(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]), 1.0, 2.0)
        tensor([[2.0000, 1.2131]])
    """
    for name, value in (("x", x), ("z", z)):
        checks.wide_float_tensor("rbf_kernel", name, value)
    if x.ndim < 2 or z.ndim < 2 or x.shape[-1] != z.shape[-1] or x.dtype != z.dtype:
        expected = "shape (..., N, D) with the D and the dtype of 'x'"
        raise ValueError(message("rbf_kernel", "z", expected, f"{checks.describe(z)} beside {checks.describe(x)}"))
    check_lengthscale("rbf_kernel", lengthscale)
    if isinstance(lengthscale, Tensor) and lengthscale.shape[-2:].numel() > 1:
        got = f"shape {tuple(lengthscale.shape)}"
        hint = "divide 'x' and 'z' by lengthscales of their columns"
        raise ValueError(message("rbf_kernel", "lengthscale", "a number, or shape (..., 1, 1)", got, hint))
    center = z.detach().mean(-2, keepdim=True)
    u, w = (x - center) / lengthscale, (z - center) / lengthscale
    return variance * exponents(u, w, can_expand(u, w)).exp()
