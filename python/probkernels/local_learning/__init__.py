"""Learning without a global backward pass: graphs, counter-current networks, denoising blocks."""

__all__: list[str] = []
