"""Metrics of predicted probabilities: ranking, distance to the truth, calibration. As functions, and batch by batch."""

from .calibration import ReliabilityBins, debiased_ece, ece, ks, mce, reliability, smooth_ece
from .calibration_classes import ECE, KS, MCE, DebiasedECE, Reliability, SmoothECE
from .calibrators import HCalibrator
from .h_calibration import h_calibration_loss
from .plots import reliability_plot
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
    "Brier",
    "DebiasedECE",
    "HCalibrator",
    "KLp",
    "MSEp",
    "PlattScaling",
    "Reliability",
    "ReliabilityBins",
    "SmoothECE",
    "TemperatureScaling",
    "VectorScaling",
    "auroc",
    "average_precision",
    "brier",
    "debiased_ece",
    "ece",
    "h_calibration_loss",
    "kl_p",
    "ks",
    "mce",
    "mse_p",
    "nll",
    "reliability",
    "reliability_plot",
    "smooth_ece",
]
