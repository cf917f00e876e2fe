"""Sequential Bayes: yesterday's posterior is today's prior. Filtering over tasks, and closed forms of simple models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._functional import Params, flatten, unflatten
from .densities import LOG_2PI, fit_gaussian_mixture
from .priors import Prior, State

LogDensity = Callable[[Tensor], Tensor]


class Density(Protocol):
    """A law of parameters: ``log_prob`` of points (n, P) is (n,). Distributions of torch are such laws."""

    def log_prob(self, value: Tensor, /) -> Tensor: ...


Sampler = Callable[[LogDensity, Tensor], Tensor]


class Filtered(NamedTuple):
    """The posterior after a task: samples (S, P) of all chains, and the density that the next task takes as prior.

    Example:
        >>> import torch
        >>> from probkernels.bnn import Filtered, GaussianMixture
        >>> law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> Filtered(law.sample(100), law).samples.shape
        torch.Size([100, 2])
    """

    samples: Tensor
    density: Density


def filter_posterior(
    log_likelihoods: Sequence[LogDensity], prior: Density, sampler: Sampler,
    density: Callable[[Tensor], Density] = fit_gaussian_mixture, *, start: Tensor,
    generator: torch.Generator | None = None,
) -> list[Filtered]:  # fmt: skip
    """Carries a posterior over tasks. A density fitted to the samples after one task is the prior of the next.

    Errors of the density add up over tasks. Chains of a later task start at different samples of the one before.

    Args:
        log_likelihoods: for each task a function from parameters (n, P) to log-likelihoods (n,) of its data.
        prior: of the first task: anything with ``log_prob``, such as ``Independent(Normal(zeros, 1), 1)``. Give
            ``density`` of an earlier result to go on from there.
        sampler: function of a log-density and the points (C, P) where chains start, which returns samples (S, P), or
            (..., P) chain by chain. All of them are used.
        density: function from samples (S, P) to a law with ``log_prob``: :func:`fit_gaussian_mixture` or
            :func:`fit_real_nvp`, or one that calls them with other options.
        start: (C, P) where the chains of the first task start, for instance draws from the prior.
        generator: on the CPU; chooses where chains of later tasks start.

    Returns:
        Samples and density after each task.

    Raises:
        TypeError, ValueError: a log-density is not (n,) for (n, P) parameters or not finite at ``start``, or samples
            have another width or are not finite. The message names the task.

    Reference: Kessler, Cobb, Rudner, Zohren, Roberts, "On Sequential Bayesian Inference for Continual Learning",
    Entropy 2023. They find that old tasks are forgotten even so.

    Example:
        >>> import torch
        >>> from probkernels.bnn import filter_posterior, fit_gaussian_mixture
        >>> def on_grid(log_density, start):  # samples of a law of one parameter
        ...     w = torch.linspace(-5, 5, 1001)[:, None]
        ...     return w[log_density(w).softmax(0).multinomial(4000, True)]
        >>> prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 1.0), 1)
        >>> tasks = [lambda w: -2 * (w[:, 0] + 1) ** 2, lambda w: -2 * (w[:, 0] - 1) ** 2]
        >>> fit, start = lambda w: fit_gaussian_mixture(w, 1), torch.zeros(1, 1)
        >>> found = filter_posterior(tasks, prior, on_grid, fit, start=start)
        >>> all((after.samples.mean() - m).abs() < 0.1 for after, m in zip(found, (-0.8, 0.0)))
        True
    """
    op = "filter_posterior"
    checks.wide_float_tensor(op, "start", start)
    if start.ndim != 2 or not len(start):
        wanted = "where each chain starts, shape (C, P)"
        raise ValueError(message(op, "start", wanted, f"shape {tuple(start.shape)}"))
    if not isinstance(log_likelihoods, Sequence) or not len(log_likelihoods):
        wanted = "a sequence of functions, one for each task"
        raise ValueError(message(op, "log_likelihoods", wanted, checks.describe(log_likelihoods)))
    if not callable(getattr(prior, "log_prob", None)):
        raise TypeError(message(op, "prior", "an object with log_prob", checks.describe(prior)))
    found: list[Filtered] = []
    for task, likelihood in enumerate(log_likelihoods):
        for name, function in (("prior", prior.log_prob), (f"log_likelihoods[{task}]", likelihood)):
            _check_log_density(op, name, function, start)
        samples = _drawn(sampler, _product(likelihood, prior), start, task)
        prior = density(samples)
        if not callable(getattr(prior, "log_prob", None)):
            raise TypeError(message(op, "density", "a function that returns a law", checks.describe(prior)))
        found.append(Filtered(samples, prior))
        rows = torch.randperm(len(samples), generator=generator)[: len(start)]
        start = samples[rows.repeat(math.ceil(len(start) / len(rows)))[: len(start)].to(samples.device)]
    return found


def _product(likelihood: LogDensity, prior: Density) -> LogDensity:
    """The log-density of the posterior, up to a constant."""
    return lambda w: likelihood(w) + prior.log_prob(w)


def _check_log_density(op: str, name: str, function: LogDensity, start: Tensor) -> None:
    with torch.no_grad():
        values = function(start)
    checks.float_tensor(op, name, values)
    hint = "sum over data and over entries of the parameters, for each row"
    checks.shape(op, name, values, start.shape[:1], f"for parameters {tuple(start.shape)}", hint)
    checks.finite(op, name, values, "where the chains start; draw 'start' from the prior")


def _drawn(sampler: Sampler, log_density: LogDensity, start: Tensor, task: int) -> Tensor:
    """Samples (S, P) of all chains."""
    samples = sampler(log_density, start)
    name = f"sampler(log_likelihoods[{task}])"
    checks.wide_float_tensor("filter_posterior", name, samples)
    if samples.ndim < 2 or samples.shape[-1] != start.shape[1] or not samples.numel():
        wanted = f"samples of shape (S, {start.shape[1]})"
        raise ValueError(message("filter_posterior", name, wanted, f"shape {tuple(samples.shape)}"))
    checks.finite("filter_posterior", name, samples, "lower the step size")
    return samples.detach().reshape(-1, start.shape[1])


class DensityPrior(Prior):
    """A density of flat parameters as the prior of a network, so that samplers of networks go on from it.

    Entries of a flat parameter are those of the network's trainable parameters, in their order.

    Args:
        module: the network.
        density: a law with ``log_prob`` of (n, P) and, for :meth:`sample`, ``sample(n, generator)``, such as that which
            :func:`fit_gaussian_mixture` or :func:`fit_real_nvp` returns.

    Raises:
        TypeError, ValueError: ``density`` has no ``log_prob``, or is of another number of parameters.

    Example:
        >>> import torch
        >>> from probkernels.bnn import DensityPrior, fit_gaussian_mixture
        >>> net = torch.nn.Linear(2, 1)
        >>> prior = DensityPrior(net, fit_gaussian_mixture(torch.randn(100, 3), 1))
        >>> params = prior.sample(5)
        >>> params["weight"].shape, prior.log_prob(params).shape
        (torch.Size([5, 1, 2]), torch.Size([5]))
    """

    def __init__(self, module: nn.Module, density: Density) -> None:
        super().__init__(module)
        if not callable(getattr(density, "log_prob", None)):
            raise TypeError(message("DensityPrior", "density", "an object with log_prob", checks.describe(density)))
        self._density = (density,)  # hidden from parameters(), as the network is: nobody trains a fitted density here
        like = next(p for p in module.parameters() if p.requires_grad)
        count = sum(math.prod(shape) for shape in self.shapes.values())
        try:
            values = density.log_prob(like.detach().new_zeros(2, count))
        except (ValueError, RuntimeError) as error:
            wanted = f"a law of the module's {count} parameters"
            raise ValueError(message("DensityPrior", "density", wanted, str(error))) from error
        checks.shape("DensityPrior", "density.log_prob", values, (2,), f"for parameters (2, {count})")

    @property
    def density(self) -> Density:
        """The law of flat parameters (n, P)."""
        return self._density[0]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Params:
        """Draws ``n`` parameters of the network: {name: (n, *shape)}. Needs a density that can be sampled."""
        draw = getattr(self.density, "sample", None)
        if draw is None:
            raise TypeError(message("DensityPrior.sample", "density", "one with sample(n, generator)", "one without"))
        return unflatten(draw(self._count(n), generator), self.shapes)

    def log_prob(self, params: Mapping[str, Tensor], state: State | None = None) -> Tensor:
        """Log density (n,) of stacked parameters."""
        return self.density.log_prob(flatten({name: params[name] for name in self.shapes}))


@dataclass(frozen=True)
class GaussianMean:
    """The posterior of the mean of normal observations of known variance. Filtering is batch inference, in any order.

    Args:
        mean: of the prior, a tensor of any shape: one for each mean.
        variance: of the prior, of the shape of ``mean`` or a 0-d tensor.
        noise: variance of an observation.

    Raises:
        TypeError, ValueError: variances are not positive, or shapes do not fit.

    Example:
        >>> import torch
        >>> from probkernels.bnn import GaussianMean
        >>> prior = GaussianMean(torch.tensor(0.0), torch.tensor(1.0), 0.25)
        >>> after = prior.update(torch.tensor([-1.1, -0.9, -1.0, -1.2, -0.8]))
        >>> round(after.mean.item(), 4), round(after.variance.item(), 4)
        (-0.9524, 0.0476)
    """

    mean: Tensor
    variance: Tensor
    noise: float

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("variance", self.variance)):
            checks.wide_float_tensor("GaussianMean", name, value)
            checks.finite("GaussianMean", name, value)
        if self.variance.ndim:
            checks.shape("GaussianMean", "variance", self.variance, self.mean.shape, "(that of 'mean')")
        wrong = self.variance <= 0
        if wrong.any():
            got = checks.offender(self.variance, wrong)
            raise ValueError(message("GaussianMean", "variance", "positive numbers", got))
        checks.positive("GaussianMean", "noise", self.noise)

    def update(self, y: Tensor) -> GaussianMean:
        """The posterior given observations (n, ...), n >= 0, of the means (...)."""
        self._check("GaussianMean.update", y)
        variance = 1 / (1 / self.variance + len(y) / self.noise)
        return replace(self, mean=variance * (self.mean / self.variance + y.sum(0) / self.noise), variance=variance)

    def log_predictive(self, y: Tensor) -> Tensor:
        """(n, ...) log-densities of single observations (n, ...), given what has been seen."""
        self._check("GaussianMean.log_predictive", y)
        variance = self.variance + self.noise
        return -((y - self.mean).square() / variance + variance.log() + LOG_2PI) / 2

    def _check(self, op: str, y: Tensor) -> None:
        checks.wide_float_tensor(op, "y", y)
        if y.shape[1:] != self.mean.shape or not y.ndim:
            wanted = f"shape (n, {', '.join(map(str, self.mean.shape))})" if self.mean.ndim else "shape (n,)"
            raise ValueError(message(op, "y", wanted, f"shape {tuple(y.shape)}"))
        checks.finite(op, "y", y, "leave out missing values")


@dataclass(frozen=True)
class BayesianLinearRegression:
    """The posterior of the weights of y = x . w + normal noise. Filtering is batch inference, in any order.

    Args:
        mean: (D,) of the prior.
        precision: (D, D) of the prior, symmetric and positive definite, such as ``torch.eye(D)``.
        noise_precision: the inverse variance of an observation.

    Raises:
        TypeError, ValueError: shapes do not fit, or the precision is not positive definite.

    Example:
        >>> import torch
        >>> from probkernels.bnn import BayesianLinearRegression
        >>> prior = BayesianLinearRegression(torch.zeros(2), torch.eye(2), 100.0)
        >>> after = prior.update(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, 3.0]))
        >>> after.mean
        tensor([1.0096, 1.9707])
    """

    mean: Tensor
    precision: Tensor
    noise_precision: float

    def __post_init__(self) -> None:
        name = "BayesianLinearRegression"
        checks.wide_float_tensor(name, "mean", self.mean)
        checks.wide_float_tensor(name, "precision", self.precision)
        if self.mean.ndim != 1:
            raise ValueError(message(name, "mean", "shape (D,)", f"shape {tuple(self.mean.shape)}"))
        checks.shape(name, "precision", self.precision, (len(self.mean),) * 2, "(D, D)")
        checks.finite(name, "mean", self.mean)
        checks.positive(name, "noise_precision", self.noise_precision)
        asymmetry = (self.precision - self.precision.mT).abs().amax() if self.mean.numel() else torch.zeros(())
        failed = torch.linalg.cholesky_ex(self.precision).info
        if not bool(asymmetry <= 1e-4 * self.precision.abs().amax()) or bool(failed):
            got = "one that is not"
            raise ValueError(message(name, "precision", "a symmetric positive definite matrix", got))

    def update(self, x: Tensor, y: Tensor) -> BayesianLinearRegression:
        """The posterior given inputs (n, D) and observations (n,), n >= 0."""
        self._check("BayesianLinearRegression.update", x, y)
        precision = self.precision + self.noise_precision * x.mT @ x
        right = self.precision @ self.mean + self.noise_precision * x.mT @ y
        mean = torch.cholesky_solve(right[:, None], torch.linalg.cholesky(precision))[:, 0]
        return replace(self, mean=mean, precision=precision)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (n,) of an observation at each input (n, D)."""
        self._check("BayesianLinearRegression.predict", x)
        spread = torch.cholesky_solve(x.mT, torch.linalg.cholesky(self.precision)).mT
        return x @ self.mean, (x * spread).sum(1) + 1 / self.noise_precision

    def log_predictive(self, x: Tensor, y: Tensor) -> Tensor:
        """(n,) log-densities of single observations (n,) at inputs (n, D), given what has been seen."""
        self._check("BayesianLinearRegression.log_predictive", x, y)
        mean, variance = self.predict(x)
        return -((y - mean).square() / variance + variance.log() + LOG_2PI) / 2

    def _check(self, op: str, x: Tensor, y: Tensor | None = None) -> None:
        checks.wide_float_tensor(op, "x", x)
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(message(op, "x", f"shape (n, {len(self.mean)})", f"shape {tuple(x.shape)}"))
        checks.finite(op, "x", x, "leave out missing values")
        if y is not None:
            checks.wide_float_tensor(op, "y", y)
            checks.shape(op, "y", y, (len(x),), "(an observation for each row of 'x')")
            checks.finite(op, "y", y, "leave out missing values")
