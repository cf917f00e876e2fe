"""Metrics of predicted probabilities: ranking, distance to the truth, calibration. As functions, and batch by batch."""

from .bayes_error import BayesErrorAscent, kernel_bandwidth, kernel_bayes_error, mix
from .calibration import ReliabilityBins, debiased_ece, ece, ks, mce, reliability, smooth_ece
from .calibration_classes import ECE, KS, MCE, DebiasedECE, Reliability, SmoothECE
from .plots import reliability_plot
from .ranking import auroc, average_precision
from .score_classes import AUROC, NLL, AveragePrecision, Brier, KLp, MSEp
from .scores import brier, kl_p, mse_p, nll

__all__ = [
    "AUROC",
    "ECE",
    "KS",
    "MCE",
    "NLL",
    "AveragePrecision",
    "BayesErrorAscent",
    "Brier",
    "DebiasedECE",
    "KLp",
    "MSEp",
    "Reliability",
    "ReliabilityBins",
    "SmoothECE",
    "auroc",
    "average_precision",
    "brier",
    "debiased_ece",
    "ece",
    "kernel_bandwidth",
    "kernel_bayes_error",
    "kl_p",
    "ks",
    "mce",
    "mix",
    "mse_p",
    "nll",
    "reliability",
    "reliability_plot",
    "smooth_ece",
]
