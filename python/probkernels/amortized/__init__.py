"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bar_distribution import BarDistribution, quantile_borders
from .bar_linear import bar_log_prob_linear
from .dynamics import LotkaVolterraPrior
from .gp_priors import GPPrior, RidgePrior
from .image_tasks import PixelTasks
from .network_priors import BNNPrior, TabularBNNPrior
from .pfn import PFN
from .pfn_estimators import PFNClassifier, PFNRegressor
from .pfn_heads import BarHead, BernoulliHead, ClassHead, GaussianHead, PFNHead
from .pfn_import import pfn_from_released
from .prior_fitting import fit_prior
from .set_attention import ContextCache, set_attention
from .strokes import StrokesPrior
from .task_priors import BetaBernoulliPrior, SubsetPrior, Task, TaskPrior, TaskSampler

__all__ = [
    "PFN",
    "BNNPrior",
    "BarDistribution",
    "BarHead",
    "BernoulliHead",
    "BetaBernoulliPrior",
    "ClassHead",
    "ContextCache",
    "GPPrior",
    "GaussianHead",
    "LotkaVolterraPrior",
    "PFNClassifier",
    "PFNHead",
    "PFNRegressor",
    "PixelTasks",
    "RidgePrior",
    "StrokesPrior",
    "SubsetPrior",
    "TabularBNNPrior",
    "Task",
    "TaskPrior",
    "TaskSampler",
    "bar_log_prob_linear",
    "fit_prior",
    "pfn_from_released",
    "quantile_borders",
    "set_attention",
]
