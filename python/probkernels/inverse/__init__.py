"""Inverse problems: operators, guidance of diffusion samplers, learned proximal networks."""

from .icnn import ICNN, ConvexPotential, ConvICNN

__all__ = ["ICNN", "ConvICNN", "ConvexPotential"]
