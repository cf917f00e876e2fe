"""The bound on the likelihood of a chain, in bits per dimension, and training with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from ._net import check_state, drawing_nothing, refuse_running_statistics, tensors_in, wide
from ._random import sources
from .chain import VPDiscrete
from .denoiser import Denoiser, times_of
from .losses import dsm_loss
from .process import spread

VARIANCES = ("posterior", "beta", "learned")
NATS_PER_BIT = math.log(2)


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL divergence in nats, by element, of N(mean1, exp(log_var1)) from N(mean2, exp(log_var2)); shapes broadcast.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import gaussian_kl
        >>> zero, one = torch.tensor(0.0), torch.tensor(1.0)
        >>> float(gaussian_kl(one, zero, zero, zero))
        0.5
    """
    gap = (mean1 - mean2).square() * (-log_var2).exp()
    return 0.5 * (log_var2 - log_var1 - 1 + (log_var1 - log_var2).exp() + gap)


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_std: Tensor, bins: int = 256) -> Tensor:
    """-log P in nats, by element, of the bin of x under N(mean, exp(log_std)^2).

    Args:
        x: (...), one of ``bins`` levels that divide -1 .. 1 evenly; the outer bins reach to infinity.
        mean: (...), broadcast against x.
        log_std: likewise.
        bins: at least 2.

    Raises:
        ValueError: fewer than two bins.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import discretized_gaussian_nll
        >>> levels, zero = torch.linspace(-1, 1, 256, dtype=torch.float64), torch.zeros(256, dtype=torch.float64)
        >>> round(float((-discretized_gaussian_nll(levels, zero, zero)).exp().sum()), 12)
        1.0
    """
    if bins < 2:
        raise ValueError(message("discretized_gaussian_nll", "bins", "at least 2", repr(bins)))
    half, scale = 1 / (bins - 1), (-log_std).exp()
    upper, lower = (x + half - mean) * scale, (x - half - mean) * scale
    upper = upper.masked_fill(x > 1 - half, torch.inf)
    lower = lower.masked_fill(x < -1 + half, -torch.inf)
    # of two values of the distribution function near 1 the difference is lost; in the other tail it is not
    flip = lower > 0
    low, high = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    mass = (torch.erfc(-high / math.sqrt(2)) - torch.erfc(-low / math.sqrt(2))) / 2  # ndtr is 0 below -9
    return -mass.clamp_min(torch.finfo(mass.dtype).tiny).log()


def chain_of(op: str, model: Denoiser) -> VPDiscrete:
    """The model's process, which must be a chain."""
    if not isinstance(model, Denoiser):
        raise TypeError(message(op, "model", "a Denoiser", checks.describe(model)))
    if not isinstance(model.process, VPDiscrete):
        expected = "a denoiser of a VPDiscrete process"
        raise ValueError(message(op, "model", expected, f"one of {type(model.process).__name__}", "or log_prob"))
    return model.process


def _refuse_no_signal(op: str, model: Denoiser, index: Tensor | None) -> None:
    """Where nothing of the data is left, a chain's last step may be, noise says nothing about them."""
    chain = chain_of(op, model)
    last = index is None or bool((index == len(chain) - 1).any())
    if last and model.needs_signal("x0") and float(chain.alpha(1.0).detach()) == 0:
        expected = f"some signal after the last step, as pred is {model.pred!r}"
        hint = "use a network with pred 'x0', 'v' or 'flow'"
        raise ValueError(message(op, "model", expected, "a chain with zero terminal SNR", hint))


