"""Learning without a global backward pass: graphs, counter-current networks, denoising blocks."""

from ._layers import LayerReport
from .counter_current import CounterCurrent
from .counter_current_autoencoder import CounterCurrentAutoencoder
from .diagnostics import linear_cka, weight_cosine
from .embeddings import LabelEmbedding, RadialHead, prototypes
from .forward_forward import ForwardForward, goodness
from .forward_gnn import SingleForward
from .graph import Graph
from .graph_layers import GAT, GCN, SAGE, GraphLayer
from .label_schedules import LabelSchedule, LearnedSchedule
from .links import ForwardLinks
from .mirror import mirror
from .noprop import NoPropDT
from .noprop_continuous import NoPropCT, NoPropFM
from .noprop_training import fit_noprop
from .top_down import TopDownForward

__all__ = [
    "GAT",
    "GCN",
    "SAGE",
    "CounterCurrent",
    "CounterCurrentAutoencoder",
    "ForwardForward",
    "ForwardLinks",
    "Graph",
    "GraphLayer",
    "LabelEmbedding",
    "LabelSchedule",
    "LayerReport",
    "LearnedSchedule",
    "NoPropCT",
    "NoPropDT",
    "NoPropFM",
    "RadialHead",
    "SingleForward",
    "TopDownForward",
    "fit_noprop",
    "goodness",
    "linear_cka",
    "mirror",
    "prototypes",
    "weight_cosine",
]
