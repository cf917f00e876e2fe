"""Inverse problems: operators, guidance of diffusion samplers, learned proximal networks."""

from ._base import Compose, Identity, Operator, Scaled, Stack, WithPinv
from .anomaly import anomaly_map
from .icnn import ICNN, ConvexPotential, ConvICNN
from .latent import LatentDenoiser, SmallVAE
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
from .recognition import Classified, Concatenated, Memorized, diffusion_classifier, memorization_check, segment
from .tasks import deblur, denoise, inpaint, super_resolve
from .translation import Registered, register, translate, warp

__all__ = [
    "ICNN",
    "LPN",
    "Blur",
    "Classified",
    "ComplexView",
    "Compose",
    "Concatenated",
    "ConvICNN",
    "ConvexPotential",
    "Downsample",
    "Fourier",
    "GammaSchedule",
    "GaussianNoise",
    "Identity",
    "LatentDenoiser",
    "Mask",
    "Matrix",
    "Measurement",
    "Memorized",
    "Operator",
    "PoissonNoise",
    "ProximalMatchingLoss",
    "Radon",
    "Registered",
    "Scaled",
    "SmallVAE",
    "Stack",
    "Stage",
    "Volume",
    "WithPinv",
    "anomaly_map",
    "as_operator",
    "assert_prox",
    "deblur",
    "denoise",
    "diffusion_classifier",
    "fit_lpn",
    "inpaint",
    "latent_map",
    "load_official",
    "load_volume",
    "memorization_check",
    "pnp_admm",
    "pnp_pgd",
    "reconstruct",
    "register",
    "save_volume",
    "segment",
    "super_resolve",
    "to_deepinv",
    "translate",
    "warp",
]
