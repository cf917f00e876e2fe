"""Inverse problems: operators, guidance of diffusion samplers, learned proximal networks."""

from .icnn import ICNN, ConvexPotential, ConvICNN
from .learned_proximal import LPN, load_official
from .plug_and_play import pnp_admm, pnp_pgd
from .proximal_checks import assert_prox
from .proximal_matching import GammaSchedule, ProximalMatchingLoss, Stage, fit_lpn

__all__ = [
    "ICNN",
    "LPN",
    "ConvICNN",
    "ConvexPotential",
    "GammaSchedule",
    "ProximalMatchingLoss",
    "Stage",
    "assert_prox",
    "fit_lpn",
    "load_official",
    "pnp_admm",
    "pnp_pgd",
]
