"""Models of sequences: any-order prediction with extraction of structure, variational recurrent networks."""

from .exact_psi import ExactPsi
from .pixel_world import PixelWorld
from .pointers import PointerVocab
from .rollout import CallablePsi, rollout
from .worlds import ParallaxWorld, PatchWorld

__all__ = ["CallablePsi", "ExactPsi", "ParallaxWorld", "PatchWorld", "PixelWorld", "PointerVocab", "rollout"]
