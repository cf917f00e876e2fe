"""Energy-based models: monotone Boltzmann machines and their fixed points."""

from .conv_coupling import MonotoneConvCoupling
from .couplings import Coupling, MonotoneCoupling
from .fixed_point import FixedPoint, fixed_point
from .losses import focal_loss, random_mask
from .monotone_dbm import Inference, MonotoneDBM

__all__ = [
    "Coupling",
    "FixedPoint",
    "Inference",
    "MonotoneConvCoupling",
    "MonotoneCoupling",
    "MonotoneDBM",
    "fixed_point",
    "focal_loss",
    "random_mask",
]
