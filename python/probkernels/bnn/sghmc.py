"""Scale-adapted stochastic-gradient Hamiltonian Monte Carlo: an optimizer, and sampling of posteriors with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks, devices
from .._core.errors import message
from ..ops import sghmc_step_
from ._target import Kept, PosteriorSamples, Target, run
from .likelihoods import Likelihood
from .priors import Prior

STATE = ("momentum", "tau", "g", "v")


class AdaptiveSGHMC(torch.optim.Optimizer):
    """Samples parameters in place of optimizing them: SGHMC whose step sizes adapt in a burn-in.

    Each step reads the gradient of the negative log posterior, or of a part of it that ``scale_grad`` completes, such
    as a mean over observations. After the burn-in, parameters are samples, correlated from step to step.

    Args:
        params: parameters or parameter groups, float32 or float64. Groups may have any of the options below.
        lr: step size.
        mdecay: friction, the share of momentum that a step loses, in (0, 1].
        num_burn_in_steps: number of steps in which step sizes adapt.
        scale_grad: factor on gradients: the number of observations, if the loss is a mean over them.
        eps: keeps step sizes finite.
        seed: of the noise. A step's noise is a function of seed, step and place alone.

    Raises:
        TypeError, ValueError: an option is out of range, or a parameter is in half precision.

    Reference: Springenberg et al., "Bayesian Optimization with Robust Bayesian Neural Networks", NIPS 2016.

    Example:
        >>> import torch
        >>> from probkernels.bnn import AdaptiveSGHMC
        >>> w = torch.nn.Parameter(torch.zeros(1000))
        >>> sampler = AdaptiveSGHMC([w], lr=0.03, num_burn_in_steps=500)
        >>> for step in range(2000):
        ...     sampler.zero_grad()
        ...     (w.square().sum() / 2).backward()  # -log p of a standard normal distribution
        ...     _ = sampler.step()
        >>> bool(0.85 < w.std() < 1.15)
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        mdecay: float = 0.05,
        num_burn_in_steps: int = 2000,
        scale_grad: float = 1.0,
        eps: float = 1e-10,
        *,
        seed: int = 0,
    ) -> None:
        checks.integer("AdaptiveSGHMC", "seed", seed, 0)
        defaults = {"lr": lr, "mdecay": mdecay, "num_burn_in_steps": num_burn_in_steps, "scale_grad": scale_grad,
                    "eps": eps, "seed": seed, "step": 0}  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, after checking its options."""
        super().add_param_group(param_group)
        op, group = "AdaptiveSGHMC", self.param_groups[-1]
        try:
            for name in ("lr", "scale_grad", "eps"):
                checks.positive(op, name, group[name])
            checks.positive_fraction(op, "mdecay", group["mdecay"])
            checks.integer(op, "num_burn_in_steps", group["num_burn_in_steps"], 0)
            for k, p in enumerate(group["params"]):
                checks.wide_float_tensor(op, f"params[{k}]", p, "half precision loses the small steps of a sampler")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters with a gradient. ``closure`` computes the loss again, as for torch's own."""
        devices.refuse_baked("AdaptiveSGHMC", "step, whose noise is a function of it, and step size")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for group in self.param_groups:
            chosen = [(first + k, p) for k, p in enumerate(group["params"]) if p.grad is not None]
            first += len(group["params"])
            for _, p in chosen:
                if not self.state[p]:
                    self.state[p] = {"momentum": torch.zeros_like(p)} | {n: torch.ones_like(p) for n in STATE[1:]}
            options = {name: group[name] for name in ("seed", "step", "lr", "mdecay", "scale_grad", "eps")}
            burn_in = group["step"] < group["num_burn_in_steps"]
            for there in devices.by_device(chosen, lambda pair: pair[1].device):
                rows, params = [k for k, _ in there], [p for _, p in there]
                lists = ([self.state[p][name] for p in params] for name in STATE)
                sghmc_step_(params, [p.grad for p in params], *lists, rows=rows, burn_in=burn_in, **options)
            group["step"] += 1
        return loss


