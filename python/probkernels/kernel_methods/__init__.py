"""Kernel methods: kernels, Gaussian-process regression, batched over functions."""

from .cnn_kernel import CNNKernel
from .deep_kernel_machine import DeepKernelMachine, dkm_objective
from .dkm_estimators import DKMClassifier, DKMRegressor
from .finite_ensemble import ScaleMixtureEnsemble
from .gp_batches import predict_each
from .gp_regression import GPPosteriorMean, GPRegression
from .gram_kernels import GramKernel, GramState
from .gram_layers import GramBatchNorm, GramLayer, InducingOutput, gram_kl
from .kernel import RBF, Kernel, as_kernel
from .mlp_kernel import MLPKernel, ResidualMLPKernel
from .ntk_regression import NTKRegressor
from .permutation_ensemble import PermutationEnsemble
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
from .sparse_dkm import CategoricalLikelihood, DKMOutput, GaussianLikelihood, SparseDKM
from .sparse_gp import SparseGPRegression
from .stationary import Matern, Periodic, matern_kernel, periodic_kernel

__all__ = [
    "RBF",
    "Burr12",
    "CNNKernel",
    "CategoricalLikelihood",
    "DKMClassifier",
    "DKMOutput",
    "DKMRegressor",
    "DeepKernelMachine",
    "FixedScale",
    "GPPosteriorMean",
    "GPRegression",
    "GPSampler",
    "GaussianLikelihood",
    "GramBatchNorm",
    "GramKernel",
    "GramLayer",
    "GramState",
    "InducingOutput",
    "InverseGamma",
    "Kernel",
    "MLPKernel",
    "Matern",
    "NTKRegressor",
    "Periodic",
    "PermutationEnsemble",
    "PermutationMoments",
    "ResidualMLPKernel",
    "ScaleMixtureClassifier",
    "ScaleMixtureEnsemble",
    "ScaleMixtureGP",
    "SparseDKM",
    "SparseGPRegression",
    "as_kernel",
    "dkm_objective",
    "ensemble_size",
    "gram_kl",
    "matern_kernel",
    "periodic_kernel",
    "permutation_covariance",
    "permutation_moments",
    "predict_each",
    "rbf_kernel",
    "rbf_mean",
    "round_sign",
    "select_scale_mixture",
    "success_probability",
]
