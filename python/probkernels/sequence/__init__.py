"""Models of sequences: any-order prediction with extraction of structure, variational recurrent networks."""

from .exact_psi import ExactPsi
from .extractors import (
    counterfactual,
    depth_from_translation,
    motion_affordance,
    otsu_threshold,
    poke_segment,
    segment_all,
)
from .kl_tracing import kl_trace, occlusion
from .lras import LRAS
from .patch_quantizer import PatchQuantizer
from .pixel_world import PixelWorld
from .pointers import PointerVocab, replaced
from .rollout import CallablePsi, rollout
from .worlds import ParallaxWorld, PatchWorld

__all__ = [
    "LRAS",
    "CallablePsi",
    "ExactPsi",
    "ParallaxWorld",
    "PatchQuantizer",
    "PatchWorld",
    "PixelWorld",
    "PointerVocab",
    "counterfactual",
    "depth_from_translation",
    "kl_trace",
    "motion_affordance",
    "occlusion",
    "otsu_threshold",
    "poke_segment",
    "replaced",
    "rollout",
    "segment_all",
]
