"""Predictions of neural processes: a mixture over functions, each with Gaussian noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


def gaussian_log_density(y: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """log N(y; mean, stddev^2), summed over the last dimension."""
    return -(((y - mean) / stddev).square() / 2 + stddev.log() + math.log(2 * math.pi) / 2).sum(-1)


def log_mean_exp(values: Tensor) -> Tensor:
    """The logarithm of the mean of exp(values) over the first dimension."""
    return values.logsumexp(0) - math.log(len(values))


class FunctionMixture:
    """What a neural process predicts: K equally likely functions, each with independent Gaussian noise at its points.

    Targets of one row of the batch share a function; rows are independent. All K are 1 if the model has no
    uncertainty about the function; joint and marginal densities then agree.

    Args:
        means: values of the functions, (K, B, m) or, for y of C columns, (K, B, m, C).
        stddevs: positive standard deviations of the noise, of the same shape.

    Attributes:
        functions: ``means``: each of the K is one sampled function, the same function at all targets of a row.

    Raises:
        TypeError, ValueError: an argument is no float tensor, or their shapes differ.

    Example:
        >>> import torch
        >>> from probkernels.amortized import FunctionMixture
        >>> two = FunctionMixture(torch.tensor([[[-1.0, -1.0]], [[1.0, 1.0]]]), torch.full((2, 1, 2), 0.5))
        >>> two.mean, two.stddev
        (tensor([[0., 0.]]), tensor([[1.1180, 1.1180]]))
        >>> y = torch.tensor([[1.0, 1.0]])
        >>> two.log_prob(y).sum(-1), two.joint_log_prob(y)
        (tensor([-1.8372]), tensor([-1.1447]))
    """

    def __init__(self, means: Tensor, stddevs: Tensor) -> None:
        checks.float_tensor("FunctionMixture", "means", means)
        checks.float_tensor("FunctionMixture", "stddevs", stddevs)
        if means.ndim not in (3, 4) or not len(means):
            raise ValueError(
                message("FunctionMixture", "means", "shape (K, B, m) or (K, B, m, C)", checks.describe(means))
            )
        checks.shape("FunctionMixture", "stddevs", stddevs, means.shape, "as 'means'")
        self.functions, self.stddevs = means, stddevs

    def __len__(self) -> int:
        return len(self.functions)

    def __repr__(self) -> str:
        return f"FunctionMixture({len(self)} functions, means {tuple(self.functions.shape[1:])})"

    @property
    def mean(self) -> Tensor:
        """The mean of y at every target: (B, m) or (B, m, C)."""
        return self.functions.mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance of y at every target: that of the noise, and that over functions."""
        return self.stddevs.square().mean(0) + self.functions.var(0, correction=0)

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of y at every target."""
        return self.variance.sqrt()

    def log_probs(self, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """log N(y) under each function: (K, B, m), summed over the columns of y; 0 where ``mask`` is False."""
        y, mask = self._checked(y, mask)
        if mask is not None:  # what is hidden may be NaN
            y = torch.where(mask if self.functions.ndim == 3 else mask[..., None], y, self.functions[0].detach())
        means, stddevs = self.functions, self.stddevs
        if self.functions.ndim == 3:
            y, means, stddevs = y[..., None], means[..., None], stddevs[..., None]
        found = gaussian_log_density(y, means, stddevs)
        return found if mask is None else found.masked_fill(~mask, 0)

    def log_prob(self, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """The marginal log density of every target alone: (B, m).

        Args:
            y: targets, (B, m) or (B, m, C).
            mask: (B, m) bool, True for targets that exist; the others get 0.

        Raises:
            TypeError, ValueError: a dtype or shape is wrong, or a target that exists is NaN or infinite.
        """
        return log_mean_exp(self.log_probs(y, mask))

    def joint_log_prob(self, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """The log density of all targets of a row together: (B,). The mean over functions is that of products.

        Arguments and errors are those of :meth:`log_prob`.
        """
        return log_mean_exp(self.log_probs(y, mask).sum(-1))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws y with noise: (n, B, m) or (n, B, m, C). In a draw, targets of one row share a function."""
        checks.integer("FunctionMixture", "n", n)
        k, b = self.functions.shape[:2]
        device = self.functions.device
        choice = torch.randint(k, (n, b), generator=generator, device=device)
        rows = torch.arange(b, device=device)
        means, stddevs = self.functions[choice, rows], self.stddevs[choice, rows]
        noise = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=device)
        return means + stddevs * noise

    def _checked(self, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        checks.float_tensor("log_prob", "y", y, checks.AS_TENSOR)
        checks.shape("log_prob", "y", y, self.functions.shape[1:], "as the mean")
        checks.same_device("log_prob", "y", y, self.functions, "functions")
        wrong = ~y.isfinite()
        if mask is not None:
            checks.bool_tensor("log_prob", "mask", mask)
            checks.shape("log_prob", "mask", mask, self.functions.shape[1:3], "(B, m)")
            wrong = wrong & (mask if y.ndim == 2 else mask[..., None])
        if checks.readable(y) and bool(wrong.any()):
            hint = "hide missing targets with 'mask'"
            raise ValueError(message("log_prob", "y", "finite targets", checks.offender(y, wrong), hint))
        return y, mask
