"""Predicted probabilities: metrics of them, training and calibration for them, and the Bayes error of data."""

from .bayes_error import BayesErrorAscent, kernel_bandwidth, kernel_bayes_error, mix
from .calibration import ReliabilityBins, debiased_ece, ece, ks, mce, reliability, smooth_ece
from .calibration_classes import ECE, KS, MCE, DebiasedECE, Reliability, SmoothECE
from .calibrators import HCalibrator
from .cape import CaPE, CaPEFit, bin_targets, cape_loss, kernel_targets
from .conversions import Converted, GibbsLogitsProcessor, drift, gibbs, gibbs_sequence, revealed_gap, sequence_scores
from .decisions import (
    AbstainRule,
    ArgmaxRule,
    BayesRule,
    Decision,
    DecisionRule,
    RuleValue,
    SamplingRule,
    abstain,
    compare_rules,
    minimum_bayes_risk,
    sample_gibbs,
)
from .gibbs_fit import FittedB, expected_gain, fit_b
from .h_calibration import h_calibration_loss
from .isotonic import IsotonicConversion
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
    "AbstainRule",
    "ArgmaxRule",
    "AveragePrecision",
    "BayesErrorAscent",
    "BayesRule",
    "Brier",
    "CaPE",
    "CaPEFit",
    "Converted",
    "DebiasedECE",
    "Decision",
    "DecisionRule",
    "FittedB",
    "GibbsLogitsProcessor",
    "HCalibrator",
    "IsotonicConversion",
    "KLp",
    "MSEp",
    "PlattScaling",
    "Reliability",
    "ReliabilityBins",
    "RuleValue",
    "SamplingRule",
    "SmoothECE",
    "TemperatureScaling",
    "VectorScaling",
    "abstain",
    "auroc",
    "average_precision",
    "bin_targets",
    "brier",
    "cape_loss",
    "compare_rules",
    "debiased_ece",
    "drift",
    "ece",
    "expected_gain",
    "fit_b",
    "gibbs",
    "gibbs_sequence",
    "h_calibration_loss",
    "kernel_bandwidth",
    "kernel_bayes_error",
    "kernel_targets",
    "kl_p",
    "ks",
    "mce",
    "minimum_bayes_risk",
    "mix",
    "mse_p",
    "nll",
    "reliability",
    "reliability_plot",
    "revealed_gap",
    "sample_gibbs",
    "sequence_scores",
    "smooth_ece",
]
