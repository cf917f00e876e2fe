"""Learning without a global backward pass: graphs, counter-current networks, denoising blocks."""

from .counter_current import CounterCurrent
from .counter_current_autoencoder import CounterCurrentAutoencoder
from .diagnostics import linear_cka, weight_cosine
from .mirror import mirror

__all__ = ["CounterCurrent", "CounterCurrentAutoencoder", "linear_cka", "mirror", "weight_cosine"]
