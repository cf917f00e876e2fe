"""Predicted probabilities: metrics of them, training and calibration for them, and the Bayes error of data."""

from ._similarity import similarity_matrix
from .bayes_error import BayesErrorAscent, kernel_bandwidth, kernel_bayes_error, mix
from .blackbox import blackbox_uncertainty
from .calibration import ReliabilityBins, debiased_ece, ece, ks, mce, reliability, smooth_ece
from .calibration_classes import ECE, KS, MCE, DebiasedECE, Reliability, SmoothECE
from .calibrators import HCalibrator
from .cape import CaPE, CaPEFit, bin_targets, cape_loss, kernel_targets
from .h_calibration import h_calibration_loss
from .inv_entropy import InverseModel, bootstrap_inv_entropy, inv_entropy, inverse_model, tsu
from .paraphrases import GAAP
from .plots import reliability_plot
from .ranking import auroc, average_precision
from .responses import InvEntropy, InvEntropyScore, as_llm, responses_of
from .scaling import PlattScaling, TemperatureScaling, VectorScaling
from .score_classes import AUROC, NLL, AveragePrecision, Brier, KLp, MSEp
from .scores import brier, kl_p, mse_p, nll

__all__ = [
    "AUROC",
    "ECE",
    "GAAP",
    "KS",
    "MCE",
    "NLL",
    "AveragePrecision",
    "BayesErrorAscent",
    "Brier",
    "CaPE",
    "CaPEFit",
    "DebiasedECE",
    "HCalibrator",
    "InvEntropy",
    "InvEntropyScore",
    "InverseModel",
    "KLp",
    "MSEp",
    "PlattScaling",
    "Reliability",
    "ReliabilityBins",
    "SmoothECE",
    "TemperatureScaling",
    "VectorScaling",
    "as_llm",
    "auroc",
    "average_precision",
    "bin_targets",
    "blackbox_uncertainty",
    "bootstrap_inv_entropy",
    "brier",
    "cape_loss",
    "debiased_ece",
    "ece",
    "h_calibration_loss",
    "inv_entropy",
    "inverse_model",
    "kernel_bandwidth",
    "kernel_bayes_error",
    "kernel_targets",
    "kl_p",
    "ks",
    "mce",
    "mix",
    "mse_p",
    "nll",
    "reliability",
    "reliability_plot",
    "responses_of",
    "similarity_matrix",
    "smooth_ece",
    "tsu",
]
