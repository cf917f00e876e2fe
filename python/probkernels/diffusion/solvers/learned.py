"""Ancestral sampling with the variances that a network has learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from .._callback import Callback, show
from .._net import check_state, outside_inference, refuse_running_statistics, replaced, setting_of, wide
from .._transforms import refuse_transforms
from ..denoiser import Denoiser
from ..grids import check_times
from ..noise import Generators, StepNoise
from ..process import spread
from ..table import ends, step_variance, table


def learned_ancestral(
    model: Denoiser,
    x_T: Tensor,
    times: Tensor,
    *,
    generator: Generators = None,
    seeds: int | Tensor | None = None,
    noise: Tensor | None = None,
    grad: str | None = None,
    callback: Callback | None = None,
    **guide: Any,
) -> Tensor:
    """Ancestral sampling with learned variances, between the posterior's and the forward step's variance.

    A step from t to s has the mean of q(x_s | x_t, x_0) at the predicted data. Its log variance is (1 - v) / 2 times
    the posterior's plus (1 + v) / 2 times the forward step's, where v is the second half of the network's output.
    :func:`hybrid_loss` trains this half. Any decreasing times work.

    Args:
        model: a denoiser with ``variance=True``.
        x_T: (B, *S) float; standard normal noise times ``model.process.prior_std``.
        times: (N+1,) float64, decreasing.
        generator: draws the seed of the noise; or a list of B generators. See :func:`sample`.
        seeds: the seeds themselves, an int or (B,) int64.
        noise: (N, B, *S), noise to use in place of draws.
        grad: None: no gradient. "autograd": through mean and variance of every step; torch keeps all graphs.
        callback: called as ``callback(n, x)`` after step n; x is a copy. Writing to x raises.
        guide: ``cond``, ``uncond`` and ``guidance``, see :meth:`Denoiser.forward`. The variance is that of ``cond``.

    Returns:
        (B, *S). A step to t = 0 returns its mean.

    Raises:
        TypeError, ValueError: as for :func:`sample`; also if the denoiser has no variances.

    Reference:
        Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, ICML 2021.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import Denoiser, VPDiscrete, grid, learned_ancestral
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(torch.cat([x, x], 1))
        >>> chain = VPDiscrete.cosine()
        >>> model = Denoiser(Net(), chain, pred="v", variance=True)
        >>> learned_ancestral(model, torch.randn(5, 2), grid(chain, 10, "trailing")).shape
        torch.Size([5, 2])
    """
    if not isinstance(model, Denoiser):
        raise TypeError(message("learned_ancestral", "model", "a Denoiser", checks.describe(model)))
    if not model.variance:
        hint = "sample(..., solver='ancestral') has the posterior's variance, 'ancestral_beta' the forward step's"
        raise ValueError(message("learned_ancestral", "model", "a denoiser with variance=True", "one without", hint))
    check_state("learned_ancestral", "x_T", x_T)
    checks.one_of("learned_ancestral", "grad", grad, (None, "autograd"))
    check_times("learned_ancestral", model.process, times)
    if noise is not None and len(noise) != len(times) - 1:
        expected = f"{len(times) - 1} rows, one a step"
        raise ValueError(message("learned_ancestral", "noise", expected, f"shape {tuple(noise.shape)}"))
    refuse_running_statistics("learned_ancestral", model)
    x = outside_inference(x_T).to(wide(x_T.dtype))
    source = StepNoise(x, generator, noise, seeds=seeds)
    guide = {**replaced(guide, outside_inference), "setting": setting_of(model, x_T)}
    refuse_transforms("learned_ancestral", grad, model, (x, noise, guide))
    with torch.set_grad_enabled(grad is not None and torch.is_grad_enabled()):
        return _run(model, x, times.cpu(), source, callback, guide).to(x_T.dtype)


def _run(
    model: Denoiser, x: Tensor, times: Tensor, source: StepNoise, callback: Callback | None, guide: dict[str, Any]
) -> Tensor:
    mean = table(model.process, times, "ancestral")
    ends_without = mean.d == 0  # no noise is drawn there; the slope of its logarithm would be infinite
    narrow = torch.where(ends_without, 1.0, mean.d).log()  # (N,): logs of deviations, as the next
    wide = step_variance(ends(model.process, times)).log() / 2
    for n, point in enumerate(model.points("x0", times[:-1])):
        output, share = model.both_at(point, x, **guide)
        data = model.convert(point, "x0", output, x)
        x = spread(mean.a[n], x) * x + spread(mean.b[n, 0], x) * data
        if not ends_without[n]:
            log_std = spread(narrow[n], x) + (share + 1) * spread((wide[n] - narrow[n]) / 2, x)
            x = x + log_std.exp() * source(n)
        if callback is not None:
            changed = show("learned_ancestral", callback, n, x)
            x = x if changed is None else changed
    return x
