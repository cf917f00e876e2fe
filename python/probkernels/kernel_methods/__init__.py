"""Kernel methods: kernels, Gaussian-process regression, batched over functions."""

from .finite_ensemble import ScaleMixtureEnsemble
from .gp_regression import GPPosteriorMean, GPRegression
from .kernel import RBF, Kernel, as_kernel
from .mlp_kernel import MLPKernel, ResidualMLPKernel
from .ntk_regression import NTKRegressor
from .permutation_ntk import (
    PermutationMoments,
    ensemble_size,
    permutation_covariance,
    permutation_moments,
    round_sign,
    success_probability,
)
from .rbf import rbf_kernel, rbf_mean
from .samplers import GPSampler
from .scale_mixture_classifier import ScaleMixtureClassifier
from .scale_mixture_gp import ScaleMixtureGP, select_scale_mixture
from .scale_priors import Burr12, FixedScale, InverseGamma
from .sparse_gp import SparseGPRegression

__all__ = [
    "RBF",
    "Burr12",
    "FixedScale",
    "GPPosteriorMean",
    "GPRegression",
    "GPSampler",
    "InverseGamma",
    "Kernel",
    "MLPKernel",
    "NTKRegressor",
    "PermutationMoments",
    "ResidualMLPKernel",
    "ScaleMixtureClassifier",
    "ScaleMixtureEnsemble",
    "ScaleMixtureGP",
    "SparseGPRegression",
    "as_kernel",
    "ensemble_size",
    "permutation_covariance",
    "permutation_moments",
    "rbf_kernel",
    "rbf_mean",
    "round_sign",
    "select_scale_mixture",
    "success_probability",
]
