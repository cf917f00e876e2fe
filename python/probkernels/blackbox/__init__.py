"""Black-box optimization from offline data, and closed-form functions to test it on."""

from .designs import DiscreteDesigns
from .functions import Ehrlich, branin, hartmann6
from .root import ROOT, BridgeNet
from .synthetic_pairs import Pairs, synthetic_pairs

__all__ = ["ROOT", "BridgeNet", "DiscreteDesigns", "Ehrlich", "Pairs", "branin", "hartmann6", "synthetic_pairs"]
