"""Diffusion models: one process, one denoiser, every sampler."""

from .chain import VPDiscrete
from .denoiser import Denoiser
from .grids import grid
from .losses import draw_times, dsm_loss, loss_weight
from .noise import StepNoise
from .process import EDM, VE, VP, FlowMatching, Process, SubVP
from .sample import sample
from .solvers import Scheme, scheme
from .solvers.langevin import annealed_langevin, predictor_corrector
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
    "annealed_langevin",
    "draw_times",
    "dsm_loss",
    "grid",
    "loss_weight",
    "predictor_corrector",
    "sample",
    "scheme",
    "table",
]
