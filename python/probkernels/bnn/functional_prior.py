"""Fits the prior of a network's parameters so that its functions are like those of another prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..training import minimize
from ._critic import PENALTIES, Critic
from .distances import energy_distance, sliced_wasserstein, wasserstein_1d
from .measurement import FixedPoints
from .priors import Prior

Sampler = Callable[[Tensor, int, torch.Generator], Tensor]


@dataclass
class MatchReport:
    """What a fit did.

    Args:
        wasserstein: the critic's estimate in each iteration. It is biased: a distance W comes out near
            W (1 + W / (2 penalty_weight)), and below zero where the critic has the wrong sign.
        distances: every ``report_every`` iterations, and after the last one: the number of iterations and
            :meth:`FunctionalPriorMatcher.distances`.
        complete: False if Ctrl-C ended the fit early.

    Example:
        >>> from probkernels.bnn import MatchReport
        >>> MatchReport().complete
        True
    """

    wasserstein: list[float] = field(default_factory=list)
    distances: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    complete: bool = True


class FunctionalPriorMatcher:
    """Fits a prior of a network's parameters: its random functions become like those of a Gaussian process.

    Each iteration draws points, functions of both priors, and trains a fresh critic on one bag of them. The gap of the
    critic on other functions is the loss, an estimate of the Wasserstein-1 distance; RMSprop lowers it. Labels are
    never used. A network with several outputs has an independent process for each; one critic serves all outputs, and
    distances are summed.

    Args:
        prior: a prior with learnable parameters, which :meth:`fit` changes in place.
        gp_sampler: function ``gp_sampler(x, n, generator)`` that returns n functions (n, M) at M points, such as
            :class:`probkernels.kernel_methods.GPSampler`.
        measurement: the points: a tensor (M, D), which stay; or a function of a generator that returns such, see
            :class:`FixedPoints`, :class:`TrainingAndBox` and :class:`TrainingSubset`. In the dtype of the network.
        functions: number of functions of each prior, in a bag.
        critic_steps: steps of the critic in each iteration, at most.
        critic_lr: learning rate of the critic (Adagrad).
        lr: learning rate of the prior (RMSprop).
        penalty: "lp" penalizes slopes of the critic above 1; "gp" all that are not 1, as the paper's code does, which
            can trap a critic at slope -1.
        penalty_weight: of the penalty.
        width: of the critic's hidden layers.
        tolerance: the critic stops once its gradient's norm is below; 0 for never.
        seed: of all draws.

    Attributes:
        report: :class:`MatchReport` of all fits so far.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, the prior has nothing to learn, there is
            no measurement point, or points are not finite.

    Reference: Tran et al., "All You Need is a Good Functional Prior for Bayesian Deep Learning", JMLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.bnn import FunctionalPriorMatcher, GaussianPrior, scaled_mlp
        >>> from probkernels.kernel_methods import RBF, GPSampler
        >>> prior = GaussianPrior(scaled_mlp((1, 20, 1)), learnable=True)
        >>> x = torch.linspace(-3, 3, 32)[:, None]
        >>> matcher = FunctionalPriorMatcher(prior, GPSampler(RBF(2.0, 9.0)), x, functions=64, critic_steps=20)
        >>> before = matcher.distances()["energy"]
        >>> report = matcher.fit(20)
        >>> len(report.wasserstein), matcher.distances()["energy"] < before
        (20, True)
    """

    def __init__(
        self,
        prior: Prior,
        gp_sampler: Sampler,
        measurement: Tensor | Callable[[torch.Generator], Tensor],
        *,
        functions: int = 128,
        critic_steps: int = 200,
        critic_lr: float = 0.02,
        lr: float = 0.05,
        penalty: str = "lp",
        penalty_weight: float = 10.0,
        width: int = 200,
        tolerance: float = 1e-3,
        seed: int = 0,
    ) -> None:
        op = "FunctionalPriorMatcher"
        if not isinstance(prior, Prior):
            hint = "such as GaussianPrior(net, learnable=True)"
            raise TypeError(message(op, "prior", "a Prior", checks.describe(prior), hint))
        learned = [p for p in prior.parameters() if p.requires_grad]
        if not learned:
            raise ValueError(message(op, "prior", "one with learnable parameters", "none", "pass it learnable=True"))
        for name, value in (("gp_sampler", gp_sampler), ("measurement", measurement)):
            if not callable(value) and not (name == "measurement" and isinstance(value, Tensor)):
                raise TypeError(message(op, name, "a function", checks.describe(value)))
        counts = {
            "functions": (functions, 2),
            "critic_steps": (critic_steps, 1),
            "width": (width, 1),
            "seed": (seed, 0),
        }
        for name, (count, least) in counts.items():
            checks.integer(op, name, count, least)
        for name, number in (("critic_lr", critic_lr), ("lr", lr), ("penalty_weight", penalty_weight)):
            checks.positive(op, name, number)
        checks.non_negative(op, "tolerance", tolerance)
        checks.one_of(op, "penalty", penalty, PENALTIES)
        self.prior, self.gp_sampler, self.functions, self.width = prior, gp_sampler, functions, width
        self.measurement = FixedPoints(measurement) if isinstance(measurement, Tensor) else measurement
        self.critic_options = {"steps": critic_steps, "lr": critic_lr, "weight": penalty_weight, "penalty": penalty,
                               "tolerance": tolerance}  # fmt: skip
        self.optimizer = torch.optim.RMSprop(learned, lr)
        device = learned[0].device
        self.generator = torch.Generator(device).manual_seed(seed)
        self._reporting = torch.Generator(device)  # of distances: reports do not change the fit
        self.seed, self.report = seed, MatchReport()
        self._points(torch.Generator(device).manual_seed(seed))  # errors of the measurement come now

    def fit(
        self,
        steps: int = 200,
        *,
        lr_schedule: Callable[[float], float] | None = None,
        report_every: int | None = None,
        progress: bool = False,
    ) -> MatchReport:
        """Runs ``steps`` more iterations. A second call goes on where the first one ended.

        Ctrl-C ends the fit between two iterations: the prior keeps what it has learned, and ``report.complete`` is
        False.

        Args:
            steps: number of iterations.
            lr_schedule: maps the finished fraction of these iterations to a factor on ``lr``; None for a constant one.
            report_every: iterations from one entry of ``report.distances`` to the next; None for none.
            progress: whether to show a progress bar.

        Returns:
            The report of all fits so far.

        Raises:
            ValueError: the GP sampler's functions have another shape or are not finite, or the distance is not finite.
        """
        op = "FunctionalPriorMatcher.fit"
        checks.integer(op, "steps", steps)
        if report_every is not None:
            checks.integer(op, "report_every", report_every)
        self.report.complete = True
        last = len(self.report.wasserstein) + steps

        def after(step: int, loss: float) -> None:
            self.report.wasserstein.append(loss)
            done = len(self.report.wasserstein)
            if report_every is not None and (done % report_every == 0 or done == last):
                self.report.distances.append((done, self.distances()))

        try:
            minimize(
                self._loss, self.optimizer, steps, lr_schedule=lr_schedule, after=after, progress=progress, name=op
            )
        except KeyboardInterrupt:
            self.report.complete = False
        return self.report

    def _loss(self, step: int) -> Tensor:
        x = self._points(self.generator)
        pair = self._draw(x, self.functions, self.generator)  # the critic's training sees others
        with torch.no_grad():
            bag = self._draw(x, self.functions, self.generator)
        critic = Critic(x.shape[0], x, self.generator, self.width)
        critic.fit(*bag, self.generator, **self.critic_options)  # type: ignore[arg-type]
        return critic.gap(*pair)

    def _points(self, generator: torch.Generator) -> Tensor:
        op, x = "FunctionalPriorMatcher", self.measurement(generator)
        FixedPoints(x)
        like = self.prior._like()
        if x.dtype is not like.dtype:
            raise TypeError(message(op, "measurement", f"points of {like.dtype}, as the network", str(x.dtype)))
        checks.same_device(op, "measurement", x, like, "prior")
        return x

    def _draw(self, x: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Functions of the network and of the process: (outputs, n, M) each."""
        op = "FunctionalPriorMatcher"
        f_nn = self.prior.sample_functions(x, n, generator).reshape(n, len(x), -1).movedim(2, 0)
        outputs = f_nn.shape[0]
        f_gp = self.gp_sampler(x, outputs * n, generator)
        if not isinstance(f_gp, Tensor):
            raise TypeError(message(op, "gp_sampler", "a tensor of functions", checks.describe(f_gp)))
        checks.shape(op, "gp_sampler", f_gp, (outputs * n, len(x)), "(n, M)")
        checks.finite(op, "gp_sampler", f_gp)
        return f_nn, f_gp.detach().to(f_nn).reshape(outputs, n, len(x))

    @torch.no_grad()
    def distances(self, n: int = 1000) -> dict[str, float]:
        """Distances of both priors that need no critic, from ``n`` new functions of each. Outputs are averaged.

        The functions are drawn anew from a seed of their own, the same in each call, and do not change a fit.

        Returns:
            "energy": the energy distance at all points, without bias; "sliced_w1": sliced Wasserstein-1 distance;
            "w1": exact Wasserstein-1 distance at one point, in the mean over points.
        """
        checks.integer("FunctionalPriorMatcher.distances", "n", n, 2)
        generator = self._reporting.manual_seed(self.seed + 1)
        f_nn, f_gp = self._draw(self._points(generator), n, generator)
        pairs = list(zip(f_nn, f_gp, strict=True))
        found = {
            "energy": [energy_distance(a, b) for a, b in pairs],
            "sliced_w1": [sliced_wasserstein(a, b, 128, generator) for a, b in pairs],
            "w1": [wasserstein_1d(a.mT, b.mT).mean() for a, b in pairs],
        }
        return {name: float(torch.stack(values).mean()) for name, values in found.items()}
