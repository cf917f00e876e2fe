"""Training losses of a denoiser: denoising score matching with any weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._device import on_cpu
from ._net import check_state, flat
from ._predictions import parts
from ._ranges import same_shape
from .chain import VPDiscrete
from .denoiser import Denoiser
from .process import Process, double, spread

WEIGHTS = ("eps", "x0", "v", "score", "flow", "edm", "min_snr", "likelihood")
LOG_SIGMA = (-1.2, 1.2)  # mean and deviation of EDM's log noise at training
MIN_SNR = 5.0
SIGMA_DATA = 0.5


def loss_weight(
    process: Process, t: Tensor, weight: str, *, sigma_data: float | None = None, most: float | None = None
) -> Tensor:
    """Weight (B,) float64 of the squared error |x0 - predicted x0|^2 at times t (B,).

    Every loss is a weight on this one error, because eps - predicted eps = -(alpha / sigma) (x0 - predicted x0), and
    so on. With snr = (alpha / sigma)^2 the weights are "eps": snr; "x0": 1; "v": (alpha^2 / sigma + sigma)^2; "score":
    snr / sigma^2; "flow": (1 + alpha / sigma)^2; "edm": (rho^2 + sd^2) / (rho sd)^2; "min_snr": min(snr, ``most``);
    "likelihood": g^2 snr / sigma^2. Where no signal or no noise is left, each weight takes its limit. ``sigma_data`` is
    sd in "edm", 0.5 by default; ``most`` bounds "min_snr", 5 by default.

    Raises:
        ValueError: the weight is unknown, or an option belongs to another weight.

    Reference:
        Hang et al., Min-SNR Weighting, ICCV 2023; Karras et al., NeurIPS 2022; Song et al., Maximum Likelihood Training
        of Score-Based Diffusion Models, NeurIPS 2021.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import EDM, loss_weight
        >>> loss_weight(EDM(), torch.tensor([0.5]), "eps")
        tensor([4.], dtype=torch.float64)
    """
    checks.one_of("loss_weight", "weight", weight, WEIGHTS)
    for name, value, of in (("sigma_data", sigma_data, "edm"), ("most", most, "min_snr")):
        if value is not None and weight != of:
            raise ValueError(message("loss_weight", name, f"none, as weight is {weight!r}", repr(value), f"of {of!r}"))
    return _limited(
        process, t, weight, SIGMA_DATA if sigma_data is None else sigma_data, MIN_SNR if most is None else most
    )


def _limited(process: Process, t: Tensor, weight: str, sigma_data: float, most: float = MIN_SNR) -> Tensor:
    """:func:`loss_weight` without defaults."""
    if weight == "min_snr":
        return (process.alpha(t) / process.sigma(t)).square().clamp_max(most)
    factor, power, signal = _weight(process, t, weight, sigma_data, most)
    if signal:
        factor = _with_signal(factor, process.alpha(t).square())
    return _with_noise(factor, process.sigma(t), power)


def _with_signal(factor: Tensor, a2: Tensor) -> Tensor:
    """alpha^2 times a factor: without signal g^2 may be infinite, but alpha^2 g^2 is 0, being
    alpha^2 (sigma^2)' - 2 alpha alpha' sigma^2."""
    return torch.where(a2 > 0, a2 * torch.where(a2 > 0, factor, 1.0), a2)


def _with_noise(factor: Tensor, s: Tensor, power: int) -> Tensor:
    """sigma^power times a factor: without noise g^2 may be 0, but g^2 / sigma^4 and g^2 / sigma^2 are infinite, being
    the slopes of -1 / sigma^2 and of log sigma^2."""
    if power >= 0:
        return factor * s**power
    return torch.where(s > 0, factor * torch.where(s > 0, s, 1.0) ** power, torch.inf)


def _weight(process: Process, t: Tensor, weight: str, sigma_data: float, most: float) -> tuple[Tensor, int, bool]:
    """A weight without its factors sigma^power and alpha^2, the power, and whether it has the latter.

    Ratios of weights have limits where sigma or alpha is 0.
    """
    a, s = process.alpha(t), process.sigma(t)
    a2, s2 = a.square(), s.square()
    if weight == "likelihood":
        return process.diffusion2(t), -4, True
    one = torch.ones_like(s2)
    return {
        "eps": (one, -2, True),
        "x0": (one, 0, False),
        "v": ((a2 + s2).square(), -2, False),
        "score": (one, -4, True),
        "flow": ((a + s).square(), -2, False),
        "edm": (s2 / sigma_data**2 + a2, -2, False),
        "min_snr": (torch.minimum(1 / s2, most / a2), 0, True),
    }[weight]


@on_cpu
def draw_times(
    process: Process, size: int, *, kind: str = "uniform", generator: torch.Generator | None = None
) -> Tensor:
    """Draws random training times (size,), float64.

    Args:
        process: the process. For a :class:`VPDiscrete` process the times are whole steps; otherwise any times from
            ``t_min`` to ``t_max``.
        size: number of times.
        kind: "uniform": uniform in time. "stratified": uniform within each of ``size`` equal intervals, which lowers
            the variance of the loss. "lognormal": log rho is normal with mean -1.2 and standard deviation 1.2, as in
            EDM.
        generator: generator for the draws, on the CPU.

    Raises:
        ValueError: the kind is unknown.

    Example:
        >>> from probkernels.diffusion import VPDiscrete, draw_times
        >>> t = draw_times(VPDiscrete.linear(10), 100)
        >>> sorted(set((t * 10).round().int().tolist()))
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    """
    checks.one_of("draw_times", "kind", kind, ("uniform", "stratified", "lognormal"))
    if kind == "lognormal":
        z = torch.randn(size, dtype=torch.float64, generator=generator)
        t = process.t_of_rho((LOG_SIGMA[0] + LOG_SIGMA[1] * z).exp()).clamp(process.t_min, process.t_max)
        return _whole(process, t) if isinstance(process, VPDiscrete) else t
    u = torch.rand(size, dtype=torch.float64, generator=generator)
    if kind == "stratified":
        u = (torch.arange(size) + u) / size
    if isinstance(process, VPDiscrete):
        return _whole(process, u)
    low = process.t_min or 1e-5  # no noise, no task
    return low + u * (process.t_max - low)


def _whole(process: VPDiscrete, t: Tensor) -> Tensor:
    n = len(process)
    return ((t * n).floor() + 1).clamp(1, n) / n


def dsm_loss(
    model: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    weight: str | None = None,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    times: str | None = None,
    generator: torch.Generator | None = None,
    reduce: bool = True,
) -> Tensor:
    """The denoising score matching loss: a weighted squared error of the predicted data, averaged over dimensions.

    The error is computed on the network's own output: with the default weight, no rounding error is divided by a small
    alpha or sigma. Predicted data are not clipped.

    Args:
        model: the denoiser to train.
        x0: (B, *S) float, the data.
        cond: condition of the network.
        weight: see :func:`loss_weight`. By default the weight of ``model.pred``, which gives the "simple" loss.
        t: times, (B,) or 0-d. By default drawn by :func:`draw_times`.
        noise: (B, *S); drawn by default.
        times: the kind of :func:`draw_times`; "uniform" by default.
        generator: CPU generator for times and noise; with one, the noise is the same on every device.
        reduce: whether to return the mean over the batch, 0-d, rather than one loss per sample, (B,).

    Returns:
        0-d or (B,), at least float32.

    Raises:
        TypeError, ValueError: ``model`` is not a denoiser, ``x0`` is not a float tensor, or the weight or ``times`` is
            unknown; both ``t`` and ``times`` are given; a ``generator`` is given but nothing is drawn; no signal or
            no noise is left at a time, and pred is "edm" without ``time``, so that the time input would be infinite; a
            time is outside 0 .. ``t_max``, or ``noise`` has another shape than the data.

    Reference:
        Vincent, A Connection Between Score Matching and Denoising Autoencoders, 2011; Ho et al., NeurIPS 2020.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, dsm_loss
        >>> class Zero(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> x0 = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
        >>> round(float(dsm_loss(Denoiser(Zero(), VP(), pred="v"), x0)), 1)  # v is normal whatever the time
        1.0
    """
    if not isinstance(model, Denoiser):
        raise TypeError(message("dsm_loss", "model", "a Denoiser", checks.describe(model)))
    check_state("dsm_loss", "x0", x0)
    checks.one_of("dsm_loss", "weight", weight, (None, *WEIGHTS))
    if t is not None and times is not None:
        raise ValueError(message("dsm_loss", "times", "none, as t is given", repr(times)))
    if t is not None and noise is not None and generator is not None:
        raise ValueError(message("dsm_loss", "generator", "none, as t and noise are given", "a generator"))
    if t is None:
        t = draw_times(model.process, len(x0), kind="uniform" if times is None else times, generator=generator)
    t = double(t)
    if t.ndim and t.shape != x0.shape[:1]:
        checks.shape("dsm_loss", "t", t, x0.shape[:1], "(or 0-d): one time a sample")
    model.refuse_ends("", x0, t, "dsm_loss")  # here, before the times move to a GPU
    t = t.to(x0.device)
    if noise is None:
        wide = torch.promote_types(x0.dtype, torch.float32)
        noise = torch.randn(x0.shape, generator=generator, dtype=wide, device="cpu" if generator else x0.device)
    noise = noise.to(x0)
    same_shape("dsm_loss", noise, x0)
    a, s = model.process.alpha(t), model.process.sigma(t)  # once: small nets take no longer than these
    output = model.output(spread(a, x0) * x0 + spread(s, x0) * noise, t, cond)
    weight, own = weight or model.pred, model.pred
    if own == "score" and weight != own:  # which divides by sigma
        output, own = spread(-s, output) * output, "eps"
    error = output - _target(own, x0, noise, a, s, model.sigma_data)
    wide_error = flat(error.to(torch.promote_types(error.dtype, torch.float32))).square().mean(1)  # (B,)
    if weight != own:
        wide_error = wide_error * _ratio(model, t, weight, own).to(wide_error)
    return wide_error.mean() if reduce else wide_error


def _ratio(model: Denoiser, t: Tensor, weight: str, pred: str) -> Tensor:
    """The weight over that of ``pred``; infinite where only the latter is 0."""
    theirs, power, signal = _weight(model.process, t, weight, model.sigma_data, MIN_SNR)
    own, own_power, own_signal = _weight(model.process, t, pred, model.sigma_data, MIN_SNR)
    a2 = model.process.alpha(t).square()
    if signal and not own_signal:
        theirs = _with_signal(theirs, a2)
    if own_signal and not signal:
        own = own * a2
    return _with_noise(theirs / own, model.process.sigma(t), power - own_power)


def _target(pred: str, x0: Tensor, noise: Tensor, a: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """What the output of a perfect net would be, if each x_t came from one x0 only."""
    if pred == "eps":
        return noise
    if pred == "x0":
        return x0
    if pred == "flow":
        return noise - x0
    if pred == "score":
        return -noise / spread(s, x0)
    of_data, of_noise = parts(pred, a, s, sigma_data)
    return spread(of_data, x0) * x0 + spread(of_noise, x0) * noise
