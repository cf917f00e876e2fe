"""The variational bound on the likelihood of a chain, in bits per dimension, and training with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known
from ._net import check_state, drawing_nothing, flat, refuse_running_statistics, tensors_in, wide
from ._random import sources
from .chain import VPDiscrete
from .denoiser import Denoiser, times_of
from .losses import dsm_loss
from .process import spread

VARIANCES = ("posterior", "beta", "learned")
NATS_PER_BIT = math.log(2)


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_var1)) || N(mean2, exp(log_var2))) in nats, elementwise. Shapes broadcast.

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
    """-log P of x's bin under N(mean, exp(log_std)^2), in nats, elementwise.

    Args:
        x: (...) data on ``bins`` evenly spaced levels from -1 to 1. The two outer bins extend to infinity.
        mean: mean of the Gaussian; broadcasts against x.
        log_std: log of its standard deviation; broadcasts against x.
        bins: number of levels, at least 2.

    Raises:
        ValueError: there are fewer than two bins.

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
    """Refuses a last step without signal if the prediction needs some: noise there says nothing about the data."""
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
    """One term of the variational bound for each sample: the cost of step ``index`` in bits per dimension.

    Args:
        model: a denoiser of a :class:`VPDiscrete` process.
        x0: (B, *S) float data in -1 .. 1, on ``bins`` levels.
        index: (B,) int64 in 0 .. N-1. Step 0 costs the negative log-likelihood of the data given x_1. Another step i
            costs the KL divergence of the model's step from the posterior q(x_{i-1} | x_i, x_0).
        cond: condition of the network.
        noise: (B, *S); drawn by default.
        variance: variance of the model's steps: "posterior", "beta", or "learned". "learned" needs a denoiser with
            ``variance=True`` and interpolates between the two log variances, at (output + 1) / 2.
        bins: number of levels of the data.
        generator: generator for the noise, on x0's device.
        detach_mean: whether to pass gradients to the variance only.

    Returns:
        (B,), at least float32.

    Raises:
        TypeError, ValueError: the process is not a chain, the variance is unknown, or an index is out of range; also if
            the step has no signal (zero terminal SNR) and the network predicts noise.

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
    checks.integer_tensor("vlb_term", "index", index)
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
    x = chain.mixed("vlb_term", x0, t, noise.to(precise))
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
    return flat(cost.to(torch.promote_types(cost.dtype, torch.float32))).mean(1) / NATS_PER_BIT


def _posterior(chain: VPDiscrete, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q(x_{i-1} | x_i, x_0): its factors of x_i and x_0, its log variance, and log beta; (B,) float64 each.

    At i = 0 the variance is 0; the variance of step 1 takes its place, as in the paper's code.
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
        model: a denoiser of a :class:`VPDiscrete` process with N steps. The network is called N times.
        x0: (B, *S) float data in -1 .. 1, on ``bins`` levels.
        cond: condition of the network.
        variance: see :func:`vlb_term`.
        bins: number of levels of the data.
        generator: generator for the noise, on x0's device.
        progress: whether to show a progress bar.

    Returns:
        (B,): an estimate from one draw of the noise; its expectation is the bound. It has no gradient: train with
        :func:`vlb_term`.

    Raises:
        TypeError, ValueError: as for :func:`vlb_term`; also if the network draws random numbers, or data are
            outside -1 .. 1.
        NotImplementedError: x0 or the condition requires a gradient.

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
    beyond = ~(x0.abs() <= 1 + 1 / (bins - 1))  # half a level, for dequantized data
    if numbers_known(x0) and bool(beyond.any()):
        hint = "data of 0 .. 255 become x0 / 127.5 - 1"
        raise ValueError(message("bits_per_dim", "x0", "data in -1 .. 1", checks.offender(x0, beyond), hint))
    n, watched = len(chain), sources(model, x0.device)
    last_mean = spread(chain.alpha(1.0), x0) * x0
    last_var = (2 * chain.sigma(1.0).log()).to(x0)
    zero = torch.zeros_like(last_var)
    total = flat(gaussian_kl(last_mean, last_var, zero, zero)).mean(1) / NATS_PER_BIT
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
    """The hybrid loss of Improved DDPM: the simple loss plus ``share`` times the variational bound.

    The bound passes gradients to the learned variances only.

    Args:
        model: a denoiser of a :class:`VPDiscrete` process, with ``variance=True``.
        x0: (B, *S) float data in -1 .. 1.
        cond: condition of the network.
        share: weight of the bound, which is N times the mean of :func:`vlb_term`, in bits per dimension.
        bins: number of levels of the data.
        generator: generator for steps and noise, on the CPU.

    Returns:
        A 0-d tensor.

    Raises:
        TypeError, ValueError: as for :func:`vlb_term`; also if the denoiser has no variances.

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
