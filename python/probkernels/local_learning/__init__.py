"""Learning without a global backward pass: graphs, counter-current networks, denoising blocks."""

from ._layers import LayerReport
from .forward_forward import ForwardForward, goodness
from .forward_gnn import SingleForward
from .graph import Graph
from .graph_layers import GAT, GCN, SAGE, GraphLayer
from .links import ForwardLinks
from .top_down import TopDownForward

__all__ = [
    "GAT",
    "GCN",
    "SAGE",
    "ForwardForward",
    "ForwardLinks",
    "Graph",
    "GraphLayer",
    "LayerReport",
    "SingleForward",
    "TopDownForward",
    "goodness",
]
