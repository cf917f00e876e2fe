"""Anomaly maps: where data differ from what a diffusion model of healthy data makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..diffusion import Change, Denoiser, Guided, decode, encode, grid, sample
from ._tasks import check_input, noised, repeated, same_rows, time_of

METHODS = ("denoise", "inversion", "counterfactual", "likelihood")
LEVELS = (0.3, 0.5, 1.0)


def anomaly_map(
    model: Denoiser,
    x: Tensor,
    method: str = "denoise",
    *,
    level: float = 0.5,
    n: int = 8,
    steps: int = 20,
    levels: Sequence[float] = LEVELS,
    reference: Tensor | None = None,
    changes: Sequence[Change] = (),
    cond: Any = None,
    uncond: Any = None,
    guidance: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How far each entry of x is from what a model of healthy data makes of it. All noises run as one batch.

    | method | the map | needs |
    |---|---|---|
    | ``denoise`` | mean over ``n`` noises of the absolute x - x', x' denoised from ``level`` (AnoDDPM) | |
    | ``inversion`` | the same of one x': encoded to ``level``, decoded with ``changes`` (Wolleb) | ``changes`` |
    | ``counterfactual`` | as before, decoded with classifier-free guidance | ``cond``, ``uncond``, ``guidance`` |
    | ``likelihood`` | mean over ``levels`` of the squared x - D(x_t), over ``n`` noises, as z-scores | ``reference`` |

    Args:
        model: a denoiser of healthy data.
        x: (B, *S) float.
        method: see above.
        level: noise-to-signal ratio of the time t* from which x is made anew. Small ones keep what is usual.
        n: noises, for "denoise" and "likelihood".
        steps: steps between t* and the data.
        levels: noise-to-signal ratios for "likelihood".
        reference: (N, *S), N >= 2, healthy data: mean and spread of each entry's error, for "likelihood".
        changes: what leads to healthy data, such as :class:`~probkernels.diffusion.ClassifierGuidance`.
        cond: the condition; for "counterfactual" that of healthy data, while encoding uses ``uncond``.
        uncond: the null condition.
        guidance: weight of classifier-free guidance.
        generator: draws the noises.

    Returns:
        (B, *S).

    Raises:
        TypeError, ValueError: x is not a finite float tensor, the process does not reach a level, the method is
            unknown, or what it needs is missing.

    Reference:
        Wyatt et al., AnoDDPM, CVPR workshops 2022; Wolleb et al., MICCAI 2022; Sanchez et al., What is Healthy?, 2022;
        Graham et al., Denoising Diffusion Models for Out-of-Distribution Detection, CVPR workshops 2023.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import anomaly_map
        >>> class Zero(torch.nn.Module):  # all healthy data are 0
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> model = Denoiser(Zero(), VP(t_min=1e-5), pred="x0")
        >>> anomaly_map(model, torch.tensor([[0.0, 3.0]]), steps=5).round()
        tensor([[0., 3.]])
    """
    check_input("anomaly_map", model, "x", x)
    checks.one_of("anomaly_map", "method", method, METHODS)
    checks.integer("anomaly_map", "n", n)
    _check_needs(method, reference, changes, cond, uncond, guidance)
    guide = {} if guidance is None else {"uncond": uncond, "guidance": guidance}
    with torch.no_grad():
        if method == "likelihood":
            assert reference is not None
            check_input("anomaly_map", model, "reference", reference)
            if len(reference) < 2:
                raise ValueError(message("anomaly_map", "reference", "two rows or more", f"{len(reference)}"))
            same_rows("anomaly_map", "reference", reference, x, "x")
            return _z_scores(model, x, reference, levels, n, cond, generator)
        t = time_of("anomaly_map", model, "level", level)
        times = grid(model.process, steps, t_max=t)
        if method == "denoise":
            many = repeated(x, n, len(x))
            state = noised(model, many, t, generator)
            how = {name: repeated(value, n, len(x)) for name, value in {"cond": cond, **guide}.items()}
            again = sample(model, state, solver="ddim", times=times, **how)
            return (many - again).abs().unflatten(0, (n, len(x))).mean(0)
        if method == "inversion":
            latent = encode(model, x, times=_inside(model, times), cond=cond)
            again = decode(Guided(model, *changes), latent, times=times, cond=cond)
        else:
            latent = encode(model, x, times=_inside(model, times), cond=uncond)
            again = decode(model, latent, times=times, cond=cond, **guide)
        return (x - again).abs()


def _check_needs(method: str, reference: Any, changes: Any, cond: Any, uncond: Any, guidance: Any) -> None:
    needs = {
        "inversion": {"changes": changes or None},
        "counterfactual": {"cond": cond, "uncond": uncond, "guidance": guidance},
        "likelihood": {"reference": reference},
    }
    for name, value in needs.get(method, {}).items():
        if value is None:
            hint = "without it, decoding would only undo the encoding" if method != "likelihood" else "healthy data"
            raise ValueError(message("anomaly_map", name, f"a value, as method is '{method}'", "none", hint))
    for name, value, of in (("reference", reference, "likelihood"), ("changes", changes or None, "inversion")):
        if value is not None and method != of:
            raise ValueError(message("anomaly_map", name, f"none, as method is '{method}'", checks.describe(value)))


def _inside(model: Denoiser, times: Tensor) -> Tensor:
    """Times that end where some noise is left: the ODE starts there."""
    if float(model.process.sigma(times[-1])) > 0:
        return times
    return torch.cat([times[:-1], 1e-3 * times[-2:-1]])


def _errors(
    model: Denoiser, x: Tensor, levels: Sequence[float], n: int, cond: Any, generator: torch.Generator | None
) -> Tensor:
    """(L, B, *S): squared errors of the predicted data at each level, means over n noises, in one call."""
    at = [time_of("anomaly_map", model, "levels", level) for level in levels]
    count = len(at) * n
    t = torch.tensor(at, dtype=torch.float64, device=x.device).repeat_interleave(n * len(x))
    many = repeated(x, count, len(x))
    data = model.x0(noised(model, many, t, generator), t, repeated(cond, count, len(x)))
    return (data - many).square().unflatten(0, (len(at), n, len(x))).mean(1)


def _z_scores(
    model: Denoiser,
    x: Tensor,
    reference: Tensor,
    levels: Sequence[float],
    n: int,
    cond: Any,
    generator: torch.Generator | None,
) -> Tensor:
    if not len(levels):
        raise ValueError(message("anomaly_map", "levels", "one level or more", "none"))
    usual = _errors(model, reference, levels, n, cond, generator)
    found = _errors(model, x, levels, n, cond, generator)
    spread = usual.std(1, keepdim=True).clamp_min(torch.finfo(x.dtype).eps)
    return ((found - usual.mean(1, keepdim=True)) / spread).mean(0)
