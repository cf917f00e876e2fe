"""Inverse problems: operators, guidance of diffusion samplers, learned proximal networks."""

from ._base import Compose, Identity, Operator, Scaled, Stack, WithPinv
from .icnn import ICNN, ConvexPotential, ConvICNN
from .learned_proximal import LPN, load_official
from .measurement import Measurement, latent_map, reconstruct
from .medical_io import Volume, load_volume, save_volume
from .noise import GaussianNoise, PoissonNoise
from .operators import Blur, ComplexView, Downsample, Fourier, Mask, Matrix
from .physics import as_operator, to_deepinv
from .plug_and_play import pnp_admm, pnp_pgd
from .proximal_checks import assert_prox
from .proximal_matching import GammaSchedule, ProximalMatchingLoss, Stage, fit_lpn
from .radon import Radon

__all__ = [
    "ICNN",
    "LPN",
    "Blur",
    "ComplexView",
    "Compose",
    "ConvICNN",
    "ConvexPotential",
    "Downsample",
    "Fourier",
    "GammaSchedule",
    "GaussianNoise",
    "Identity",
    "Mask",
    "Matrix",
    "Measurement",
    "Operator",
    "PoissonNoise",
    "ProximalMatchingLoss",
    "Radon",
    "Scaled",
    "Stack",
    "Stage",
    "Volume",
    "WithPinv",
    "as_operator",
    "assert_prox",
    "fit_lpn",
    "latent_map",
    "load_official",
    "load_volume",
    "pnp_admm",
    "pnp_pgd",
    "reconstruct",
    "save_volume",
    "to_deepinv",
]
