"""Kernel methods: kernels, Gaussian-process regression, batched over functions."""

from .gp_regression import GPPosteriorMean, GPRegression
from .kernel import RBF, Kernel, as_kernel
from .mlp_kernel import MLPKernel, ResidualMLPKernel
from .rbf import rbf_kernel, rbf_mean

__all__ = [
    "RBF",
    "GPPosteriorMean",
    "GPRegression",
    "Kernel",
    "MLPKernel",
    "ResidualMLPKernel",
    "as_kernel",
    "rbf_kernel",
    "rbf_mean",
]
