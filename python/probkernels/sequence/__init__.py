"""Models of sequences: any-order prediction with extraction of structure, variational recurrent networks."""

from .error_regression import ErrorRegression
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
from .posterior_bank import PosteriorBank
from .pvrnn import PVRNN, PVLayer
from .pvrnn_outputs import GaussianOutput, SoftmaxCode
from .pvrnn_training import fit_pvrnn
from .rollout import CallablePsi, rollout
from .worlds import ParallaxWorld, PatchWorld

__all__ = [
    "LRAS",
    "PVRNN",
    "CallablePsi",
    "ErrorRegression",
    "ExactPsi",
    "GaussianOutput",
    "PVLayer",
    "ParallaxWorld",
    "PatchQuantizer",
    "PatchWorld",
    "PixelWorld",
    "PointerVocab",
    "PosteriorBank",
    "SoftmaxCode",
    "counterfactual",
    "depth_from_translation",
    "fit_pvrnn",
    "kl_trace",
    "motion_affordance",
    "occlusion",
    "otsu_threshold",
    "poke_segment",
    "replaced",
    "rollout",
    "segment_all",
]
