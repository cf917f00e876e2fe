"""Single-step methods: Runge-Kutta in rho, EDM's stochastic Heun, DPM-Solver and DPM-Solver++ single-step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from .._device import on_cpu
from ..process import Process, root
from ..table import ends
from .scheme import Scheme, zeros

Tableau = tuple[list[float], list[list[float]], list[float]]  # c, A, b
HEUN: Tableau = ([0, 1], [[], [1]], [0.5, 0.5])
MIDPOINT: Tableau = ([0, 0.5], [[], [0.5]], [0, 1])
RK4: Tableau = ([0, 0.5, 0.5, 1], [[], [0.5], [0, 0.5], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6])


def explicit(tableau: Tableau) -> Callable[[Process, Tensor], Scheme]:
    """Solves dy / drho = eps, y = x / alpha, by an explicit method. A step to rho = 0 is Euler's: no call there."""

    @on_cpu
    def build(process: Process, times: Tensor) -> Scheme:
        return _heights(process, times, tableau, process.rho(times)[:-1], torch.zeros(len(times) - 1))

    return build


def _heights(process: Process, times: Tensor, tableau: Tableau, start: Tensor, churn: Tensor) -> Scheme:
    """Steps from ``start`` (N,), rho after noise of scale ``churn`` (N,) was added to x."""
    c, rows, b = tableau
    e = ends(process, times)
    n, stages = len(e.t), len(c)
    h = e.r1 - start  # (N,)
    at = start[:, None] + h[:, None] * torch.tensor(c, dtype=torch.float64)  # (N, S), rho
    t = process.t_of_rho(at)
    plain = (churn == 0).to(t.device)
    t[:, 0] = torch.where(plain, e.t, t[:, 0])  # exact, not by way of rho
    if c[-1] == 1:
        t[:, -1] = e.t1
    scale = process.alpha(t) / e.a[:, None]
    after = e.a1 / e.a
    ended = e.r1 == 0
    p = zeros(n, stages, 1)
    p["inputs"][:, :, 0] = scale
    p["carry"][:, 0, 0] = after
    p["input_noise"][:] = scale * churn[:, None]
    p["noise"][:, 0] = after * churn
    for s, row in enumerate(rows):
        for q, weight in enumerate(row):
            p["stages"][:, s, q] = torch.where(ended, 0.0, process.alpha(t[:, s]) * h * weight)
    for s, weight in enumerate(b):
        p["gather"][:, 0, s] = torch.where(ended, e.a1 * h * float(s == 0), e.a1 * h * weight)
    return Scheme(t, **p, kind="eps", times=times)


def edm_stochastic(
    process: Process,
    times: Tensor,
    *,
    churn: float = 40.0,
    s_min: float = 0.05,
    s_max: float = 50.0,
    s_noise: float = 1.003,
) -> Scheme:
    """EDM's stochastic sampler (Algorithm 2): adds a little noise, then takes a Heun step. rho is the paper's sigma."""
    for name, value in (("churn", churn), ("s_min", s_min), ("s_max", s_max), ("s_noise", s_noise)):
        checks.non_negative("edm_stochastic", name, value)
    if s_min > s_max:
        raise ValueError(message("edm_stochastic", "s_min", f"at most s_max ({s_max})", repr(s_min)))
    rho = process.rho(times)[:-1]
    gamma = min(churn / len(rho), math.sqrt(2) - 1)
    raised = rho * torch.where((rho >= s_min) & (rho <= s_max), 1 + gamma, 1.0)
    raised = torch.minimum(raised, process.rho(process.t_max))
    added = process.alpha(times[:-1]) * s_noise * root((raised.square() - rho.square()).clamp_min(0))
    return _heights(process, times, HEUN, raised, added)


def exponential(order: int) -> Callable[[Process, Tensor], Scheme]:
    """DPM-Solver in the noise, single-step: one or two stages between the ends in lambda."""

    def build(process: Process, times: Tensor) -> Scheme:
        e = ends(process, times)
        h = e.r.log() - e.r1.log()
        shares = [0.5] if order == 2 else [1 / 3, 2 / 3]
        lam = -e.r.log()
        t = torch.stack([e.t, *(process.t_of_lam(lam + share * h) for share in shares)], 1)  # (N, S)
        a, s = process.alpha(t), process.sigma(t)
        p = zeros(len(h), order, 1)
        p["inputs"][:, :, 0] = a / e.a[:, None]
        p["carry"][:, 0, 0] = e.a1 / e.a
        phi = torch.expm1(h)
        p["stages"][:, 1, 0] = -s[:, 1] * torch.expm1(shares[0] * h)
        if order == 2:
            p["gather"][:, 0, 1] = -e.s1 * phi
            return Scheme(t, **p, kind="eps", times=times)
        inner = torch.expm1(shares[1] * h) / (shares[1] * h) - 1
        slope = s[:, 2] * (shares[1] / shares[0]) * inner
        p["stages"][:, 2, 0] = -s[:, 2] * torch.expm1(shares[1] * h) + slope
        p["stages"][:, 2, 1] = -slope
        curve = e.s1 * (phi / h - 1) / shares[1]
        p["gather"][:, 0, 0] = -e.s1 * phi + curve
        p["gather"][:, 0, 2] = -curve
        return Scheme(t, **p, kind="eps", times=times)

    return build


def exponential_data(process: Process, times: Tensor) -> Scheme:
    """DPM-Solver++ 2S: the data at the middle in lambda."""
    e = ends(process, times)
    h = e.r.log() - e.r1.log()
    t = torch.stack([e.t, process.t_of_lam(-e.r.log() + h / 2)], 1)
    a, s = process.alpha(t), process.sigma(t)
    p = zeros(len(h), 2, 1)
    p["inputs"][:, :, 0] = s / e.s[:, None]
    p["stages"][:, 1, 0] = -a[:, 1] * torch.expm1(-h / 2)
    p["carry"][:, 0, 0] = e.s1 / e.s
    p["gather"][:, 0, 1] = -e.a1 * torch.expm1(-h)
    return Scheme(t, **p, kind="x0", times=times)


RUNGE_KUTTA = {
    "heun": explicit(HEUN),
    "midpoint": explicit(MIDPOINT),
    "rk4": explicit(RK4),
    "dpm2s": exponential(2),
    "dpm3s": exponential(3),
    "dpmpp_2s": exponential_data,
}
