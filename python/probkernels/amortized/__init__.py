"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .set_attention import ContextCache, set_attention

__all__ = ["ContextCache", "set_attention"]
