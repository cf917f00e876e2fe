"""Learning without a global backward pass: graphs, counter-current networks, denoising blocks."""

from .counter_current import CounterCurrent
from .counter_current_autoencoder import CounterCurrentAutoencoder
from .diagnostics import linear_cka, weight_cosine
from .embeddings import LabelEmbedding, RadialHead, prototypes
from .label_schedules import LabelSchedule, LearnedSchedule
from .mirror import mirror
from .noprop import NoPropDT
from .noprop_continuous import NoPropCT, NoPropFM
from .noprop_training import fit_noprop

__all__ = [
    "CounterCurrent",
    "CounterCurrentAutoencoder",
    "LabelEmbedding",
    "LabelSchedule",
    "LearnedSchedule",
    "NoPropCT",
    "NoPropDT",
    "NoPropFM",
    "RadialHead",
    "fit_noprop",
    "linear_cka",
    "mirror",
    "prototypes",
    "weight_cosine",
]
