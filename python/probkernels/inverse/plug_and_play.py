"""Plug-and-play reconstruction with a proximal operator as the prior: ADMM and proximal gradient descent."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._convex import dot
from .icnn import ConvexPotential

Map = Callable[[Tensor], Tensor]
POWER_STEPS = 50


class PnPCertificate(NamedTuple):
    """What is known about convergence. ``holds`` says whether the conditions of the theorem do."""

    lipschitz: float  # of the gradient of the data term: 2 scale ||A^T A||, by the power method
    parameter: float  # rho of ADMM, eta of gradient descent
    bound: float  # rho must be above it, eta below it
    strong_convexity: float | None  # mu of the denoiser; None if it does not tell
    holds: bool


class PnPResult(NamedTuple):
    """A reconstruction and how it converged."""

    x: Tensor  # the reconstruction, of the shape of A^T y: the denoiser's output
    data_x: Tensor  # the block that fits the data (ADMM), or the point that was denoised (gradient descent)
    dual: Tensor  # u of ADMM, scaled: at a solution rho u = -grad h(x); zeros for gradient descent
    primal_residual: Tensor  # (steps,) the largest relative ||x - z|| of a row
    dual_residual: Tensor  # (steps,) the largest relative change of z
    converged: bool
    certificate: PnPCertificate


def _maps(op: str, operator: Any) -> tuple[Map, Map]:
    """A and A^T of an operator of this library, a physics of deepinv, or another object with such methods."""
    forth = getattr(operator, "A", None)
    forth = forth if callable(forth) else operator
    back = getattr(operator, "adjoint", None) or getattr(operator, "A_adjoint", None)
    if not callable(forth) or not callable(back):
        wanted = "an object with A(x), or callable, and adjoint(y) or A_adjoint(y)"
        raise TypeError(message(op, "operator", wanted, checks.describe(operator)))
    return forth, back


def _step(denoiser: Any, sigma: float | None) -> Map:
    return denoiser if sigma is None else lambda x: denoiser(x, sigma)


def _check(op: str, y: Tensor, denoiser: Any, sigma: float | None, tol: float, **positive: float) -> None:
    checks.float_tensor(op, "y", y, "view_as_real turns complex measurements into real ones")
    checks.finite(op, "y", y)
    if not callable(denoiser):
        wanted = "an LPN, or a function of x or of x and sigma"
        raise TypeError(message(op, "denoiser", wanted, checks.describe(denoiser)))
    if sigma is not None:
        checks.positive(op, "sigma", sigma)
    checks.non_negative(op, "tol", tol)
    for name, value in positive.items():
        checks.positive(op, name, value)


def _begin(op: str, y: Tensor, maps: tuple[Map, Map], start: Tensor | None) -> tuple[Tensor, Tensor]:
    """A^T y and the first x."""
    back = maps[1](y)
    if start is not None:
        checks.float_tensor(op, "start", start)
        checks.shape(op, "start", start, back.shape, "(that of A^T y)")
    x = back if start is None else start
    seen = maps[0](x)
    checks.shape(op, "y", y, seen.shape, "(that of A x)")
    return back, x


def _norm(product: Map, like: Tensor) -> float:
    """The largest eigenvalue of A^T A on all rows together, by the power method."""
    v = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    size = 0.0
    for _ in range(POWER_STEPS):
        v = v / v.norm().clamp_min(1e-30)
        v = product(v)
        size = float(v.norm())
    return size


def _conjugate_gradients(product: Map, b: Tensor, x: Tensor, tol: float, steps: int) -> Tensor:
    """Solves a positive definite system from a first x; rows are independent."""
    r = b - product(x)
    p, square = r, dot(r, r)
    enough = tol**2 * dot(b, b)
    for _ in range(steps):
        going = square > enough
        if not bool(going.any()):
            break
        q = product(p)
        step = torch.where(going, square / dot(p, q).clamp_min(1e-30), 0.0)
        x, r = x + step * p, r - step * q
        before, square = square, dot(r, r)
        p = r + torch.where(going, square / before.clamp_min(1e-30), 0.0) * p
    return x


def _mu(denoiser: Any) -> float | None:
    potential = getattr(denoiser, "potential", None)
    if isinstance(potential, ConvexPotential) and potential.violation() > 0:
        return None  # no convex potential, until project_()
    return getattr(potential, "strong_convexity", None)


def _relative(change: Tensor, size: Tensor) -> Tensor:
    return (dot(change, change).sqrt() / dot(size, size).sqrt().clamp_min(1e-12)).max()


def _warned(op: str, certificate: PnPCertificate, name: str, relation: str) -> None:
    if not certificate.holds:
        mu, found = certificate.strong_convexity, f"{name} = {certificate.parameter:g}"
        wanted = f"{name} {relation} {certificate.bound:.4g} and a projected denoiser with 0 < strong_convexity < 1"
        warnings.warn(f"{op}: convergence is not certified: it needs {wanted}, got {found}, {mu}", stacklevel=3)


@torch.no_grad()
def pnp_admm(
    y: Tensor,
    operator: Any,
    denoiser: Any,
    *,
    rho: float,
    scale: float = 0.5,
    steps: int = 100,
    tol: float = 1e-6,
    sigma: float | None = None,
    start: Tensor | None = None,
    inner_tol: float = 1e-7,
    inner_steps: int = 100,
    warn: bool = True,
) -> PnPResult:
    """Reconstructs x from y = A x + noise by ADMM whose prior step is a denoiser.

    Each step: x = argmin scale ||y - A x||^2 + rho / 2 ||x - z + u||^2 by conjugate gradients; u = u + x - z;
    z = f(x + u). If f is the proximal operator of R, a fixed point is a stationary point of
    scale ||y - A x||^2 + rho R.

    Args:
        y: measurements (B, ...), real.
        operator: an object with ``A(x)``, or callable, and ``adjoint(y)`` or deepinv's ``A_adjoint(y)``.
        denoiser: an :class:`LPN` or any function of x (B, ...).
        rho: positive. ADMM with an LPN converges if it is above the Lipschitz constant of the data term's gradient.
        scale: weight of the data term.
        steps: at most.
        tol: of both relative residuals.
        sigma: passed to the denoiser as ``denoiser(x, sigma)``, as deepinv's denoisers take it; None to call
            ``denoiser(x)``.
        start: the first x; A^T y if None.
        inner_tol: relative residual at which conjugate gradients stop.
        inner_steps: of conjugate gradients, at most.
        warn: whether to warn when the conditions for convergence do not hold or cannot be known.

    Returns:
        The reconstruction, the residuals of every step, and the certificate.

    Raises:
        TypeError: y is complex, or the operator or denoiser is none.
        ValueError: y has NaN, shapes disagree, or a number is not positive.

    Reference: Boyd et al., "Distributed Optimization and Statistical Learning via ADMM", 2011; Fang, Buchanan and
    Sulam, ICLR 2024.

    Example:
        >>> import torch
        >>> from probkernels.inverse import pnp_admm
        >>> class Half:
        ...     def A(self, x): return 0.5 * x
        ...     def adjoint(self, y): return 0.5 * y
        >>> def shrink(x): return torch.sign(x) * (x.abs() - 1).clamp_min(0)  # the proximal operator of |x|
        >>> y = torch.tensor([[2.0, 0.1]], dtype=torch.float64)
        >>> pnp_admm(y, Half(), shrink, rho=0.5, warn=False).x  # argmin 1/2 (y - x / 2)^2 + 1/2 |x|
        tensor([[2., 0.]], dtype=torch.float64)
    """
    op = "pnp_admm"
    _check(op, y, denoiser, sigma, tol, rho=rho, scale=scale, inner_tol=inner_tol)
    checks.integer(op, "steps", steps)
    forth, back = _maps(op, operator)
    projected, x = _begin(op, y, (forth, back), start)
    lipschitz, mu = 2 * scale * _norm(lambda v: back(forth(v)), x), _mu(denoiser)
    holds = rho > lipschitz and mu is not None and 0 < mu < 1
    certificate = PnPCertificate(lipschitz, rho, lipschitz, mu, holds)
    if warn:
        _warned(op, certificate, "rho", "above")
    prior, z, u = _step(denoiser, sigma), x, torch.zeros_like(x)
    primal, dual, done = [], [], False
    for _ in range(steps):
        right = 2 * scale * projected + rho * (z - u)
        x = _conjugate_gradients(lambda v: 2 * scale * back(forth(v)) + rho * v, right, x, inner_tol, inner_steps)
        u = u + x - z
        before, z = z, prior(x + u)
        checks.shape(op, "denoiser(x)", z, x.shape, "(that of its input)")
        primal.append(_relative(x - z, z))
        dual.append(_relative(z - before, z))
        done = bool(primal[-1] <= tol) and bool(dual[-1] <= tol)
        if done:
            break
    return PnPResult(z, x, u, torch.stack(primal), torch.stack(dual), done, certificate)


@torch.no_grad()
def pnp_pgd(
    y: Tensor,
    operator: Any,
    denoiser: Any,
    *,
    eta: float | None = None,
    scale: float = 0.5,
    steps: int = 100,
    tol: float = 1e-6,
    sigma: float | None = None,
    start: Tensor | None = None,
    clip: tuple[float, float] | None = None,
    warn: bool = True,
) -> PnPResult:
    """Reconstructs x from y = A x + noise by proximal gradient descent.

    Each step: x = f(x - eta grad h(x)) with h = scale ||y - A x||^2.

    If f is the proximal operator of R, a fixed point is a stationary point of eta h + R. It descends if eta is below
    1 / L, with L the Lipschitz constant of grad h.

    Args:
        eta: step size; 0.99 / L if None.
        clip: range to which x is clipped after every step, as (0, 1); None for no clipping.
        y: as of :func:`pnp_admm`.
        operator: as of :func:`pnp_admm`.
        denoiser: as of :func:`pnp_admm`.
        scale: as of :func:`pnp_admm`.
        steps: as of :func:`pnp_admm`.
        tol: as of :func:`pnp_admm`.
        sigma: as of :func:`pnp_admm`.
        start: as of :func:`pnp_admm`.
        warn: as of :func:`pnp_admm`.

    Returns:
        The reconstruction, the residuals of every step (both are the relative change of x), and the certificate.

    Raises: as :func:`pnp_admm`.

    Reference: Fang, Buchanan and Sulam, ICLR 2024; Attouch, Bolte and Svaiter, 2013.

    Example:
        >>> import torch
        >>> from probkernels.inverse import pnp_pgd
        >>> class Same:
        ...     def A(self, x): return x
        ...     def adjoint(self, y): return y
        >>> pnp_pgd(torch.tensor([[3.0]]), Same(), lambda x: x / 2, eta=1.0, warn=False).x
        tensor([[1.5000]])
    """
    op = "pnp_pgd"
    _check(op, y, denoiser, sigma, tol, scale=scale, **({} if eta is None else {"eta": eta}))
    checks.integer(op, "steps", steps)
    forth, back = _maps(op, operator)
    projected, x = _begin(op, y, (forth, back), start)
    lipschitz, mu = 2 * scale * _norm(lambda v: back(forth(v)), x), _mu(denoiser)
    bound = 1 / max(lipschitz, 1e-30)
    size = 0.99 * bound if eta is None else eta
    certificate = PnPCertificate(lipschitz, size, bound, mu, size < bound and mu is not None and 0 < mu < 1)
    if warn:
        _warned(op, certificate, "eta", "below")
    prior, changes, done, point = _step(denoiser, sigma), [], False, x
    for _ in range(steps):
        point = x - size * 2 * scale * (back(forth(x)) - projected)
        before, x = x, prior(point)
        checks.shape(op, "denoiser(x)", x, before.shape, "(that of its input)")
        x = x if clip is None else x.clamp(*clip)
        changes.append(_relative(x - before, x))
        done = bool(changes[-1] <= tol)
        if done:
            break
    found = torch.stack(changes)
    return PnPResult(x, point, torch.zeros_like(x), found, found, done, certificate)
