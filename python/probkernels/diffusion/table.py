"""Samplers as coefficients: x_{n+1} = a_n x_n + sum_j b_{n,j} m_{n-j} + d_n z_n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._device import on_cpu
from .grids import check_times
from .process import Process, root


@dataclass(frozen=True, eq=False)
class Table:
    """Coefficients of a sampler that calls its model once a step: x_{n+1} = a_n x_n + sum_j b_{n,j} m_{n-j} + d_n z_n.

    m_n is the model's prediction of ``kind`` at (x_n, t_n); z_n is standard normal noise. All tensors are float64 on
    the CPU and may carry gradients to the times.

    Args:
        t: (N,) times at which the model is called.
        a: (N,) factors of the state.
        b: (N, K) factors of the current and earlier predictions; 0 where there is no history yet.
        d: (N,) scales of the noise.
        kind: what the model predicts, "eps" or "x0".
        times: (N+1,) times of the states x_0 .. x_N.

    Example:
        >>> from probkernels.diffusion import VP, grid, table
        >>> ddim = table(VP(), grid(VP(), 10), "ddim")
        >>> ddim.b.shape, ddim.kind
        (torch.Size([10, 1]), 'eps')
    """

    t: Tensor
    a: Tensor
    b: Tensor
    d: Tensor
    kind: str
    times: Tensor


class Ends(NamedTuple):
    """alpha, sigma, rho and t before (a, s, r, t) and after (a1, s1, r1, t1) every step; (N,) float64 each."""

    process: Process
    times: Tensor  # (N + 1,)
    a: Tensor
    s: Tensor
    r: Tensor
    t: Tensor
    a1: Tensor
    s1: Tensor
    r1: Tensor
    t1: Tensor


def ends(process: Process, times: Tensor) -> Ends:
    """alpha, sigma, rho and t before and after every step."""
    a, s, r = process.alpha(times), process.sigma(times), process.rho(times)
    return Ends(process, times, a[:-1], s[:-1], r[:-1], times[:-1], a[1:], s[1:], r[1:], times[1:])


Coefficients = tuple[Tensor, Tensor, Tensor]  # a (N,), b (N, K), d (N,)


def column(*columns: Tensor) -> Tensor:
    """K tensors (N,) -> (N, K)."""
    return torch.stack(columns, 1)


def before(x: Tensor, steps: int) -> Tensor:
    """x (N,) shifted back by ``steps`` steps. Early steps repeat the first entry; masks leave them out."""
    return torch.cat([x[:1].expand(min(steps, len(x))), x[: max(len(x) - steps, 0)]])


def warm(e: Ends, order: int) -> Tensor:
    """(N,) bool: steps that have ``order`` evaluations and end with noise left. Without noise order 1 is exact."""
    return (torch.arange(len(e.t)) >= order - 1) & (e.s1 > 0)


# --- exponential integrators in rho: dy / drho = eps, y = x / alpha ---


def lagrange(nodes: Tensor, moments: Tensor) -> Tensor:
    """Weights (N, k) at ``nodes`` (N, k) that integrate 1, v, .. v^{k-1} to ``moments`` (N, k)."""
    powers = nodes[:, None, :] ** torch.arange(nodes.shape[1], dtype=nodes.dtype)[None, :, None]  # (N, power, node)
    return torch.linalg.solve(powers, moments.unsqueeze(-1)).squeeze(-1)


def orders(e: Ends, order: int, weights: Callable[[int], Tensor]) -> Tensor:
    """(N, order): ``weights(k)``, (N - k + 1, k) from step k - 1 on, with k as large as the history allows."""
    n = len(e.t)
    rows = []
    for k in range(1, min(order, n) + 1):
        last = n if k == min(order, n) else k
        rows.append(torch.nn.functional.pad(weights(k)[: last - k + 1], (0, order - k)))
    return torch.cat(rows)


def adams_bashforth(order: int) -> Callable[[Ends, float], Coefficients]:
    """Extrapolates eps by a polynomial in rho through the last ``order`` evaluations."""

    def build(e: Ends, eta: float) -> Coefficients:
        h = e.r1 - e.r

        def weights(k: int) -> Tensor:
            n = torch.arange(k - 1, len(h))
            past = column(*(e.r[n - j] for j in range(k)))
            moments = (1 / torch.arange(1.0, k + 1, dtype=torch.float64)).expand(len(n), k)
            return h[n, None] * lagrange((past - e.r[n, None]) / h[n, None], moments)

        return e.a1 / e.a, e.a1[:, None] * orders(e, order, weights), torch.zeros_like(h)

    return build


POINTS = 32  # of a Gauss-Legendre rule: exact for polynomials of degree 63


def gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights (POINTS,) on [0, 1], by Golub and Welsch."""
    i = torch.arange(1, POINTS, dtype=torch.float64)
    off = i / (4 * i * i - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0].square()


