"""Likelihoods of observations given the outputs of networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message


class GaussianLikelihood:
    """y = f(x) + normal noise of a fixed variance, independent for each output.

    Args:
        noise: the variance of the noise.

    Raises:
        TypeError, ValueError: ``noise`` is no positive number.

    Example:
        >>> import torch
        >>> from probkernels.bnn import GaussianLikelihood
        >>> f, y = torch.zeros(2, 3, 1), torch.tensor([[0.0], [1.0], [2.0]])
        >>> GaussianLikelihood(0.5).log_prob(f, y).shape
        torch.Size([2, 3])
    """

    def __init__(self, noise: float = 0.1) -> None:
        checks.positive("GaussianLikelihood", "noise", noise)
        self.noise = noise

    def check(self, op: str, outputs: Tensor, y: Tensor) -> None:
        """Raises if ``y`` (N, out) are no observations of ``outputs`` (n, N, out)."""
        checks.wide_float_tensor(op, "y", y)
        checks.shape(op, "y", y, outputs.shape[1:], "(that of the network's outputs)", "y[:, None] makes a column")
        checks.finite(op, "y", y, "leave out rows with missing values")

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """log p(y | f) of each of n functions and N observations.

        Args:
            outputs: (n, N, out) values of the functions.
            y: (N, out) observations.

        Returns:
            (n, N) logarithms of densities, summed over the outputs.
        """
        squares = (outputs - y).square().flatten(2).sum(2)
        count = math.prod(outputs.shape[2:])
        return -squares / (2 * self.noise) - count / 2 * math.log(2 * math.pi * self.noise)

    def predict(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (N, out) of y, from ``outputs`` (n, N, out) of posterior samples.

        The variance is that of the samples plus the noise.
        """
        return outputs.mean(0), outputs.var(0, correction=0) + self.noise

    def __repr__(self) -> str:
        return f"GaussianLikelihood(noise={self.noise})"


class CategoricalLikelihood:
    """Classes with probabilities softmax(f(x)).

    Example:
        >>> import torch
        >>> from probkernels.bnn import CategoricalLikelihood
        >>> CategoricalLikelihood().log_prob(torch.zeros(1, 2, 4), torch.tensor([0, 3])).exp()
        tensor([[0.2500, 0.2500]])
    """

    def check(self, op: str, outputs: Tensor, y: Tensor) -> None:
        """Raises if ``y`` (N,) are no classes of ``outputs`` (n, N, classes)."""
        checks.integer_tensor(op, "y", y, "y.long() if the entries are classes")
        if outputs.dim() != 3:
            got = f"outputs of shape {tuple(outputs.shape[1:])}"
            raise ValueError(message(op, "model", "a network with outputs (N, classes)", got))
        checks.shape(op, "y", y, outputs.shape[1:2], "(a class for each row)")
        wrong = (y < 0) | (y >= outputs.shape[-1])
        if wrong.any():
            raise ValueError(message(op, "y", f"classes 0 to {outputs.shape[-1] - 1}", checks.offender(y, wrong)))

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """log p(y | f) of each of n functions and N observations.

        Args:
            outputs: (n, N, classes) logits.
            y: (N,) classes.

        Returns:
            (n, N) logarithms of probabilities.
        """
        index = y.long().expand(outputs.shape[0], -1)[..., None]
        return F.log_softmax(outputs, -1).gather(-1, index)[..., 0]

    def predict(self, outputs: Tensor) -> Tensor:
        """Probabilities (N, classes): the mean over ``outputs`` (n, N, classes) of posterior samples."""
        return torch.softmax(outputs, -1).mean(0)

    def __repr__(self) -> str:
        return "CategoricalLikelihood()"


Likelihood = GaussianLikelihood | CategoricalLikelihood
