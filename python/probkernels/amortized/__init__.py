"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bar_distribution import BarDistribution, quantile_borders
from .bar_linear import bar_log_prob_linear
from .pfn import PFN
from .pfn_estimators import PFNClassifier, PFNRegressor
from .pfn_heads import BarHead, BernoulliHead, ClassHead, GaussianHead, PFNHead
from .prior_fitting import fit_prior
from .set_attention import ContextCache, set_attention

__all__ = [
    "PFN",
    "BarDistribution",
    "BarHead",
    "BernoulliHead",
    "ClassHead",
    "ContextCache",
    "GaussianHead",
    "PFNClassifier",
    "PFNHead",
    "PFNRegressor",
    "bar_log_prob_linear",
    "fit_prior",
    "quantile_borders",
    "set_attention",
]
