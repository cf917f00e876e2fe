"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

from ._functional import functional_call
from ._target import PosteriorSamples
from .densities import GaussianMixture, RealNVP, fit_gaussian_mixture, fit_real_nvp
from .diagnostics import ess_bulk, ess_tail, rhat
from .distances import energy_distance, sliced_wasserstein, wasserstein_1d
from .flow_prior import FlowPrior, PlanarFlow
from .functional_prior import FunctionalPriorMatcher, MatchReport
from .hmc import HMC
from .likelihoods import CategoricalLikelihood, GaussianLikelihood
from .measurement import FixedPoints, TrainingAndBox, TrainingSubset
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
    "FixedPoints",
    "FlowPrior",
    "FunctionalPriorMatcher",
    "GaussianLikelihood",
    "GaussianMean",
    "GaussianMixture",
    "GaussianPrior",
    "HierarchicalPrior",
    "MatchReport",
    "PlanarFlow",
    "PosteriorSamples",
    "Prior",
    "ProtoHead",
    "RealNVP",
    "ReplayMemory",
    "Replayed",
    "ScaledLinear",
    "TrainingAndBox",
    "TrainingSubset",
    "energy_distance",
    "ess_bulk",
    "ess_tail",
    "filter_posterior",
    "fit_gaussian_mixture",
    "fit_real_nvp",
    "functional_call",
    "rhat",
    "sample_posterior",
    "scaled_mlp",
    "sliced_wasserstein",
    "wasserstein_1d",
]
