"""Kernels that are functions of a Gram matrix: all that a deep kernel machine knows of its features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from ..ops.arc_cosine import DTYPES, arc_cosine
from ..reference.arc_cosine import clamped

COS_MARGIN = 1e-6  # |cos| stays this far below 1, where the derivative of the angle is infinite
OP_PAIRS = 2**16  # of points: from here on the op is faster, and with fewer its call costs more than the arithmetic
LEAST = 1e-24  # of a product of two squared lengths: a point at the origin has no angle


class GramState(NamedTuple):
    """Gram matrices of n inducing points and of a batch of B points: what passes from layer to layer.

    Attributes:
        ii: (n, n), between inducing points.
        ti: (B, n), between the batch and the inducing points.
        t: (B,), the diagonal of the batch.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GramState
        >>> GramState(torch.eye(2), torch.zeros(3, 2), torch.ones(3)).ti.shape
        torch.Size([3, 2])
    """

    ii: Tensor
    ti: Tensor
    t: Tensor


def _lengths_and_cosine(gram: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    lengths = (left[..., None] * right[..., None, :]).clamp_min(LEAST).sqrt()
    return lengths, (gram / lengths).clamp(COS_MARGIN - 1, 1 - COS_MARGIN)


def _relu(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    if gram.numel() >= OP_PAIRS and gram.dtype in DTYPES:
        return arc_cosine(gram, left, right, weights=(1.0, 1.0), normalize=True, ntk=False)[0]
    products = left[..., None] * right[..., None, :]
    lengths = products.clamp_min(LEAST).sqrt()
    cos = clamped(torch.where(products > LEAST, gram, 0.0) / lengths)  # as in the op: finite slope at equal points
    angle = cos.acos()
    return lengths * torch.addcmul(angle.sin(), math.pi - angle, cos) / math.pi


def _heaviside(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    lengths, cos = _lengths_and_cosine(gram, left, right)
    return lengths * (1 - cos.acos() / math.pi)


def _squared_exponential(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return (gram - (left[..., None] + right[..., None, :]) / 2).clamp_max(0).exp()


def _normalized_gaussian(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    lengths = (left[..., None] * right[..., None, :]).clamp_min(LEAST).sqrt()
    return lengths * (gram / lengths - 1).clamp_max(0).exp()


def _linear(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return gram


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "relu": _relu,
    "squared_exponential": _squared_exponential,
    "normalized_gaussian": _normalized_gaussian,
    "heaviside": _heaviside,
    "linear": _linear,
}


class GramKernel(nn.Module):
    """A kernel that needs only inner products: weight * k(G) + bias.

    With g the squared lengths and t the angle of two points: "relu" is
    ``sqrt(g_i g_j) (sin t + (pi - t) cos t) / pi``, the arc-cosine kernel of order 1, scaled to keep the diagonal;
    "heaviside" ``sqrt(g_i g_j) (1 - t / pi)``; "squared_exponential" ``exp(G_ij - (g_i + g_j) / 2)``;
    "normalized_gaussian" ``sqrt(g_i g_j) exp(cos t - 1)``; "linear" is G itself. |cos t| is at most 1 - 1e-6 for
    "heaviside" and 1 - eps for "relu", and the diagonal is set, not computed from angles. A point at the origin has
    the value ``bias`` with all others.

    Args:
        name: one of these names.
        weight: positive number.
        bias: number >= 0. If 0, it stays 0.
        learn: whether weight and bias are parameters.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GramKernel
        >>> GramKernel("relu", learn=False)(torch.tensor([[1.0, 0.3], [0.3, 1.0]]))
        tensor([[1.0000, 0.4827],
                [0.4827, 1.0000]])
    """

    def __init__(self, name: str = "relu", *, weight: float = 1.0, bias: float = 0.0, learn: bool = True) -> None:
        super().__init__()
        checks.one_of("GramKernel", "name", name, tuple(KERNELS))
        checks.positive("GramKernel", "weight", weight)
        checks.non_negative("GramKernel", "bias", bias)
        self.name = name
        start = torch.tensor(weight, dtype=torch.float64).log()
        self.log_weight = nn.Parameter(start, requires_grad=learn)
        self.log_bias = None
        if bias:
            self.log_bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64).log(), requires_grad=learn)

    def extra_repr(self) -> str:
        """The name of the kernel."""
        return repr(self.name)

    def forward(self, gram: Tensor) -> Tensor:
        """The kernel matrix (n, n) of a Gram matrix (n, n)."""
        diagonal = gram.diagonal()
        return self._scaled(torch.diagonal_scatter(self._raw(gram, diagonal, diagonal), self._raw_diagonal(diagonal)))

    def cross(self, gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The kernel matrix (M, N) of inner products (M, N) and squared lengths (M,) and (N,)."""
        return self._scaled(self._raw(gram, left, right))

    def diagonal(self, lengths: Tensor) -> Tensor:
        """The diagonal of the kernel matrix, of squared lengths (B,)."""
        return self._scaled(self._raw_diagonal(lengths))

    def of_state(self, state: GramState) -> GramState:
        """Kernel matrices of all three parts of a state."""
        ti = self.cross(state.ti, state.t, state.ii.diagonal())
        return GramState(self(state.ii), ti, self.diagonal(state.t))

    def _raw(self, gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return KERNELS[self.name](gram, left, right)

    def _raw_diagonal(self, lengths: Tensor) -> Tensor:
        return torch.ones_like(lengths) if self.name == "squared_exponential" else lengths

    def _scaled(self, values: Tensor) -> Tensor:
        scaled = self.log_weight.exp().to(values) * values
        return scaled if self.log_bias is None else scaled + self.log_bias.exp().to(values)


def as_gram_kernel(op: str, kernel: object) -> GramKernel:
    """A new kernel of a name, with the weight and bias that deep kernel machines start from; a kernel as it is."""
    if isinstance(kernel, GramKernel):
        return kernel
    checks.one_of(op, "kernel", kernel, tuple(KERNELS))
    return GramKernel(str(kernel), bias=0.1)
