"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bootstrap_np import BANP, BNP
from .martingale_np import MPANP, MPNP, ISABGenerator, MPNPLosses
from .martingale_posterior import GaussianMean, PolyaUrn, predictive_resample
from .neural_process import ANP, CANP, CNP, NP, NeuralProcess
from .np_predictive import FunctionMixture
from .np_training import fit_neural_process

__all__ = [
    "ANP",
    "BANP",
    "BNP",
    "CANP",
    "CNP",
    "MPANP",
    "MPNP",
    "NP",
    "FunctionMixture",
    "GaussianMean",
    "ISABGenerator",
    "MPNPLosses",
    "NeuralProcess",
    "PolyaUrn",
    "fit_neural_process",
    "predictive_resample",
]
