"""Data of known density: the best denoiser and the exact flow in closed form."""

from __future__ import annotations

import torch
from probkernels.diffusion import VP, Denoiser, Process
from torch import Tensor, nn


class Mixture(nn.Module):
    """The exact noise prediction for one-dimensional Gaussian mixtures, applied to every element of x (B, *S)."""

    def __init__(self, process: Process, weights: list[float], means: list[float], deviations: list[float]) -> None:
        super().__init__()
        self.process = process
        parts = (weights, means, deviations)
        self.weights, self.means, self.deviations = (torch.tensor(part, dtype=torch.float64) for part in parts)

    def moments(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (..., K) of the noised components at times t (...)."""
        a, s = self.process.alpha(t).unsqueeze(-1), self.process.sigma(t).unsqueeze(-1)
        return a * self.means, (a * self.deviations).square() + s.square()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.double().view(-1, *[1] * (x.ndim - 1))
        mean, variance = self.moments(t)
        z = x.double().unsqueeze(-1) - mean  # (B, *S, K)
        share = (self.weights.log() - 0.5 * variance.log() - 0.5 * z.square() / variance).softmax(-1)
        return (self.process.sigma(t) * (share * z / variance).sum(-1)).to(x)

    def log_prob(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x), elementwise."""
        mean, variance = self.moments(torch.tensor(t, dtype=torch.float64))
        parts = torch.distributions.Normal(mean, variance.sqrt()).log_prob(x.unsqueeze(-1))
        return (self.weights.log() + parts).logsumexp(-1)


def gaussian(process: Process | None = None) -> Denoiser:
    """O1: N(0.5, 0.5^2)."""
    process = process or VP()
    return Denoiser(Mixture(process, [1.0], [0.5], [0.5]), process, time=lambda t: t)


def mixture(process: Process | None = None) -> Denoiser:
    """O2: 0.3 N(-1, 0.25^2) + 0.7 N(0.8, 0.4^2)."""
    process = process or VP()
    return Denoiser(Mixture(process, [0.3, 0.7], [-1.0, 0.8], [0.25, 0.4]), process, time=lambda t: t)


class Known(nn.Module):
    """A net of any prediction type, made from the exact noise of another."""

    def __init__(self, inner: Denoiser, pred: str) -> None:
        super().__init__()
        self.inner, self.pred = inner, pred

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        process = self.inner.process
        a, s = (c.view(-1, *[1] * (x.ndim - 1)) for c in (process.alpha(t), process.sigma(t)))
        eps, data = self.inner.eps(x, t), self.inner.x0(x, t)
        return {"eps": eps, "x0": data, "v": a * eps - s * data, "score": -eps / s, "flow": eps - data}[self.pred]
