"""Predicted probabilities: metrics of them, training and calibration for them, and the Bayes error of data."""

from .bayes_error import BayesErrorAscent, kernel_bandwidth, kernel_bayes_error, mix
from .calibration import ReliabilityBins, debiased_ece, ece, ks, mce, reliability, smooth_ece
from .calibration_classes import ECE, KS, MCE, DebiasedECE, Reliability, SmoothECE
from .calibrators import HCalibrator
from .cape import CaPE, CaPEFit, bin_targets, cape_loss, kernel_targets
from .h_calibration import h_calibration_loss
from .overlap import overlap_index
from .plots import reliability_plot
from .prob_psenn import ProbPSENN, PrototypeExplanation, PrototypeOutput
from .prototypes import GaussianPrototypes
from .ranking import auroc, average_precision
from .scaling import PlattScaling, TemperatureScaling, VectorScaling
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
    "CaPE",
    "CaPEFit",
    "DebiasedECE",
    "GaussianPrototypes",
    "HCalibrator",
    "KLp",
    "MSEp",
    "PlattScaling",
    "ProbPSENN",
    "PrototypeExplanation",
    "PrototypeOutput",
    "Reliability",
    "ReliabilityBins",
    "SmoothECE",
    "TemperatureScaling",
    "VectorScaling",
    "auroc",
    "average_precision",
    "bin_targets",
    "brier",
    "cape_loss",
    "debiased_ece",
    "ece",
    "h_calibration_loss",
    "kernel_bandwidth",
    "kernel_bayes_error",
    "kernel_targets",
    "kl_p",
    "ks",
    "mce",
    "mix",
    "mse_p",
    "nll",
    "overlap_index",
    "reliability",
    "reliability_plot",
    "smooth_ece",
]
