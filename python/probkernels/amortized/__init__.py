"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bar_distribution import BarDistribution, quantile_borders
from .set_attention import ContextCache, set_attention

__all__ = ["BarDistribution", "ContextCache", "quantile_borders", "set_attention"]
