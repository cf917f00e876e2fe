"""Normal data of known covariance: the best denoiser and the posterior in closed form."""

from __future__ import annotations

import torch
from probkernels.diffusion import Denoiser, Process, VPDiscrete
from torch import Tensor, nn

COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
# of y = x_1 + 0.1 z at y = 1
MEAN = torch.tensor([0.9900990099, 0.7920792079], dtype=torch.float64)
POSTERIOR = torch.tensor([[0.0099009901, 0.0079207921], [0.0079207921, 0.3663366337]], dtype=torch.float64)


class Normal(nn.Module):
    """E[x_0 | x_t] = alpha S (alpha^2 S + sigma^2 I)^-1 x for data N(mean, S), x (B, D)."""

    def __init__(self, process: Process, covariance: Tensor = COVARIANCE) -> None:
        super().__init__()
        self.process = process
        values, self.vectors = torch.linalg.eigh(covariance)
        self.values = nn.Parameter(values)

    def forward(self, x: Tensor, t: Tensor, mean: Tensor | float = 0.0) -> Tensor:
        a, s = (c[:, None] for c in (self.process.alpha(t), self.process.sigma(t)))
        gain = a * self.values / (a**2 * self.values + s**2)
        y = x.double() - a * mean
        return (mean + (gain * (y @ self.vectors)) @ self.vectors.T).to(x)


def normal(process: Process | None = None) -> Denoiser:
    process = process or VPDiscrete.linear()
    return Denoiser(Normal(process), process, pred="x0", time=lambda t: t)
