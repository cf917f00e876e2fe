"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bar_distribution import BarDistribution, quantile_borders

__all__ = ["BarDistribution", "quantile_borders"]
