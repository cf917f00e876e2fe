"""Bayesian neural networks: priors, sampling of posteriors, sequential updates."""

__all__: list[str] = []
