"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

from .prototype_head import ProtoHead
from .replay import Replayed, ReplayMemory

__all__ = ["ProtoHead", "ReplayMemory", "Replayed"]
