"""Learning without a global backward pass: graphs, counter-current networks, denoising blocks."""

from .embeddings import LabelEmbedding, RadialHead, prototypes
from .label_schedules import LabelSchedule, LearnedSchedule
from .noprop import NoPropDT
from .noprop_continuous import NoPropCT, NoPropFM
from .noprop_training import fit_noprop

__all__ = [
    "LabelEmbedding",
    "LabelSchedule",
    "LearnedSchedule",
    "NoPropCT",
    "NoPropDT",
    "NoPropFM",
    "RadialHead",
    "fit_noprop",
    "prototypes",
]
