"""Samplers with Langevin steps: annealed over noise levels, and as the corrector of a predictor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from .._net import check_state, flat, refuse_running_statistics, setting_of, tensors_in, wide
from .._transforms import refuse_transforms
from ..denoiser import Denoiser
from ..grids import check_times
from ..noise import Generators, StepNoise
from ..process import Process, spread
from ..table import Table, table

PREDICTORS = ("euler_maruyama", "reverse_diffusion", "ancestral", "euler")


def annealed_langevin(
    process: Process, times: Tensor, *, inner: int = 5, step: float = 6.2e-6, denoise: bool = True
) -> Table:
    """Annealed Langevin dynamics: x += a score + sqrt(2 a) z with a = step (sigma / last sigma)^2 at each noise level.

    Args:
        process: a process with ``alpha`` = 1, such as :class:`VE`.
        times: (L,) float64, decreasing: the noise levels.
        inner: steps per level, at least 1.
        step: step size at the last level.
        denoise: whether to end with a step that adds sigma^2 score: the mean of the data given the last state.

    Returns:
        A :class:`Table` with L * ``inner`` steps, and one more with ``denoise``. All steps of a level have one time.

    Raises:
        TypeError, ValueError: ``times`` do not decrease, a step setting is out of range, or ``alpha`` is not 1.

    Reference:
        Song and Ermon, Improved Techniques for Training Score-Based Generative Models, NeurIPS 2020.

    Example:
        >>> from probkernels.diffusion import VE, annealed_langevin, grid
        >>> len(annealed_langevin(VE(), grid(VE(), 9), inner=3).t)
        31
    """
    check_times("annealed_langevin", process, times)
    checks.positive("annealed_langevin", "step", step)
    checks.integer("annealed_langevin", "inner", inner)
    if bool((process.log_alpha(times) != 0).any()):
        hint = "divide the states by alpha, or use predictor_corrector"
        raise ValueError(message("annealed_langevin", "process", "one with alpha = 1", repr(process), hint))
    t = times.cpu().repeat_interleave(inner)
    sigma = process.sigma(t)
    length = step * (sigma / sigma[-1]).square()
    b, d = -length / sigma, (2 * length).sqrt()
    if denoise:
        t = torch.cat([t, t[-1:]])
        b, d = torch.cat([b, -sigma[-1:]]), torch.cat([d, torch.zeros_like(d[:1])])
    return Table(t, torch.ones_like(b), b[:, None], d, "eps", torch.cat([t, t[-1:]]))


def predictor_corrector(
    model: Denoiser,
    x_T: Tensor,
    times: Tensor,
    *,
    predictor: str = "reverse_diffusion",
    snr: float = 0.16,
    inner: int = 1,
    generator: Generators = None,
    **guide: Any,
) -> Tensor:
    """Predictor-corrector sampling: Langevin steps before every step of a predictor.

    The corrector's step size is 2 alpha (snr |z| / |score|)^2, where alpha is the share of variance that the process
    keeps in this step. The norms are averaged over the batch, so the rows of a batch depend on each other.

    Args:
        model: the denoiser.
        x_T: (B, *S) float; standard normal noise times ``model.process.prior_std``.
        times: (N+1,) float64, decreasing.
        predictor: "reverse_diffusion", "euler_maruyama", "ancestral" or "euler".
        snr: signal-to-noise ratio of the corrector, which sets its step size.
        inner: corrector steps before every predictor step.
        generator: draws the seed of the noise; or a list of B generators.
        guide: ``cond``, ``uncond`` and ``guidance``, see :meth:`Denoiser.forward`.

    Returns:
        (B, *S): the mean of the last predictor step. It has no gradient: step sizes depend on norms.

    Raises:
        TypeError, ValueError: as for :func:`sample`.
        NotImplementedError: x_T, times, process, condition or guidance requires a gradient.

    Reference:
        Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, grid, predictor_corrector
        >>> class Normal(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x * VP().sigma(t).to(x)[:, None]
        >>> denoiser = Denoiser(Normal(), VP())
        >>> predictor_corrector(denoiser, torch.randn(5, 2), grid(VP(), 10)).shape
        torch.Size([5, 2])
    """
    if not isinstance(model, Denoiser):
        raise TypeError(message("predictor_corrector", "model", "a Denoiser", checks.describe(model)))
    check_state("predictor_corrector", "x_T", x_T)
    checks.one_of("predictor_corrector", "predictor", predictor, PREDICTORS)
    checks.positive("predictor_corrector", "snr", snr)
    checks.integer("predictor_corrector", "inner", inner, 0)
    refuse_running_statistics("predictor_corrector", model)
    rows = table(model.process, times, predictor)
    given = tensors_in((x_T, rows.a, rows.b, guide))
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        expected = "a tensor that requires no gradient, nor such times, process, condition or guidance"
        raise NotImplementedError(message("predictor_corrector", "x_T", expected, "one that does", "use sample()"))
    refuse_transforms("predictor_corrector", None, model, (x_T, rows.a, rows.b, guide), differentiable=False)
    x = x_T.to(wide(x_T.dtype))
    source = StepNoise(x, generator)
    keeps = (model.process.alpha(rows.t) / model.process.alpha(rows.times[1:])).square()  # (N,)
    with torch.no_grad():
        predict = partial(model.predict, **guide, setting=setting_of(model, x_T))
        return _alternate(model, x, rows, keeps, source, snr, inner, predict).to(x_T.dtype)


def _alternate(
    model: Denoiser,
    x: Tensor,
    rows: Table,
    keeps: Tensor,
    source: StepNoise,
    snr: float,
    inner: int,
    predict: Callable[[str, Tensor, Tensor], Tensor],
) -> Tensor:
    for n, t in enumerate(rows.t):
        for i in range(inner):
            z = source(n * (inner + 1) + i)
            score = predict("eps", x, t) * float(-1 / model.process.sigma(t))
            size = 2 * float(keeps[n]) * (snr * _norm(z) / _norm(score)).square()  # on the device: no wait
            x = x + spread(size, x) * score + spread((2 * size).sqrt(), x) * z
        x = float(rows.a[n]) * x + float(rows.b[n, 0]) * predict(rows.kind, x, t)
        if n + 1 < len(rows.t) and float(rows.d[n]):
            x = x + float(rows.d[n]) * source(n * (inner + 1) + inner)
    return x


def _norm(x: Tensor) -> Tensor:
    return flat(x).norm(dim=1).mean()
