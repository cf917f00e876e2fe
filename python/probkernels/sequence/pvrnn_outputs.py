"""What a PV-RNN's lowest layer puts out: values coded by softmax over bins, or Gaussian means."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message


class SoftmaxCode(nn.Module):
    """Scalars as soft one-hot codes over bins: ``s_i`` proportional to ``exp(-(r_i - v)^2 / sigma)``.

    Args:
        dims: number of scalars O of a step.
        bins: number of references r, evenly spaced.
        low: the first reference.
        high: the last reference.
        sigma: width of the code, beside squared distances. Decoding, ``sum s_i r_i``, has a bias where ``sqrt(sigma)``
            is well below the spacing of the references.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a number is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import SoftmaxCode
        >>> code = SoftmaxCode(1, bins=5, sigma=0.05)
        >>> code.decode(code.encode(torch.tensor([0.3])))
        tensor([0.3656])
    """

    references: Tensor

    def __init__(self, dims: int, bins: int = 10, low: float = -1.0, high: float = 1.0, sigma: float = 0.05) -> None:
        super().__init__()
        self.dims = checks.integer("SoftmaxCode", "dims", dims)
        self.bins = checks.integer("SoftmaxCode", "bins", bins, 2)
        low, high = checks.number("SoftmaxCode", "low", low), checks.number("SoftmaxCode", "high", high)
        if not low < high:
            raise ValueError(message("SoftmaxCode", "high", f"a number above low = {low}", repr(high)))
        checks.positive("SoftmaxCode", "sigma", sigma)
        self.sigma = float(sigma)
        self.register_buffer("references", torch.linspace(low, high, bins, dtype=torch.float64), persistent=False)

    @property
    def features(self) -> int:
        """Numbers that a step's linear output has."""
        return self.dims * self.bins

    def encode(self, values: Tensor) -> Tensor:
        """values (..., O) -> codes (..., O, bins), which sum to 1."""
        far = values[..., None] - self.references.to(values)
        return (far.square() / -self.sigma).softmax(-1)

    def decode(self, code: Tensor) -> Tensor:
        """codes (..., O, bins) -> values (..., O)."""
        return code @ self.references.to(code)

    def mean(self, raw: Tensor) -> Tensor:
        """Linear outputs (..., O * bins) -> predicted codes (..., O, bins)."""
        return raw.unflatten(-1, (self.dims, self.bins)).softmax(-1)

    def log_prob(self, raw: Tensor, target: Tensor) -> Tensor:
        """Minus the divergence of the predicted codes from ``target`` (..., O, bins), summed over O: the log
        probability where codes are one-hot."""
        logs = raw.unflatten(-1, (self.dims, self.bins)).log_softmax(-1)
        return (target * logs - torch.xlogy(target, target)).sum((-1, -2))

    def targets(self, op: str, x: Tensor) -> Tensor:
        """Values (S, T, O) or codes (S, T, O, bins), checked, as codes."""
        if x.dim() == 4:
            checks.shape(op, "x", x, (*x.shape[:2], self.dims, self.bins), "(the codes of 'output')")
            return x
        _check_values(op, x, self.dims)
        return self.encode(x)


class GaussianOutput(nn.Module):
    """Normal values around a linear or tanh output, with a fixed deviation.

    Args:
        dims: number of scalars O of a step.
        sigma: standard deviation. With 1 the loss is half the squared error and a constant.
        activation: ``"linear"`` or ``"tanh"``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a number is out of range, or the activation is unknown.

    Example:
        >>> import torch
        >>> from probkernels.sequence import GaussianOutput
        >>> GaussianOutput(2).log_prob(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor(-2.3379)
    """

    def __init__(self, dims: int, sigma: float = 1.0, activation: str = "linear") -> None:
        super().__init__()
        self.dims = checks.integer("GaussianOutput", "dims", dims)
        checks.positive("GaussianOutput", "sigma", sigma)
        checks.one_of("GaussianOutput", "activation", activation, ("linear", "tanh"))
        self.sigma, self.activation = float(sigma), activation

    @property
    def features(self) -> int:
        """Numbers that a step's linear output has."""
        return self.dims

    def decode(self, code: Tensor) -> Tensor:
        """Means are the values themselves."""
        return code

    def mean(self, raw: Tensor) -> Tensor:
        """Linear outputs (..., O) -> means (..., O)."""
        return raw.tanh() if self.activation == "tanh" else raw

    def log_prob(self, raw: Tensor, target: Tensor) -> Tensor:
        """The log density of ``target`` (..., O), summed over O."""
        far = (target - self.mean(raw)) / self.sigma
        return -far.square().sum(-1) / 2 - self.dims * (math.log(self.sigma) + math.log(2 * math.pi) / 2)

    def targets(self, op: str, x: Tensor) -> Tensor:
        """Values (S, T, O), checked."""
        _check_values(op, x, self.dims)
        return x


def _check_values(op: str, x: Tensor, dims: int) -> None:
    if x.dim() != 3 or x.shape[2] != dims:
        raise ValueError(message(op, "x", f"shape (sequences, steps, {dims})", f"shape {tuple(x.shape)}"))
