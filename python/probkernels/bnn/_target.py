"""The log posterior of all chains at once, and what samplers share: checks, flat parameters, the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import Loop
from ._functional import Params, call, check_params, first_parameter, flatten, parameter_shapes, unflatten
from .likelihoods import Likelihood
from .priors import Prior, State


@dataclass
class PosteriorSamples:
    """Samples of a posterior, of several chains.

    Args:
        params: stacked parameters {name: (chains, samples, *shape)}.
        model: the network.
        likelihood: that of the observations.
        variances: of a hierarchical prior, {name: (chains, samples)}; empty otherwise.
        acceptance: (chains) mean acceptance rate after the warm-up; None for a sampler without a Metropolis test.
        step_size: of the leapfrog steps of HMC; None for other samplers.
        complete: False if Ctrl-C ended the sampling early.

    Example:
        >>> import torch
        >>> from probkernels.bnn import GaussianLikelihood, PosteriorSamples
        >>> params = {"weight": torch.ones(2, 3, 1, 1), "bias": torch.zeros(2, 3, 1)}
        >>> samples = PosteriorSamples(params, torch.nn.Linear(1, 1), GaussianLikelihood(0.1))
        >>> samples.functions(torch.ones(5, 1)).shape
        torch.Size([2, 3, 5, 1])
    """

    params: Params
    model: nn.Module
    likelihood: Likelihood
    variances: State = field(default_factory=dict)
    acceptance: Tensor | None = None
    step_size: float | None = None
    complete: bool = True

    @torch.no_grad()
    def functions(self, x: Tensor) -> Tensor:
        """Outputs (chains, samples, N, out) of the network at points ``x`` (N, in)."""
        chains = next(iter(self.params.values())).shape[0]
        values = call(self.model, {name: p.flatten(0, 1) for name, p in self.params.items()}, x)
        return values.unflatten(0, (chains, -1))

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """The predictive distribution at points ``x`` (N, in) over all samples: mean and variance (N, out) of y, noise
        included; or probabilities (N, classes)."""
        return self.likelihood.predict(self.functions(x).flatten(0, 1))


def _finite_data(op: str, name: str, value: Tensor) -> None:
    if value.is_floating_point():
        checks.finite(op, name, value, "leave out rows with missing values")


class Target:
    """log p(y | params, X) + log p(params) of chains, and its gradient, over flat parameters (chains, P)."""

    def __init__(self, op: str, model: nn.Module, prior: Prior, likelihood: Likelihood, X: Tensor, y: Tensor) -> None:
        self.shapes = parameter_shapes(op, model)
        if not isinstance(prior, Prior):
            raise TypeError(message(op, "prior", "a bnn.Prior", checks.describe(prior)))
        wrong = sorted(prior.shapes.items() ^ self.shapes.items())
        if wrong:
            hint = "build the prior from the model itself"
            raise ValueError(
                message(op, "prior", "a prior of the model's parameters", f"a difference in '{wrong[0][0]}'", hint)
            )
        like = first_parameter(model)
        checks.wide_float_tensor(op, "X", X, "X.float()")
        if X.dtype is not like.dtype:
            raise TypeError(message(op, "X", f"{like.dtype}, as the model's parameters", str(X.dtype)))
        if X.dim() < 2 or not len(X):
            hint = "X[:, None] makes a column" if X.dim() == 1 and len(X) else "without data, sample from the prior"
            raise ValueError(message(op, "X", "shape (N, ...) with N >= 1", f"shape {tuple(X.shape)}", hint))
        checks.same_device(op, "X", X, like, "model")
        _finite_data(op, "X", X)
        with torch.no_grad():
            outputs = model(X[:1])
        if not isinstance(y, Tensor):
            raise TypeError(message(op, "y", "a tensor", checks.describe(y), checks.AS_TENSOR))
        likelihood.check(op, outputs[None].expand(1, len(X), *outputs.shape[1:]), y)
        checks.same_device(op, "y", y, X, "X")
        self.op, self.model, self.prior, self.likelihood, self.X, self.y = op, model, prior, likelihood, X, y
        self.state: State | None = None

    def params(self, flat: Tensor) -> Params:
        """Stacked parameters, views of ``flat``."""
        return unflatten(flat, self.shapes)

    def start(self, chains: int, generator: torch.Generator, initial: Mapping[str, Tensor] | None) -> Tensor:
        """Flat parameters that the chains start from: draws of the prior, or those that are given."""
        if initial is None:
            with torch.no_grad():
                return flatten(self.prior.sample(chains, generator)).contiguous()
        n = check_params(self.op, "initial", initial, self.shapes)
        if n != chains:
            raise ValueError(message(self.op, "initial", f"parameters of {chains} chains", f"of {n}"))
        return flatten({name: initial[name].detach() for name in self.shapes}).clone()

    def gradient(self, flat: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Negative log posterior (chains,) and its gradient (chains, P). ``rows``: a minibatch, scaled to all data."""
        with torch.enable_grad():
            leaf = flat.detach().requires_grad_()
            energy = self._energy(leaf, rows)
            (grad,) = torch.autograd.grad(energy.sum(), leaf)
        return energy.detach(), grad

    def _energy(self, flat: Tensor, rows: Tensor | None) -> Tensor:
        params = self.params(flat)
        X, y = (self.X, self.y) if rows is None else (self.X[rows], self.y[rows])
        logs = self.likelihood.log_prob(call(self.model, params, X), y).sum(1) * (len(self.X) / len(X))
        return -logs - self.prior.log_prob(params, self.state)

    def resample(self, flat: Tensor, generator: torch.Generator) -> None:
        """A Gibbs step of the prior's variances, if it has any."""
        self.state = self.prior.resample(self.params(flat), generator)


class Kept:
    """Samples of all chains so far."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.flat: list[Tensor] = []
        self.states: list[State] = []

    def add(self, flat: Tensor) -> None:
        """Keeps a copy."""
        self.flat.append(flat.detach().clone())
        if self.target.state is not None:
            self.states.append(dict(self.target.state))

    def result(self, **more: object) -> PosteriorSamples:
        """Everything kept; with no sample it raises KeyboardInterrupt, which is how that happens."""
        if not self.flat:
            raise KeyboardInterrupt
        count = len(self.flat)
        stacked = unflatten(torch.stack(self.flat, 1).flatten(0, 1), self.target.shapes)
        params = {name: p.unflatten(0, (-1, count)) for name, p in stacked.items()}
        names = self.states[0] if self.states else {}
        variances = {name: torch.stack([s[name] for s in self.states], 1) for name in names}
        return PosteriorSamples(params, self.target.model, self.target.likelihood, variances, **more)  # type: ignore[arg-type]


def run(steps: int, step: Callable[[int], None], progress: bool) -> bool:
    """Calls ``step`` for all numbers below ``steps``; False if Ctrl-C ended it, between two steps."""
    try:
        with Loop(steps, progress=progress) as loop:
            for n in loop:
                step(n)
    except KeyboardInterrupt:
        return False
    return True
