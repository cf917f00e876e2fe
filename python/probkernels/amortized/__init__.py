"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bar_distribution import BarDistribution, quantile_borders
from .bar_linear import bar_log_prob_linear
from .bootstrap_np import BANP, BNP
from .dynamics import LotkaVolterraPrior
from .gp_priors import GPPrior, RidgePrior
from .image_tasks import PixelTasks
from .martingale_np import MPANP, MPNP, ISABGenerator, MPNPLosses
from .martingale_posterior import GaussianMean, PolyaUrn, predictive_resample
from .network_priors import BNNPrior, TabularBNNPrior
from .neural_process import ANP, CANP, CNP, NP, NeuralProcess
from .np_predictive import FunctionMixture
from .np_training import fit_neural_process
from .pfn import PFN
from .pfn_estimators import PFNClassifier, PFNRegressor
from .pfn_heads import BarHead, BernoulliHead, ClassHead, GaussianHead, PFNHead
from .pfn_import import pfn_from_released
from .prior_fitting import fit_prior
from .set_attention import ContextCache, set_attention
from .strokes import StrokesPrior
from .task_priors import BetaBernoulliPrior, SubsetPrior, Task, TaskPrior, TaskSampler

__all__ = [
    "ANP",
    "BANP",
    "BNP",
    "CANP",
    "CNP",
    "MPANP",
    "MPNP",
    "NP",
    "PFN",
    "BNNPrior",
    "BarDistribution",
    "BarHead",
    "BernoulliHead",
    "BetaBernoulliPrior",
    "ClassHead",
    "ContextCache",
    "FunctionMixture",
    "GPPrior",
    "GaussianHead",
    "GaussianMean",
    "ISABGenerator",
    "LotkaVolterraPrior",
    "MPNPLosses",
    "NeuralProcess",
    "PFNClassifier",
    "PFNHead",
    "PFNRegressor",
    "PixelTasks",
    "PolyaUrn",
    "RidgePrior",
    "StrokesPrior",
    "SubsetPrior",
    "TabularBNNPrior",
    "Task",
    "TaskPrior",
    "TaskSampler",
    "bar_log_prob_linear",
    "fit_neural_process",
    "fit_prior",
    "pfn_from_released",
    "predictive_resample",
    "quantile_borders",
    "set_attention",
]
