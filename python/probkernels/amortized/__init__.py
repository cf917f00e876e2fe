"""Networks that answer Bayesian questions in one pass: prior-fitted networks and neural processes."""

from .bar_distribution import BarDistribution, quantile_borders
from .bar_linear import bar_log_prob_linear
from .dynamics import LotkaVolterraPrior
from .gp_priors import GPPrior, RidgePrior
from .image_tasks import PixelTasks
from .network_priors import BNNPrior, TabularBNNPrior
from .strokes import StrokesPrior
from .task_priors import BetaBernoulliPrior, SubsetPrior, Task, TaskPrior, TaskSampler

__all__ = [
    "BNNPrior",
    "BarDistribution",
    "BetaBernoulliPrior",
    "GPPrior",
    "LotkaVolterraPrior",
    "PixelTasks",
    "RidgePrior",
    "StrokesPrior",
    "SubsetPrior",
    "TabularBNNPrior",
    "Task",
    "TaskPrior",
    "TaskSampler",
    "bar_log_prob_linear",
    "quantile_borders",
]
