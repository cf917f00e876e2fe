"""Latent diffusion: a small variational autoencoder, and a denoiser of its latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..diffusion import Denoiser, Process
from ..training import minimize
from ._base import Operator
from .measurement import Measurement


class SmallVAE(nn.Module):
    """A variational autoencoder of data of any shape, with two multilayer perceptrons.

    Args:
        shape: *S, the shape of one sample.
        latent: numbers of a latent.
        hidden: width of both perceptrons.

    Example:
        >>> import torch
        >>> from probkernels.inverse import SmallVAE
        >>> vae = SmallVAE((4, 4), latent=3)
        >>> vae.decode(vae.encode(torch.zeros(2, 4, 4))).shape
        torch.Size([2, 4, 4])
    """

    def __init__(self, shape: Sequence[int], latent: int = 8, hidden: int = 128) -> None:
        super().__init__()
        self.shape, self.latent = tuple(shape), checks.integer("SmallVAE", "latent", latent)
        size, width = math.prod(self.shape), checks.integer("SmallVAE", "hidden", hidden)
        self.down = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, 2 * latent))
        self.up = nn.Sequential(nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, size))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, L) of the latents of x (B, *S)."""
        checks.float_tensor("SmallVAE", "x", x)
        checks.shape("SmallVAE", "x", x, (*x.shape[:1], *self.shape), "(B, *S)")
        mean, log_var = self.down(x.flatten(1)).chunk(2, 1)
        return mean, log_var.clamp(-20, 20)

    def encode(self, x: Tensor) -> Tensor:
        """The mean latents (B, L) of x (B, *S)."""
        return self.moments(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Data (B, *S) of latents z (B, L)."""
        return self.up(z).unflatten(1, self.shape)

    def loss(self, x: Tensor, beta: float = 1e-3, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error of x (B, *S), plus ``beta`` times the mean KL divergence of the latents from N(0, I)."""
        mean, log_var = self.moments(x)
        device = x.device if generator is None else generator.device
        z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=device).to(mean.device)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return F.mse_loss(self.decode(mean + (log_var / 2).exp() * z), x) + beta * kl

    def fit(
        self,
        x: Tensor,
        *,
        steps: int = 1000,
        batch_size: int = 128,
        lr: float = 2e-3,
        beta: float = 1e-3,
        seed: int = 0,
    ) -> list[float]:
        """Trains on x (N, *S) by Adam, with batches drawn by ``seed``, and returns the loss of each step."""
        self.moments(x[:1])
        generator = torch.Generator().manual_seed(seed)

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(x), (batch_size,), generator=generator)
            return self.loss(x[rows.to(x.device)], beta, generator)

        return list(minimize(loss, torch.optim.Adam(self.parameters(), lr=lr), steps))


class LatentDenoiser(Denoiser):
    """A denoiser of the latents of an autoencoder. Everything that takes a denoiser works on latents with it.

    Train with ``fit(model, model.to_latents(x))``, sample with ``model.to_data(sample(model, z_T, ...))``, and
    reconstruct with ``model.to_data(reconstruct(model, model.measured(measurement), (B, *L)))``. The autoencoder is
    frozen.

    Args:
        net: the network, on latents.
        process: the process.
        autoencoder: a module with ``encode`` (B, *S) -> (B, *L) and ``decode`` back, such as :class:`SmallVAE`.
        data: (N, *S) whose latents get mean 0 and standard deviation 1 as a whole; None leaves latents as they are.
        pred: what the network predicts, see :class:`~probkernels.diffusion.Denoiser`.
        options: other arguments of :class:`~probkernels.diffusion.Denoiser`.

    Reference:
        Rombach et al., Latent Diffusion Models, CVPR 2022; Rout et al., NeurIPS 2023, for DPS in latents.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, sample
        >>> from probkernels.inverse import LatentDenoiser, SmallVAE
        >>> class Null(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> model = LatentDenoiser(Null(), VP(), SmallVAE((4, 4), latent=2), pred="v")
        >>> model.to_data(sample(model, torch.randn(3, 2), steps=5)).shape
        torch.Size([3, 4, 4])
    """

    autoencoder: Any
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        autoencoder: nn.Module,
        data: Tensor | None = None,
        pred: str = "v",
        **options: Any,
    ) -> None:
        super().__init__(net, process, pred, **options)
        if not (isinstance(autoencoder, nn.Module) and all(hasattr(autoencoder, n) for n in ("encode", "decode"))):
            expected = "a module with encode and decode"
            raise TypeError(message("LatentDenoiser", "autoencoder", expected, checks.describe(autoencoder)))
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        shift, scale = torch.zeros(()), torch.ones(())
        if data is not None:
            z = self._encoded(data)
            shift, scale = z.mean(), z.std()
            if not bool(scale > 0):
                raise ValueError(message("LatentDenoiser", "data", "rows whose latents differ", "equal ones"))
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def _encoded(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.autoencoder.encode(x)
        if not isinstance(z, Tensor):
            hint = "wrap the autoencoder, for instance encode(x).latent_dist.mean"
            raise TypeError(
                message("LatentDenoiser", "autoencoder", "encode returns a tensor", checks.describe(z), hint)
            )
        return z

    def to_latents(self, x: Tensor) -> Tensor:
        """Latents (B, *L) of data x (B, *S), standardized."""
        return (self._encoded(x) - self.shift) / self.scale

    def to_data(self, z: Tensor) -> Tensor:
        """Data (B, *S) of standardized latents (B, *L), differentiably."""
        return self.autoencoder.decode(z * self.scale + self.shift)

    def measured(self, measurement: Measurement) -> Measurement:
        """The measurement as one of latents, for method "dps": A of the decoded latents is not linear.

        Raises:
            ValueError: the measurement's method is another one.
        """
        if measurement.method != "dps":
            expected = "a measurement with method 'dps'"
            hint = "the other methods need a linear operator, and decoding is none"
            raise ValueError(message("LatentDenoiser", "measurement", expected, f"'{measurement.method}'", hint))
        operator = _Decoded(self, measurement.operator)
        return Measurement(operator, measurement.y, measurement.noise, "dps", **measurement.options)


class _Decoded(Operator):
    """A of the decoded latents."""

    def __init__(self, model: LatentDenoiser, operator: Operator) -> None:
        super().__init__()
        self.decode, self.operator = model.to_data, operator

    def _forth(self, x: Tensor) -> Tensor:
        return self.operator.A(self.decode(x))

    def _back(self, y: Tensor) -> Tensor:
        raise NotImplementedError("LatentDenoiser: a decoder has no adjoint. Hint: use method 'dps'")
