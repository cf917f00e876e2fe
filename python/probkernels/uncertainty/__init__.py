"""Predicted probabilities: metrics, training, calibration and decisions; Bayes error; answers of language models."""

from ._similarity import similarity_matrix
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
from .inv_entropy import InverseModel, bootstrap_inv_entropy, inv_entropy, inverse_model, tsu
from .isotonic import IsotonicConversion
from .overlap import overlap_index
from .paraphrases import GAAP
from .plots import reliability_plot
from .prob_psenn import ProbPSENN, PrototypeExplanation, PrototypeOutput
from .prototypes import GaussianPrototypes
from .ranking import auroc, average_precision
from .reply_similarity import blackbox_uncertainty
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
    "GaussianPrototypes",
    "GibbsLogitsProcessor",
    "HCalibrator",
    "InvEntropy",
    "InvEntropyScore",
    "InverseModel",
    "IsotonicConversion",
    "KLp",
    "MSEp",
    "PlattScaling",
    "ProbPSENN",
    "PrototypeExplanation",
    "PrototypeOutput",
    "Reliability",
    "ReliabilityBins",
    "RuleValue",
    "SamplingRule",
    "SmoothECE",
    "TemperatureScaling",
    "VectorScaling",
    "abstain",
    "as_llm",
    "auroc",
    "average_precision",
    "bin_targets",
    "blackbox_uncertainty",
    "bootstrap_inv_entropy",
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
    "inv_entropy",
    "inverse_model",
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
    "overlap_index",
    "reliability",
    "reliability_plot",
    "responses_of",
    "revealed_gap",
    "sample_gibbs",
    "sequence_scores",
    "similarity_matrix",
    "smooth_ece",
    "tsu",
]
