"""Kernel methods: kernels, Gaussian-process regression, batched over functions."""

from .gp_regression import GPPosteriorMean, GPRegression
from .kernel import RBF, Kernel, as_kernel
from .mlp_kernel import MLPKernel, ResidualMLPKernel
from .ntk_regression import NTKRegressor
from .rbf import rbf_kernel, rbf_mean
from .samplers import GPSampler
from .sparse_gp import SparseGPRegression

__all__ = [
    "RBF",
    "GPPosteriorMean",
    "GPRegression",
    "GPSampler",
    "Kernel",
    "MLPKernel",
    "NTKRegressor",
    "ResidualMLPKernel",
    "SparseGPRegression",
    "as_kernel",
    "rbf_kernel",
    "rbf_mean",
]