def vlb_term(
    model: Denoiser,
    x0: Tensor,
    index: Tensor,
    cond: Any = None,
    *,
    noise: Tensor | None = None,
    variance: str = "posterior",
    bins: int = 256,
    generator: torch.Generator | None = None,
    detach_mean: bool = False,
) -> Tensor:
    """One term of the bound for each sample: what step ``index`` costs, in bits per dimension.

    Args:
        model: of a :class:`VPDiscrete` process.
        x0: (B, *S) float in -1 .. 1, of ``bins`` levels.
        index: (B,) int64 in 0 .. N-1. At 0 it is the cost of the data themselves given x_1, elsewhere the divergence
            of the model's step from the posterior q(x_{i-1} | x_i, x_0).
        cond: of the network.
        noise: (B, *S); by default drawn.
        variance: of the model's steps: "posterior", "beta", or "learned" (a denoiser with ``variance=True``: log
            variances between the two, at the share (output + 1) / 2).
        bins: levels of the data.
        generator: of the noise, on x0's device.
        detach_mean: only the variance is to learn from it.

    Returns:
        (B,), float32 at least.

    Raises:
        TypeError, ValueError: no chain, unknown variance, index out of range; the last step of a chain with zero
            terminal SNR for predictions of noise, which say nothing about the data there.

    Reference:
        Ho et al., NeurIPS 2020; Nichol and Dhariwal, Improved DDPM, ICML 2021.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import Denoiser, VPDiscrete, vlb_term
        >>> class Zero(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> model = Denoiser(Zero(), VPDiscrete.linear(), pred="x0")
        >>> bool((vlb_term(model, torch.zeros(2, 3), torch.tensor([500, 999])) < 1e-9).all())  # the prediction is right
        True
    """
    chain = chain_of("vlb_term", model)
    check_state("vlb_term", "x0", x0)
    checks.one_of("vlb_term", "variance", variance, VARIANCES)
    checks.shape("vlb_term", "index", index, x0.shape[:1], "one step a sample")
    if bool(((index < 0) | (index >= len(chain))).any()):
        raise ValueError(message("vlb_term", "index", f"steps in 0 .. {len(chain) - 1}", str(index.tolist())))
    _refuse_no_signal("vlb_term", model, index)
    t = (index.double() + 1) / len(chain)
    if noise is not None and generator is not None:
        hint = "it draws the noise where none is given"
        raise ValueError(message("vlb_term", "generator", "none, as noise is given", "a generator", hint))
    given_dtype = x0.dtype  # half precision is the net's alone: variances overflow in it
    precise = wide(given_dtype)
    if noise is None:
        noise = torch.randn(x0.shape, generator=generator, dtype=precise, device=x0.device)
    x0 = x0.to(precise)
    x = chain.noised(x0, t, noise.to(precise))
    given = x.to(given_dtype)
    if variance == "learned":
        output, share = (part.to(precise) for part in model.both(given, t, cond))
    else:
        output, share = model.forward(given, t, cond), None
    predicted = model.convert(model.point("x0", times_of(t, x)), "x0", output, x)
    on_x, on_data, narrow, broad = (spread(c, x0) for c in _posterior(chain, index.to(x0.device)))
    if detach_mean:
        predicted = predicted.detach()
    log_var = {"posterior": narrow, "beta": broad}.get(variance)
    if log_var is None:
        assert share is not None
        log_var = narrow + (share + 1) / 2 * (broad - narrow)
    mean = on_x * x + on_data * predicted
    kl = gaussian_kl(on_x * x + on_data * x0, narrow, mean, log_var)
    first = discretized_gaussian_nll(x0, mean, log_var / 2, bins)
    cost = torch.where(spread(index, x0) == 0, first, kl)
    return cost.to(torch.promote_types(cost.dtype, torch.float32)).flatten(1).mean(1) / NATS_PER_BIT


