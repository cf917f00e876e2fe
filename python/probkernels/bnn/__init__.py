"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

from .densities import GaussianMixture, RealNVP, fit_gaussian_mixture, fit_real_nvp
from .prototype_head import ProtoHead
from .replay import Replayed, ReplayMemory
from .sequential import BayesianLinearRegression, Filtered, GaussianMean, filter_posterior

__all__ = [
    "BayesianLinearRegression",
    "Filtered",
    "GaussianMean",
    "GaussianMixture",
    "ProtoHead",
    "RealNVP",
    "ReplayMemory",
    "Replayed",
    "filter_posterior",
    "fit_gaussian_mixture",
    "fit_real_nvp",
]
