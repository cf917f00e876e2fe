"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bar_distribution import BarDistribution, quantile_borders
from .bar_linear import bar_log_prob_linear

__all__ = ["BarDistribution", "bar_log_prob_linear", "quantile_borders"]