def _posterior(chain: VPDiscrete, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of q(x_{i-1} | x_i, x_0): factors of x_i and x_0, and the logs of its variance and of beta; (B,) float64.

    At i = 0 nothing is uncertain; there the variance of step 1 stands in, as in the paper's code.
    """
    n = len(chain)
    t, before = (index.double() + 1) / n, index.double() / n
    a, a1, s2, s12 = chain.alpha(t), chain.alpha(before), chain.sigma(t).square(), chain.sigma(before).square()
    ratio = a / a1
    beta = 1 - ratio.square()
    second = index.clamp_min(1).double() / n  # of step 1 for step 0
    grown = chain.sigma(second + 1 / n).square()
    narrow = (1 - (chain.alpha(second + 1 / n) / chain.alpha(second)).square()) * chain.sigma(second).square() / grown
    return ratio * s12 / s2, a1 * beta / s2, narrow.log(), beta.log()


def bits_per_dim(
    model: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    variance: str = "posterior",
    bins: int = 256,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """An upper bound on -log2 p(x0) per dimension, from all N steps of the chain.

    Args:
        model: of a :class:`VPDiscrete` process of N steps; its network is called N times.
        x0: (B, *S) float in -1 .. 1, of ``bins`` levels.
        cond: of the network.
        variance: see :func:`vlb_term`.
        bins: levels of the data.
        generator: of the noise, on x0's device.
        progress: show a progress bar.

    Returns:
        (B,): its mean over many draws of the noise is the bound. No gradient passes: train with :func:`vlb_term`.

    Raises:
        TypeError, ValueError: as :func:`vlb_term`; a network that draws random numbers.
        NotImplementedError: for an x0 or condition that requires a gradient.

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import Denoiser, VPDiscrete, bits_per_dim
        >>> class Zero(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> bits_per_dim(Denoiser(Zero(), VPDiscrete.linear(50), pred="x0"), torch.zeros(4, 8)).shape
        torch.Size([4])
    """
    _refuse_no_signal("bits_per_dim", model, None)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors_in((x0, cond))):
        expected = "a tensor that requires no gradient, nor such a condition"
        raise NotImplementedError(message("bits_per_dim", "x0", expected, "one that does", "sum vlb_term() over steps"))
    with torch.no_grad():
        return _bound(model, x0, cond, variance, bins, generator, progress)


def _bound(
    model: Denoiser, x0: Tensor, cond: Any, variance: str, bins: int, generator: torch.Generator | None, progress: bool
) -> Tensor:
    chain = chain_of("bits_per_dim", model)
    refuse_running_statistics("bits_per_dim", model)
    check_state("bits_per_dim", "x0", x0)
    n, watched = len(chain), sources(model, x0.device)
    last_mean = spread(chain.alpha(1.0), x0) * x0
    last_var = (2 * chain.sigma(1.0).log()).to(x0)
    zero = torch.zeros_like(last_var)
    total = gaussian_kl(last_mean, last_var, zero, zero).flatten(1).mean(1) / NATS_PER_BIT
    for i in tqdm(range(n), desc="bits per dimension", disable=checks.hidden(progress)):
        index = torch.full(x0.shape[:1], i, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, dtype=wide(x0.dtype), device=x0.device)
        with drawing_nothing("bits_per_dim", watched):
            total = total + vlb_term(model, x0, index, cond, noise=noise, variance=variance, bins=bins)
    return total


def hybrid_loss(
    model: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    share: float = 1e-3,
    bins: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The simple loss plus ``share`` of the bound, from which only the learned variances learn.

    Args:
        model: a denoiser of a chain with ``variance=True``.
        x0: (B, *S) float in -1 .. 1.
        cond: of the network.
        share: of the bound, which is N times the mean term in bits per dimension.
        bins: levels of the data.
        generator: of steps and noise, on the CPU.

    Returns:
        0-d.

    Raises:
        TypeError, ValueError: as :func:`vlb_term`; a denoiser without variances.

    Reference:
        Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, ICML 2021.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import Denoiser, VPDiscrete, hybrid_loss
        >>> net = torch.nn.Bilinear(2, 1, 4)
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return net(x, t[:, None])
        >>> model = Denoiser(Net(), VPDiscrete.linear(), variance=True)
        >>> hybrid_loss(model, torch.zeros(3, 2)).ndim
        0
    """
    _refuse_no_signal("hybrid_loss", model, None)
    chain = chain_of("hybrid_loss", model)
    checks.non_negative("hybrid_loss", "share", share)
    index = torch.randint(len(chain), x0.shape[:1], generator=generator, device="cpu")
    noise = torch.randn(x0.shape, generator=generator, device="cpu").to(x0)
    simple = dsm_loss(model, x0, cond, t=(index.double() + 1) / len(chain), noise=noise)
    index = index.to(x0.device)
    terms = vlb_term(model, x0, index, cond, noise=noise, variance="learned", bins=bins, detach_mean=True)
    return simple + share * len(chain) * terms.mean()