def tab_deis(order: int) -> Callable[[Ends, float], Coefficients]:
    """Extrapolates eps by a polynomial in t and integrates it over rho by quadrature."""

    def build(e: Ends, eta: float) -> Coefficients:
        h = e.r1 - e.r
        at, share = gauss_legendre()
        t = e.process.t_of_rho(e.r[:, None] + h[:, None] * at)  # (N, POINTS)
        scale = (e.t1 - e.t)[:, None]
        v = (t - e.t[:, None]) / scale

        def weights(k: int) -> Tensor:
            n = torch.arange(k - 1, len(h))
            past = column(*(e.t[n - j] for j in range(k)))
            powers = v[n, None, :] ** torch.arange(k, dtype=v.dtype)[None, :, None]  # (N, k, POINTS)
            return h[n, None] * lagrange((past - e.t[n, None]) / scale[n], powers @ share)

        return e.a1 / e.a, e.a1[:, None] * orders(e, order, weights), torch.zeros_like(h)

    return build


# --- DPM-Solver: multistep in lambda ---


class Spans(NamedTuple):
    """Steps in lambda, (N,) each: h, and the ratios of the two previous steps to h."""

    h: Tensor
    r0: Tensor
    r1: Tensor


def spans(e: Ends) -> Spans:
    """Differences of log(alpha / sigma) = -log rho. An infinite last step becomes 1: it has order 1 anyway."""
    h = torch.where(e.s1 > 0, e.r.log() - torch.where(e.s1 > 0, e.r1, 1.0).log(), 1.0)
    return Spans(h, *(_over(before(h, steps), h) for steps in (1, 2)))


def _over(earlier: Tensor, h: Tensor) -> Tensor:
    """Step ratios, where an infinite first step (from pure noise) drops out of differences and derivatives."""
    finite = earlier.isfinite()
    return torch.where(finite, torch.where(finite, earlier, 1.0) / h, torch.inf)


Phi = tuple[Tensor, Tensor, Tensor, Tensor]  # (N,) each: of m, of D1 at order 2, of D1 at order 3, of D2


def differences(e: Ends, order: int, phi: Phi) -> Tensor:
    """(N, order): phi0 m_n + phi1 D1 (+ phi3 D2), written out over m_n, m_{n-1}, m_{n-2}; divided differences D."""
    _, r0, r1 = spans(e)
    zero = torch.zeros_like(r0)
    b = column(phi[0], *[zero] * (order - 1))
    if order == 1:
        return b
    second = column(1 / r0, -1 / r0, *[zero] * (order - 2))
    b = torch.where(warm(e, 2)[:, None], b + phi[1][:, None] * second, b)
    if order == 2:
        return b
    r0, r1 = (torch.where(warm(e, 3), r, 1.0) for r in (r0, r1))  # others are not used, and their ratios may be NaN
    second, older = column(1 / r0, -1 / r0, zero), column(zero, 1 / r1, -1 / r1)
    slope = second + (r0 / (r0 + r1))[:, None] * (second - older)
    curve = (second - older) / (r0 + r1)[:, None]
    third = column(phi[0], zero, zero) + phi[2][:, None] * slope + phi[3][:, None] * curve
    return torch.where(warm(e, 3)[:, None], third, b)


def dpm(order: int) -> Callable[[Ends, float], Coefficients]:
    """DPM-Solver in the noise: x' = (a'/a) x - s' (p1 eps + p2 D1 + p3 D2), p1 = e^h - 1."""

    def build(e: Ends, eta: float) -> Coefficients:
        h = spans(e).h
        p1 = torch.expm1(h)
        p2 = p1 / h - 1
        phi = (e.a1 * (e.r1 - e.r), -e.s1 * p1 / 2, -e.s1 * p2, -e.s1 * (p2 / h - 0.5))
        return e.a1 / e.a, differences(e, order, phi), torch.zeros_like(h)

    return build


