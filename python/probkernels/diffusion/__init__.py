"""Diffusion models: one process, one denoiser, every sampler."""

from .adapted import AdaptedNet
from .brownian_bridge import BrownianBridge
from .chain import VPDiscrete
from .denoiser import Denoiser
from .density import log_prob
from .from_diffusers import SchedulerSettings, from_diffusers
from .grids import grid
from .guided import Change, ClassifierGuidance, Guided, Predicted
from .inversion import Latent, decode, encode, invert
from .likelihood import bits_per_dim, discretized_gaussian_nll, gaussian_kl, hybrid_loss, vlb_term
from .losses import draw_times, dsm_loss, loss_weight
from .noise import StepNoise
from .process import EDM, VE, VP, FlowMatching, Process, SubVP
from .sample import sample
from .solvers import Scheme
from .solvers.build import scheme
from .solvers.langevin import annealed_langevin, predictor_corrector
from .solvers.learned import learned_ancestral
from .table import Table, table
from .training import EMA, Training, drop_condition, fit

__all__ = [
    "EDM",
    "EMA",
    "VE",
    "VP",
    "AdaptedNet",
    "BrownianBridge",
    "Change",
    "ClassifierGuidance",
    "Denoiser",
    "FlowMatching",
    "Guided",
    "Latent",
    "Predicted",
    "Process",
    "SchedulerSettings",
    "Scheme",
    "StepNoise",
    "SubVP",
    "Table",
    "Training",
    "VPDiscrete",
    "annealed_langevin",
    "bits_per_dim",
    "decode",
    "discretized_gaussian_nll",
    "draw_times",
    "drop_condition",
    "dsm_loss",
    "encode",
    "fit",
    "from_diffusers",
    "gaussian_kl",
    "grid",
    "hybrid_loss",
    "invert",
    "learned_ancestral",
    "log_prob",
    "loss_weight",
    "predictor_corrector",
    "sample",
    "scheme",
    "table",
    "vlb_term",
]
