"""Probabilistic circuits: tractable models with exact marginals, conditionals, samples and flows."""

from ._training import History
from .circuit import Circuit
from .divergences import cauchy_schwarz_divergence, renyi_entropy, squared_distance
from .drawing import describe, draw
from .em import EM
from .families import Bernoulli, Categorical, DiscretizedLogistic, Gaussian, Indicator
from .files import load, save
from .flows import Flows, Probabilities
from .graph import Graph, Input, Product, Sum
from .grow import grow, prune, prune_states
from .grow_fit import grow_fit
from .images import poon_domingos, poon_domingos_graph, quad_tree, quad_tree_graph
from .information import mutual_information
from .mixture import mixture
from .queries import Moments
from .regions import from_regions, rat_spn, rat_spn_graph
from .schedule import PiecewiseLinear
from .tree_structures import chow_liu, factorized, factorized_graph, hclt, hclt_graph, tree_parents
from .vtree import Vtree, find_vtree, from_vtree

__all__ = [
    "EM",
    "Bernoulli",
    "Categorical",
    "Circuit",
    "DiscretizedLogistic",
    "Flows",
    "Gaussian",
    "Graph",
    "History",
    "Indicator",
    "Input",
    "Moments",
    "PiecewiseLinear",
    "Probabilities",
    "Product",
    "Sum",
    "Vtree",
    "cauchy_schwarz_divergence",
    "chow_liu",
    "describe",
    "draw",
    "factorized",
    "factorized_graph",
    "find_vtree",
    "from_regions",
    "from_vtree",
    "grow",
    "grow_fit",
    "hclt",
    "hclt_graph",
    "load",
    "mixture",
    "mutual_information",
    "poon_domingos",
    "poon_domingos_graph",
    "prune",
    "prune_states",
    "quad_tree",
    "quad_tree_graph",
    "rat_spn",
    "rat_spn_graph",
    "renyi_entropy",
    "save",
    "squared_distance",
    "tree_parents",
]
