"""Models of the experiment: the digits' prior, the masks' prior, and the simple methods beside them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion import VP, Denoiser
from ...inverse import Concatenated
from ...training import minimize
from ..adjoint_dpm.model import NO_CLASS, WIDTH, Advance, Net, State, digits, fit_net

TRAIN, TEST = slice(0, 1300), slice(1300, 1500)
NOISE = 0.7  # of the images that masks are drawn of


class Images(nn.Module):
    """The digits' network on images (B, 8, 8), without a class."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, 8, 8)."""
        return self.net(x.flatten(1), t, NO_CLASS.expand(len(x))).view_as(x)


class Noisy(Concatenated):
    """Adds the task's noise to the image while training."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x and cond (B, 1, 8, 8)."""
        return super().forward(x, t, cond + NOISE * torch.randn_like(cond) if self.training else cond)


class MaskNet(nn.Module):
    """Predicts v of masks, given (B, 2, 8, 8): mask and image."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 3, 32))
        self.enter = nn.Linear(128 + 64, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.leave = nn.Linear(WIDTH, 64)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, 1, 8, 8)."""
        phase = t[:, None] * self.frequencies
        h = F.silu(self.enter(torch.cat([x.flatten(1), phase.sin(), phase.cos()], 1)))
        for layer in self.middle:
            h = h + F.silu(layer(h))
        return self.leave(h).view(-1, 1, 8, 8)


def train_prior(x: Tensor, labels: Tensor, steps: int, batch: int, advance: Advance) -> State:
    """Weights of the prior of x (N, 64) with labels (N,), averaged."""
    torch.manual_seed(0)
    net = Net()
    fitted = fit_net(Denoiser(net, VP(), pred="v"), x, labels, steps, batch, advance)
    return fitted.net.state_dict()


def train_digits(steps: int, batch: int, advance: Advance) -> State:
    """Weights of the prior of the first 1,300 digits."""
    images, labels = digits()
    return train_prior(images[TRAIN], labels[TRAIN], steps, batch, advance)


def prior(state: State) -> Denoiser:
    """The trained prior, of images (B, 8, 8) in -1 .. 1."""
    net = Images()
    net.net.load_state_dict(state)
    return Denoiser(net, VP(), pred="v", clip=(-1.0, 1.0)).requires_grad_(False).eval()


def noisy(images: Tensor, seed: int) -> Tensor:
    """Images with the noise of the task with masks."""
    return images + NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def masks(images: Tensor) -> Tensor:
    """-1 or 1: 1 where a pixel of a clean image is not empty."""
    return torch.where(images > -1, 1.0, -1.0)


def train_masks(images: Tensor, steps: int, batch: int, advance: Advance) -> Denoiser:
    """A denoiser of masks (B, 1, 8, 8), given noisy images; each step draws new noise."""
    torch.manual_seed(0)
    model = Denoiser(Noisy(MaskNet()), VP(), pred="v", clip=(-1.0, 1.0))
    images = images.view(-1, 1, 8, 8)
    return fit_net(model, masks(images), images, steps, batch, advance, null=None).requires_grad_(False).eval()


def train_direct(images: Tensor, steps: int, batch: int) -> nn.Module:
    """A network of the same width that maps noisy images (B, 64) to logits of masks, by cross-entropy."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 64)
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    target = (masks(images) > 0).float()

    def loss(step: int) -> Tensor:
        rows = torch.randint(len(images), (batch,), generator=generator)
        x = images[rows] + NOISE * torch.randn(batch, 64, generator=generator)
        return F.binary_cross_entropy_with_logits(net(x), target[rows])

    minimize(loss, torch.optim.Adam(net.parameters(), lr=1e-3), steps)
    return net.requires_grad_(False)


class Gaussian:
    """A normal distribution fitted to x (N, D): what is best without more than means and covariances."""

    def __init__(self, x: Tensor, ridge: float = 1e-3) -> None:
        x = x.double()
        self.mean = x.mean(0)
        self.covariance = torch.cov(x.T) + ridge * torch.eye(x.shape[1], dtype=torch.float64)

    def conditional(self, A: Tensor, y: Tensor, variance: float) -> Tensor:
        """E[x | y] (B, D) of y = A x + noise, for A (M, D) and y (B, M)."""
        A, y = A.double(), y.double()
        S = A @ self.covariance @ A.T + variance * torch.eye(len(A), dtype=torch.float64)
        return (self.mean + (y - self.mean @ A.T) @ torch.linalg.solve(S, A @ self.covariance)).float()

    def surprise(self, x: Tensor) -> Tensor:
        """How far each entry of x (B, D) is from its mean given all others."""
        precision = torch.linalg.inv(self.covariance)
        return (((x.double() - self.mean) @ precision) / precision.diagonal()).abs().float()


def frechet(a: Tensor, b: Tensor) -> float:
    """The Frechet distance of two sets (N, D): of the normal distributions with their means and covariances."""
    a, b = a.double(), b.double()
    A, B = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)


def auroc(score: Tensor, truth: Tensor) -> float:
    """Area under the ROC curve of scores for True entries. Ties count as they stand."""
    score, truth = score.flatten(), truth.flatten()
    rank = torch.empty_like(score, dtype=torch.float64)
    rank[score.argsort(stable=True)] = torch.arange(1, len(score) + 1, dtype=torch.float64)
    yes, no = int(truth.sum()), int((~truth).sum())
    return float((rank[truth].sum() - yes * (yes + 1) / 2) / (yes * no))


def dice(found: Tensor, truth: Tensor) -> float:
    """Dice's coefficient of bool masks (B, 64), mean over the batch."""
    both = (found & truth).sum(1)
    return float((2 * both / (found.sum(1) + truth.sum(1))).mean())
