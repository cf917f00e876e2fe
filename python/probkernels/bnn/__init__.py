"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

from ._functional import functional_call
from ._target import PosteriorSamples
from .densities import GaussianMixture, RealNVP, fit_gaussian_mixture, fit_real_nvp
from .diagnostics import ess_bulk, ess_tail, rhat
from .hmc import HMC
from .likelihoods import CategoricalLikelihood, GaussianLikelihood
from .networks import ScaledLinear, scaled_mlp
from .priors import GaussianPrior, HierarchicalPrior, Prior
from .prototype_head import ProtoHead
from .replay import Replayed, ReplayMemory
from .sequential import BayesianLinearRegression, DensityPrior, Filtered, GaussianMean, filter_posterior
from .sghmc import AdaptiveSGHMC, sample_posterior

__all__ = [
    "HMC",
    "AdaptiveSGHMC",
    "BayesianLinearRegression",
    "CategoricalLikelihood",
    "DensityPrior",
    "Filtered",
    "GaussianLikelihood",
    "GaussianMean",
    "GaussianMixture",
    "GaussianPrior",
    "HierarchicalPrior",
    "PosteriorSamples",
    "Prior",
    "ProtoHead",
    "RealNVP",
    "ReplayMemory",
    "Replayed",
    "ScaledLinear",
    "ess_bulk",
    "ess_tail",
    "filter_posterior",
    "fit_gaussian_mixture",
    "fit_real_nvp",
    "functional_call",
    "rhat",
    "sample_posterior",
    "scaled_mlp",
]
