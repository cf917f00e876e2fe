"""Hamiltonian Monte Carlo with all chains in one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._target import Kept, PosteriorSamples, Target, run
from .likelihoods import Likelihood
from .priors import Prior

DIVERGED = 1000.0  # an error in energy that no accurate trajectory has


class _Law(Protocol):
    """What chains move in: a :class:`Target`, or a log-density of flat parameters."""

    state: Any  # of hidden variables, which a Gibbs step draws; None: there are none

    def gradient(self, flat: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def resample(self, flat: Tensor, generator: Any, /) -> None: ...


class _Plain:
    """A log-density of points (chains, P)."""

    state = None

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density

    def gradient(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = flat.detach().requires_grad_()
            energy = -self.log_density(leaf)
            checks.shape("HMC.sample_density", "log_density(points)", energy, (len(flat),), "(a number for each point)")
            (grad,) = torch.autograd.grad(energy.sum(), leaf)
        return energy.detach(), grad

    def resample(self, flat: Tensor, generator: Any) -> None:
        """There are no hidden variables."""


class _DualAveraging:
    """The step size at which the mean acceptance is ``wanted`` (Nesterov; Hoffman and Gelman, 2014)."""

    def __init__(self, step_size: float, wanted: float) -> None:
        self.step_size, self.wanted = step_size, wanted
        self.center, self.error, self.average, self.count = math.log(10 * step_size), 0.0, 0.0, 0

    def update(self, acceptance: float) -> None:
        """After an iteration of the warm-up."""
        self.count += 1
        share = 1 / (self.count + 10)
        self.error += share * (self.wanted - acceptance - self.error)
        log = self.center - math.sqrt(self.count) / 0.05 * self.error
        weight = self.count**-0.75
        self.average += weight * (log - self.average)
        self.step_size = math.exp(log)

    def settle(self) -> None:
        """At the end of the warm-up."""
        if self.count:
            self.step_size = math.exp(self.average)


class HMC:
    """Hamiltonian Monte Carlo: full-batch gradients, a Metropolis test, all chains in one batch.

    Every iteration draws momenta, makes ``leapfrog_steps`` steps and accepts or rejects, each chain for itself. In the
    warm-up the step size, which all chains share, adapts by dual averaging. Variances of a hierarchical prior are drawn
    again in every iteration (a Gibbs step).

    Args:
        step_size: of leapfrog steps; where adaptation starts.
        leapfrog_steps: steps of a trajectory.
        adapt: whether the step size adapts in the warm-up.
        target_acceptance: mean acceptance rate to adapt to, in (0, 1).
        jitter: each trajectory's step size is the current one times a uniform number from 1 - jitter to 1 + jitter, so
            that no trajectory returns to its start again and again.

    Raises:
        TypeError, ValueError: a number is out of range.

    Reference: Neal, "MCMC using Hamiltonian dynamics", 2011; Hoffman and Gelman, "The No-U-Turn Sampler", JMLR 2014
    (dual averaging); Kessler et al., "On Sequential Bayesian Inference for Continual Learning", Entropy 2023.

    Example:
        >>> import torch
        >>> from probkernels.bnn import CategoricalLikelihood, GaussianPrior, HMC, scaled_mlp
        >>> net, X = scaled_mlp((2, 10, 2)), torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
        >>> posterior = HMC(0.05, 10).sample(net, GaussianPrior(net), CategoricalLikelihood(), X, (X[:, 0] > 0).long(),
        ...                                  chains=8, samples=20, warmup=50)
        >>> posterior.params["0.weight"].shape, posterior.acceptance.shape
        (torch.Size([8, 20, 10, 2]), torch.Size([8]))
    """

    def __init__(
        self,
        step_size: float = 0.01,
        leapfrog_steps: int = 20,
        *,
        adapt: bool = True,
        target_acceptance: float = 0.8,
        jitter: float = 0.2,
    ) -> None:
        checks.positive("HMC", "step_size", step_size)
        checks.integer("HMC", "leapfrog_steps", leapfrog_steps)
        checks.fraction("HMC", "target_acceptance", target_acceptance)
        checks.positive("HMC", "target_acceptance", target_acceptance)
        checks.fraction("HMC", "jitter", jitter)
        self.jitter = float(jitter)
        self.step_size, self.leapfrog_steps = float(step_size), leapfrog_steps
        self.adapt, self.target_acceptance = bool(adapt), float(target_acceptance)

    def sample(
        self,
        model: nn.Module,
        prior: Prior,
        likelihood: Likelihood,
        X: Tensor,
        y: Tensor,
        *,
        chains: int = 4,
        samples: int = 1000,
        warmup: int = 500,
        keep_every: int = 1,
        initial: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> PosteriorSamples:
        """Samples the posterior of a network's parameters.

        Ctrl-C ends the sampling between two iterations and returns the samples so far; before the first one it raises
        KeyboardInterrupt.

        Args:
            model: the network, any module; its own parameters are not used or changed.
            prior: of the model's trainable parameters.
            likelihood: :class:`GaussianLikelihood` or :class:`CategoricalLikelihood`.
            X: (N, ...) inputs, in the dtype of the model.
            y: (N, out) targets, or (N,) classes.
            chains: number of chains.
            samples: kept samples of each chain.
            warmup: iterations before the first sample.
            keep_every: iterations from one sample to the next.
            initial: stacked parameters {name: (chains, *shape)} to start from; draws of the prior by default.
            seed: of all random numbers.
            progress: whether to show a progress bar.

        Returns:
            :class:`PosteriorSamples`, with acceptance rates and the step size.

        Raises:
            TypeError, ValueError: a dtype, shape or number is wrong, there is no data, data are not finite, or the
                prior is that of another module.
        """
        _check_counts("HMC.sample", warmup, chains=chains, samples=samples, keep_every=keep_every)
        checks.integer("HMC.sample", "seed", seed, 0)
        target = Target("HMC.sample", model, prior, likelihood, X, y)
        generator = torch.Generator(X.device).manual_seed(seed)
        here, kept = target.start(chains, generator, initial), Kept(target)
        count = warmup, samples, keep_every
        complete, accepted, size = self._run("HMC.sample", target, here, kept.add, count, generator, progress)
        done = max(len(kept.flat) * keep_every, 1)
        return kept.result(complete=complete, acceptance=(accepted / done).clamp(max=1), step_size=size)

    def sample_density(
        self,
        log_density: Callable[[Tensor], Tensor],
        start: Tensor,
        *,
        samples: int = 1000,
        warmup: int = 500,
        keep_every: int = 1,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Samples any density of vectors, such as those that :func:`filter_posterior` passes to a sampler.

        Args:
            log_density: function from points (chains, P) to their log-densities (chains,), up to a constant. Torch
                must be able to differentiate it.
            start: (chains, P) where chains start, float32 or float64.
            samples: kept samples of each chain.
            warmup: iterations before the first sample.
            keep_every: iterations from one sample to the next.
            generator: source of the random numbers, on the device of ``start``.
            progress: whether to show a progress bar.

        Returns:
            (chains, samples, P).

        Raises:
            TypeError, ValueError: a dtype, shape or number is wrong, or the density is zero or NaN at a start.

        Example:
            >>> import torch
            >>> from probkernels.bnn import HMC
            >>> generator = torch.Generator().manual_seed(0)
            >>> draws = HMC(0.5, 5).sample_density(lambda w: -w.square().sum(1) / 2, torch.zeros(8, 2), samples=200,
            ...                                    warmup=100, generator=generator)
            >>> draws.shape, bool((draws.std() - 1).abs() < 0.1)
            (torch.Size([8, 200, 2]), True)
        """
        op = "HMC.sample_density"
        checks.wide_float_tensor(op, "start", start)
        if start.ndim != 2 or not start.numel():
            raise ValueError(
                message(op, "start", "where each chain starts, shape (C, P)", f"shape {tuple(start.shape)}")
            )
        _check_counts(op, warmup, samples=samples, keep_every=keep_every)
        if not callable(log_density):
            raise TypeError(message(op, "log_density", "a function of points (C, P)", checks.describe(log_density)))
        kept: list[Tensor] = []
        count = warmup, samples, keep_every
        complete, _, _ = self._run(op, _Plain(log_density), start.detach(), kept.append, count, generator, progress)
        if not complete:
            raise KeyboardInterrupt
        return torch.stack(kept, 1)

    def _run(
        self, op: str, law: _Law, here: Tensor, keep: Callable[[Tensor], Any], count: tuple[int, int, int],
        generator: torch.Generator | None, progress: bool,
    ) -> tuple[bool, Tensor, float]:  # fmt: skip
        """Moves chains and keeps samples. Whether all are there; sums (chains,) of acceptance rates; the step size."""
        warmup, samples, keep_every = count
        size = _DualAveraging(self.step_size, self.target_acceptance)
        law.resample(here, generator)
        energy, grad = law.gradient(here)
        if not energy.isfinite().all():
            got = f"an infinite energy in chain {int((~energy.isfinite()).nonzero()[0])}"
            name = "initial" if isinstance(law, Target) else "start"
            raise ValueError(message(op, name, "starts of finite density", got))
        accepted = torch.zeros(len(here), dtype=torch.float64, device=here.device)

        def iterate(n: int) -> None:
            nonlocal here, energy, grad
            if law.state is not None:
                law.resample(here, generator)
                energy, grad = law.gradient(here)
            if n == warmup:
                size.settle()
            here, energy, grad, rate = self._transition(law, here, energy, grad, size.step_size, generator)
            if n >= warmup:
                accepted.add_(rate)
                if (n - warmup + 1) % keep_every == 0:
                    keep(here)
            elif self.adapt:
                size.update(float(rate.mean()))

        complete = run(warmup + samples * keep_every, iterate, progress)
        return complete, accepted, size.step_size

    def _transition(
        self, law: _Law, here: Tensor, energy: Tensor, grad: Tensor, step_size: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next state of all chains: position, energy, gradient; and acceptance probabilities (chains,)."""
        p = torch.randn(here.shape, generator=generator, dtype=here.dtype, device=here.device)
        uniform, spread = torch.rand(2, len(here), generator=generator, dtype=torch.float64, device=here.device)
        size = (step_size * (1 + self.jitter * (2 * spread - 1))).to(here.dtype)[:, None]
        before = energy.double() + p.double().square().sum(1) / 2
        there, slope, p = here, grad, p - size / 2 * grad
        for k in range(self.leapfrog_steps):
            there = there + size * p
            new_energy, slope = law.gradient(there)
            p = p - (size if k < self.leapfrog_steps - 1 else size / 2) * slope
        error = new_energy.double() + p.double().square().sum(1) / 2 - before
        error = torch.where(error.isfinite() & there.isfinite().all(1), error, DIVERGED)
        rate = (-error).exp().clamp(max=1)
        moves = uniform < rate
        column = moves[:, None]
        return (
            torch.where(column, there, here),
            torch.where(moves, new_energy, energy),
            torch.where(column, slope, grad),
            rate,
        )


def _check_counts(op: str, warmup: int, **counts: int) -> None:
    for name, count in counts.items():
        checks.integer(op, name, count)
    checks.integer(op, "warmup", warmup, 0)
