"""Diffusion models: one process, one denoiser, every sampler."""

from .chain import VPDiscrete
from .denoiser import Denoiser
from .grids import grid
from .noise import StepNoise
from .process import EDM, VE, VP, FlowMatching, Process, SubVP
from .sample import sample
from .solvers import Scheme, scheme
from .table import Table, table

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Denoiser",
    "FlowMatching",
    "Process",
    "Scheme",
    "StepNoise",
    "SubVP",
    "Table",
    "VPDiscrete",
    "grid",
    "sample",
    "scheme",
    "table",
]