def dpmpp(order: int, sde: bool = False) -> Callable[[Ends, float], Coefficients]:
    """DPM-Solver++ in the data; with noise of strength ``eta`` if ``sde``."""

    def build(e: Ends, eta: float) -> Coefficients:
        strength = eta if sde else 0.0
        h = spans(e).h * (1 + strength)
        ratio = e.r1 / e.r  # e^{-h} of the step alone; 0 from pure noise and to pure data
        q1 = 1 - ratio ** (1 + strength)
        q2 = 1 - q1 / h
        phi = (e.a1 * q1, e.a1 * q1 / 2, e.a1 * q2, -e.a1 * (q2 / h - 0.5))
        d = e.s1 * (1 - ratio ** (2 * strength)).sqrt() if strength else torch.zeros_like(h)
        kept = ratio**strength if strength else 1.0
        return e.s1 / e.s * kept, differences(e, order, phi), d

    return build


# --- one step at a time, with noise ---


def ddim(e: Ends, eta: float) -> Coefficients:
    """x' = a' D + sqrt(s'^2 - d^2) eps + d z, in the noise."""
    if not eta:
        return e.a1 / e.a, column(e.a1 * (e.r1 - e.r)), torch.zeros_like(e.a)
    d = posterior_std(e, eta)
    return e.a1 / e.a, column(root((e.s1.square() - d.square()).clamp_min(0)) - e.a1 * e.r), d


def ddim_data(e: Ends, eta: float) -> Coefficients:
    """DDIM in the data, which can start from pure noise."""
    d = posterior_std(e, eta) if eta else torch.zeros_like(e.a)
    kept = (root((e.s1.square() - d.square()).clamp_min(0)) if eta else e.s1) / e.s
    return kept, column(e.a1 - e.a * kept), d


def posterior_std(e: Ends, eta: float) -> Tensor:
    """``eta`` times the standard deviation of q(x' | x, x_0)."""
    return eta * e.s1 * (1 - (e.r1 / e.r).square()).sqrt()


def step_variance(e: Ends) -> Tensor:
    """G^2 of the forward step x = (a / a') x' + G z that this step reverses."""
    return e.s.square() - (e.a / e.a1).square() * e.s1.square()


def without_last(d: Tensor) -> Tensor:
    """Sets the last step's noise to 0, so that it returns its mean."""
    return torch.cat([d[:-1], torch.zeros_like(d[:1])])


def ancestral(e: Ends, eta: float) -> Coefficients:
    """The posterior of the step given the data: DDIM with eta 1."""
    return ddim_data(e, eta)


def ancestral_beta(e: Ends, eta: float) -> Coefficients:
    """DDPM with the posterior's mean and the forward step's variance; the last step adds no noise."""
    a, b, _ = ddim_data(e, 1.0)
    return a, b, without_last(step_variance(e).sqrt())


def reverse_diffusion(e: Ends, eta: float) -> Coefficients:
    """x' = x - (f - G^2 score) + G z with the forward step's f and G."""
    variance = step_variance(e)
    return 2 - e.a / e.a1, column(-variance / e.s), without_last(variance.sqrt())


def euler_maruyama(e: Ends, eta: float) -> Coefficients:
    """x' = x - (f x - g^2 score) dt + g sqrt(dt) z."""
    dt, g2 = e.t - e.t1, e.process.diffusion2(e.t)
    return 1 - e.process.drift(e.t) * dt, column(-g2 * dt / e.s), without_last((g2 * dt).sqrt())


def euler(e: Ends, eta: float) -> Coefficients:
    """Euler's method for the probability-flow ODE in t."""
    dt, g2 = e.t - e.t1, e.process.diffusion2(e.t)
    return 1 - e.process.drift(e.t) * dt, column(-g2 * dt / (2 * e.s)), torch.zeros_like(dt)


class Method(NamedTuple):
    """A solver: its formula, what its model predicts, and the default eta (None: the solver has no eta)."""

    build: Callable[[Ends, float], Coefficients]
    kind: str
    eta: float | None = None


