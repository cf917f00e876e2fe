"""Drop-in modules."""

from .convert import convert_layernorm
from .gated_experts import GatedExperts
from .power_norm import PowerNorm, PowerNormV
from .reinforce import Reinforce, reinforce
from .sparsity import AdaptiveL1, BetaNoise, beta_noise, sparsity_kl, threshold_at_rate
from .stochastic import (
    NoisyRectifier,
    StochasticTimesSmooth,
    StraightThrough,
    noisy_rectifier,
    stochastic_times_smooth,
    straight_through,
)  # fmt: skip

__all__ = [
    "AdaptiveL1",
    "BetaNoise",
    "GatedExperts",
    "NoisyRectifier",
    "PowerNorm",
    "PowerNormV",
    "Reinforce",
    "StochasticTimesSmooth",
    "StraightThrough",
    "beta_noise",
    "convert_layernorm",
    "noisy_rectifier",
    "reinforce",
    "sparsity_kl",
    "stochastic_times_smooth",
    "straight_through",
    "threshold_at_rate",
]
