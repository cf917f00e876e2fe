"""Optimizers."""

from .sara_adamw import SaRAAdamW

__all__ = ["SaRAAdamW"]