METHODS = {
    "ddim": Method(ddim, "eps", 0.0),
    "ddim_x0": Method(ddim_data, "x0", 0.0),
    "ab1": Method(adams_bashforth(1), "eps"),
    "ab2": Method(adams_bashforth(2), "eps"),
    "ab3": Method(adams_bashforth(3), "eps"),
    "ab4": Method(adams_bashforth(4), "eps"),
    "deis2": Method(tab_deis(2), "eps"),
    "deis": Method(tab_deis(3), "eps"),
    "deis4": Method(tab_deis(4), "eps"),
    "dpm1": Method(dpm(1), "eps"),
    "dpm2m": Method(dpm(2), "eps"),
    "dpm3m": Method(dpm(3), "eps"),
    "dpmpp_1": Method(dpmpp(1), "x0"),
    "dpmpp_2m": Method(dpmpp(2), "x0"),
    "dpmpp_3m": Method(dpmpp(3), "x0"),
    "dpmpp_1_sde": Method(dpmpp(1, sde=True), "x0", 1.0),
    "dpmpp_2m_sde": Method(dpmpp(2, sde=True), "x0", 1.0),
    "dpmpp_3m_sde": Method(dpmpp(3, sde=True), "x0", 1.0),
    "ancestral": Method(ancestral, "x0", 1.0),
    "ancestral_beta": Method(ancestral_beta, "x0"),
    "reverse_diffusion": Method(reverse_diffusion, "eps"),
    "euler_maruyama": Method(euler_maruyama, "eps"),
    "euler": Method(euler, "eps"),
}


@on_cpu
def table(process: Process, times: Tensor, solver: str = "ddim", *, eta: float | None = None) -> Table:
    """The coefficients of a sampler that calls the model once per step.

    | solver | |
    |---|---|
    | ``ddim``, ``ddim_x0`` | DDIM in the noise or in the data; ``eta`` (0 .. 1, default 0) adds noise |
    | ``ab1`` .. ``ab4`` | polynomials in rho through the last evaluations; ``ab1`` is DDIM |
    | ``deis2``, ``deis``, ``deis4`` | tAB-DEIS: polynomials in t through the last 2, 3, 4 evaluations |
    | ``dpm1``, ``dpm2m``, ``dpm3m`` | DPM-Solver, multistep |
    | ``dpmpp_1``, ``dpmpp_2m``, ``dpmpp_3m`` | DPM-Solver++, multistep; ``_sde`` appended: with noise, ``eta`` 1 |
    | ``ancestral``, ``ancestral_beta`` | DDPM, with the posterior's or the forward step's variance |
    | ``euler_maruyama``, ``reverse_diffusion`` | solvers of the reverse SDE; the last step adds no noise |
    | ``euler`` | Euler's method for the probability-flow ODE in t |

    Multistep solvers use the history that exists, so their first step has order 1; so has a step to sigma = 0.
    ``dpm3m`` and ``dpmpp_3m`` follow their papers, where half the second derivative enters: they converge at order 2.

    Args:
        process: the process that adds noise to the data.
        times: (N+1,) float64, strictly decreasing; may require a gradient.
        solver: name of a solver in the table above.
        eta: strength of the noise, >= 0, for solvers that take it.

    Raises:
        TypeError: ``times`` are not float64.
        ValueError: ``times`` do not decrease, the solver is unknown or takes no eta, or the first time has no signal
            and the solver predicts noise.

    Reference:
        Ho et al., NeurIPS 2020; Song et al., DDIM, ICLR 2021; Song et al., Score-based SDEs, ICLR 2021; Zhang and Chen,
        DEIS, ICLR 2023; Lu et al., DPM-Solver, NeurIPS 2022, and DPM-Solver++, 2022.

    Example:
        >>> from probkernels.diffusion import VP, grid, table
        >>> round(float(table(VP(), grid(VP(), 2), "dpmpp_2m").b[1, 1]), 6)
        -0.760269
    """
    check_times("table", process, times)
    checks.one_of("table", "solver", solver, list(METHODS))
    method = METHODS[solver]
    if eta is not None:
        if method.eta is None:
            raise ValueError(message("table", "eta", f"None for '{solver}'", repr(eta)))
        checks.non_negative("table", "eta", eta)
    strength = method.eta if eta is None else eta
    times = times.cpu()
    a, b, d = method.build(ends(process, times), strength or 0.0)
    bad = ~(a.isfinite() & b.isfinite().all(1) & d.isfinite()).detach()
    if bad.any():
        n = int(bad.nonzero()[0])
        hint = "without any signal only solvers of kind 'x0' can start; else begin at a smaller time, or take eta <= 1"
        got = f"none in step {n}, from t = {float(times[n]):g} to {float(times[n + 1]):g}"
        raise ValueError(message("table", "times", f"times at which '{solver}' has finite coefficients", got, hint))
    return Table(times[:-1], a, b, d, method.kind, times)
