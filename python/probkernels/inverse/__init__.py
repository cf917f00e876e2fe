"""Inverse problems: operators, guidance of diffusion samplers, learned proximal networks."""

from ._base import Compose, Identity, Operator, Scaled, Stack, WithPinv
from .measurement import Measurement, latent_map, reconstruct
from .noise import GaussianNoise, PoissonNoise
from .operators import Blur, ComplexView, Downsample, Fourier, Mask, Matrix
from .physics import as_operator, to_deepinv
from .radon import Radon

__all__ = [
    "Blur",
    "ComplexView",
    "Compose",
    "Downsample",
    "Fourier",
    "GaussianNoise",
    "Identity",
    "Mask",
    "Matrix",
    "Measurement",
    "Operator",
    "PoissonNoise",
    "Radon",
    "Scaled",
    "Stack",
    "WithPinv",
    "as_operator",
    "latent_map",
    "reconstruct",
    "to_deepinv",
]
