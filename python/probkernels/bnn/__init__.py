"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

from ._functional import functional_call
from ._target import PosteriorSamples
from .diagnostics import ess_bulk, ess_tail, rhat
from .hmc import HMC
from .likelihoods import CategoricalLikelihood, GaussianLikelihood
from .networks import ScaledLinear, scaled_mlp
from .priors import GaussianPrior, HierarchicalPrior, Prior
from .sghmc import AdaptiveSGHMC, sample_posterior

__all__ = [
    "HMC",
    "AdaptiveSGHMC",
    "CategoricalLikelihood",
    "GaussianLikelihood",
    "GaussianPrior",
    "HierarchicalPrior",
    "PosteriorSamples",
    "Prior",
    "ScaledLinear",
    "ess_bulk",
    "ess_tail",
    "functional_call",
    "rhat",
    "sample_posterior",
    "scaled_mlp",
]
