"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

from ._functional import functional_call
from .likelihoods import CategoricalLikelihood, GaussianLikelihood
from .networks import ScaledLinear, scaled_mlp
from .priors import GaussianPrior, HierarchicalPrior, Prior

__all__ = [
    "CategoricalLikelihood",
    "GaussianLikelihood",
    "GaussianPrior",
    "HierarchicalPrior",
    "Prior",
    "ScaledLinear",
    "functional_call",
    "scaled_mlp",
]
