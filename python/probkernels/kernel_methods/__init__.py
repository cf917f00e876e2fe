"""Kernel methods: Gaussian-process regression, batched over functions."""

from .gp_regression import GPPosteriorMean, GPRegression
from .rbf import rbf_kernel, rbf_mean

__all__ = ["GPPosteriorMean", "GPRegression", "rbf_kernel", "rbf_mean"]
