"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

from ._functional import functional_call
from .densities import GaussianMixture, RealNVP, fit_gaussian_mixture, fit_real_nvp
from .likelihoods import CategoricalLikelihood, GaussianLikelihood
from .networks import ScaledLinear, scaled_mlp
from .priors import GaussianPrior, HierarchicalPrior, Prior
from .prototype_head import ProtoHead
from .replay import Replayed, ReplayMemory
from .sequential import BayesianLinearRegression, DensityPrior, Filtered, GaussianMean, filter_posterior

__all__ = [
    "BayesianLinearRegression",
    "CategoricalLikelihood",
    "DensityPrior",
    "Filtered",
    "GaussianLikelihood",
    "GaussianMean",
    "GaussianMixture",
    "GaussianPrior",
    "HierarchicalPrior",
    "Prior",
    "ProtoHead",
    "RealNVP",
    "ReplayMemory",
    "Replayed",
    "ScaledLinear",
    "filter_posterior",
    "fit_gaussian_mixture",
    "fit_real_nvp",
    "functional_call",
    "scaled_mlp",
]
