"""Kernel methods: kernels, Gaussian-process regression, batched over functions."""

from .deep_kernel_machine import DeepKernelMachine, dkm_objective
from .dkm_estimators import DKMClassifier, DKMRegressor
from .gp_regression import GPPosteriorMean, GPRegression
from .gram_kernels import GramKernel, GramState
from .gram_layers import GramBatchNorm, GramLayer, InducingOutput, gram_kl
from .kernel import RBF, Kernel, as_kernel
from .rbf import rbf_kernel, rbf_mean
from .sparse_dkm import CategoricalLikelihood, DKMOutput, GaussianLikelihood, SparseDKM

__all__ = [
    "RBF",
    "CategoricalLikelihood",
    "DKMClassifier",
    "DKMOutput",
    "DKMRegressor",
    "DeepKernelMachine",
    "GPPosteriorMean",
    "GPRegression",
    "GaussianLikelihood",
    "GramBatchNorm",
    "GramKernel",
    "GramLayer",
    "GramState",
    "InducingOutput",
    "Kernel",
    "SparseDKM",
    "as_kernel",
    "dkm_objective",
    "gram_kl",
    "rbf_kernel",
    "rbf_mean",
]
