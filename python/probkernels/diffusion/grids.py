"""Grids: the times that a sampler visits."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._device import on_cpu
from .chain import VPDiscrete
from .process import Process

SPACED = ("t", "quadratic", "lambda", "rho", "edm")
INDEXED = ("leading", "trailing", "linspace")
EXPONENT = 7.0  # of EDM's grid


def check_times(op: str, process: Process, times: Tensor) -> None:
    """``times`` (N+1,) fall strictly, and lie where the process is defined."""
    if not isinstance(times, Tensor) or times.dtype is not torch.float64:
        raise TypeError(message(op, "times", "a float64 tensor", checks.describe(times), "see grid()"))
    if times.ndim != 1 or len(times) < 2:
        hint = "one grid serves the whole batch; call once for the rows of each grid" if times.ndim == 2 else ""
        raise ValueError(message(op, "times", "shape (N + 1,), N >= 1", f"shape {tuple(times.shape)}", hint))
    t = times.detach()
    if not bool((t[1:] < t[:-1]).all()):
        got = "times that do not, or NaN"
        raise ValueError(message(op, "times", "times that fall strictly, from noise to data", got))
    if not (float(t[-1]) >= 0 and float(t[0]) <= process.t_max):
        got = f"{float(t[0])} .. {float(t[-1])}"
        raise ValueError(message(op, "times", f"times within 0 .. {process.t_max}", got))


@on_cpu
def grid(
    process: Process, steps: int, kind: str = "t", *, t_min: float | None = None, t_max: float | None = None
) -> Tensor:
    """Times for ``steps`` steps from noise to data.

    Args:
        process: the process that is sampled.
        steps: number of steps N >= 1.
        kind: the quantity that is spaced evenly: time ("t"), its square root ("quadratic"), the log signal-to-noise
            ratio ("lambda"), the noise-to-signal ratio ("rho") or its 7th root ("edm"). "leading", "trailing" and
            "linspace" need a :class:`VPDiscrete` process: they visit whole steps of the chain as in diffusers and end
            at ``process.t_min``.
        t_min: the last time; ``process.t_min`` by default. Not for kinds that visit whole steps.
        t_max: the first time; ``process.t_max`` by default. Not for kinds that visit whole steps.

    Returns:
        (N+1,) float64, decreasing; both ends are exact.

    Raises:
        TypeError: ``steps`` is not an integer.
        ValueError: the kind is unknown, ``steps`` is below 1, an end requires a gradient, or the spaced quantity is
            infinite at an end.

    Example:
        >>> from probkernels.diffusion import VP, grid
        >>> grid(VP(t_min=0.5), 2)
        tensor([1.0000, 0.7500, 0.5000], dtype=torch.float64)
    """
    checks.integer("grid", "steps", steps)
    checks.one_of("grid", "kind", kind, SPACED + INDEXED)
    if kind in INDEXED:
        if t_min is not None or t_max is not None:
            name, value = ("t_min", t_min) if t_max is None else ("t_max", t_max)
            hint = "cut the times yourself, or space evenly in t"
            raise ValueError(message("grid", name, f"none: {kind!r} visits the whole chain", repr(value), hint))
        return _visits(process, steps, kind)
    for name, value in (("t_min", t_min), ("t_max", t_max)):
        if isinstance(value, Tensor) and value.requires_grad:
            hint = "make such times yourself, for instance t_max * grid(...)"
            raise ValueError(message("grid", name, "a number without a gradient", "one that requires it", hint))
    start, end = process.t_max if t_max is None else t_max, process.t_min if t_min is None else t_min
    ends = torch.tensor([start, end], dtype=torch.float64)
    check_times("grid", process, ends)
    times = _spaced(process, ends, steps, kind)
    times[0], times[-1] = ends
    check_times("grid", process, times)
    return times


def one_of_both(
    op: str, process: Process, steps: int | None, times: Tensor | None, kind: str | None, default: str
) -> Tensor:
    """The times: those given, or ``steps`` of them spaced by ``kind``, or else by ``default``."""
    if (steps is None) == (times is None):
        raise ValueError(message(op, "steps", "one of 'steps' and 'times'", "neither" if steps is None else "both"))
    if times is None:
        assert steps is not None
        return grid(process, steps, default if kind is None else kind)
    if kind is not None:
        raise ValueError(message(op, "grid", "none, as 'times' are given", repr(kind), "give 'steps' with 'grid'"))
    return times


def _spaced(process: Process, ends: Tensor, steps: int, kind: str) -> Tensor:
    part = torch.linspace(0, 1, steps + 1, dtype=torch.float64)

    def between(values: Tensor) -> Tensor:
        if not bool(values.isfinite().all()):
            hint = "move t_min or t_max a little inwards, or space evenly in t"
            raise ValueError(message("grid", "kind", "a scale that is finite at both ends", repr(kind), hint))
        return values[0] + part * (values[1] - values[0])

    if kind == "t":
        return torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64)
    if kind == "quadratic":
        return between(ends.sqrt()).square()
    if kind == "lambda":
        return process.t_of_lam(between(process.lam(ends)))
    root = EXPONENT if kind == "edm" else 1.0
    return process.t_of_rho(between(process.rho(ends).pow(1 / root)).pow(root))


def _visits(process: Process, steps: int, kind: str) -> Tensor:
    """Whole steps of a chain; an index i is the time (i + 1) / n."""
    if not isinstance(process, VPDiscrete):
        raise ValueError(message("grid", "kind", f"one of {SPACED} for this process", repr(kind)))
    n = len(process)
    if steps > n:
        raise ValueError(message("grid", "steps", f"at most the chain's {n} steps", repr(steps)))
    count = torch.arange(steps, dtype=torch.float64)
    if kind == "leading":
        index = (count * (n // steps)).flip(0)
    elif kind == "trailing":
        index = (n - count * n / steps).round() - 1
    else:
        index = (torch.arange(steps + 1, dtype=torch.float64) * ((n - 1) / steps)).round().flip(0)[:-1]  # as numpy's
    times = torch.cat([(index + 1) / n, torch.tensor([process.t_min], dtype=torch.float64)])
    check_times("grid", process, times)
    return times