def sample_posterior(
    model: nn.Module,
    prior: Prior,
    likelihood: Likelihood,
    X: Tensor,
    y: Tensor,
    *,
    chains: int = 4,
    samples: int = 30,
    burn_in: int = 2000,
    keep_every: int = 200,
    lr: float = 0.01,
    mdecay: float = 0.01,
    batch_size: int | None = None,
    resample_prior_every: int = 20,
    max_norm: float | None = 100.0,
    initial: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PosteriorSamples:
    """Samples the posterior of a network's parameters by scale-adapted SGHMC, all chains in one batch.

    Chains start from draws of the prior. Variances of a hierarchical prior are drawn again every
    ``resample_prior_every`` steps (a Gibbs step). Ctrl-C ends the sampling between two steps and returns the samples so
    far; before the first one it raises KeyboardInterrupt.

    Args:
        model: the network, any module; its own parameters are not used or changed. In eval mode if it has dropout.
        prior: of the model's trainable parameters.
        likelihood: :class:`GaussianLikelihood` or :class:`CategoricalLikelihood`.
        X: (N, ...) inputs, in the dtype of the model.
        y: (N, out) targets, or (N,) classes.
        chains: number of chains.
        samples: kept samples of each chain.
        burn_in: steps before the first sample, in which step sizes adapt.
        keep_every: steps from one sample to the next.
        lr: step size.
        mdecay: friction.
        batch_size: rows of each step, drawn anew and shared by all chains; None for all rows.
        resample_prior_every: steps from one draw of a hierarchical prior's variances to the next.
        max_norm: bound on the norm of a chain's gradient divided by N, as in the paper's code; None for no bound.
        initial: stacked parameters {name: (chains, *shape)} to start from instead.
        seed: of starts, minibatches and noise.
        progress: whether to show a progress bar.

    Returns:
        :class:`PosteriorSamples`.

    Raises:
        TypeError, ValueError: a dtype, shape or number is wrong, there is no data, data are not finite, the prior is
            that of another module, or a chain diverged.

    Reference: Tran et al., "All You Need is a Good Functional Prior for Bayesian Deep Learning", JMLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.bnn import GaussianLikelihood, GaussianPrior, sample_posterior, scaled_mlp
        >>> net = scaled_mlp((1, 10, 1))
        >>> X = torch.linspace(-1, 1, 20)[:, None]
        >>> posterior = sample_posterior(net, GaussianPrior(net), GaussianLikelihood(0.1), X, X.sin(),
        ...                              samples=3, burn_in=50, keep_every=5)
        >>> mean, variance = posterior.predict(X)
        >>> posterior.params["0.weight"].shape, mean.shape
        (torch.Size([4, 3, 10, 1]), torch.Size([20, 1]))
    """
    op = "sample_posterior"
    counts = {
        "chains": chains,
        "samples": samples,
        "keep_every": keep_every,
        "resample_prior_every": resample_prior_every,
    }
    for name, count in counts.items():
        checks.integer(op, name, count)
    checks.integer(op, "burn_in", burn_in, 0)
    checks.integer(op, "seed", seed, 0)
    target = Target(op, model, prior, likelihood, X, y)
    if batch_size is not None:
        checks.integer(op, "batch_size", batch_size, 1, len(X))
    if max_norm is not None:
        checks.positive(op, "max_norm", max_norm)
    generator = torch.Generator(X.device).manual_seed(seed)
    flat = nn.Parameter(target.start(chains, generator, initial))
    sampler = AdaptiveSGHMC([flat], lr, mdecay, burn_in, float(len(X)), seed=seed)
    kept = Kept(target)

    def step(n: int) -> None:
        if n % resample_prior_every == 0:
            target.resample(flat.detach(), generator)
        rows = None
        if batch_size is not None and batch_size < len(X):
            rows = torch.randint(len(X), (batch_size,), generator=generator, device=X.device)
        _, grad = target.gradient(flat, rows)
        flat.grad = _bounded(grad / len(X), max_norm)
        sampler.step()
        if n >= burn_in and (n - burn_in + 1) % keep_every == 0:
            _check_chains(op, n, flat.detach())
            kept.add(flat)

    complete = run(burn_in + samples * keep_every, step, progress)
    return kept.result(complete=complete)


def _bounded(grad: Tensor, max_norm: float | None) -> Tensor:
    if max_norm is None:
        return grad
    norm = grad.norm(dim=1, keepdim=True)
    return grad * (max_norm / norm.clamp(min=max_norm))


def _check_chains(op: str, step: int, flat: Tensor) -> None:
    bad = ~flat.isfinite().all(1)
    if bad.any():
        got = f"NaN or infinity in chain {int(bad.nonzero()[0])} after step {step}"
        raise ValueError(message(op, "lr", "a step size at which chains stay finite", got, "lower it"))
