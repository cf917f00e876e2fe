"""Checks that a map is a proximal operator: the gradient of a convex function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

MOST_FEATURES = 4096  # of a point, whose Jacobian is a square matrix
POINTS = 4  # at which Jacobians are computed


class ProximalReport(NamedTuple):
    """The worst figures of :func:`assert_prox`."""

    asymmetry: float  # ||J - J^T|| / ||J||: 0 for a gradient
    least_eigenvalue: float  # of (J + J^T) / 2: at least mu
    monotone: float  # least <f(x) - f(y), x - y> / ||x - y||^2: at least mu
    cyclic: float  # largest sum over a cycle of <f(x_i), x_(i+1) - x_i>: at most 0
    convex: float | None  # least bow of the potential between two points: at least 0; None without a potential


def assert_prox(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    potential: Callable[[Tensor], Tensor] | None = None,
    strong_convexity: float = 0.0,
    tol: float = 1e-8,
) -> ProximalReport:
    """Checks on points x that f is a proximal operator. It is one exactly if it is the gradient of a convex function.

    Args:
        f: any differentiable map from (B, ...) to (B, ...) that treats rows independently.
        x: at least two distinct points (B, ...), float64 for sharp checks.
        potential: psi with f = grad psi, from (B, ...) to (B,).
        strong_convexity: mu, a lower bound of the eigenvalues of the Jacobian.
        tol: allowed violation: of symmetry relative to the Jacobian's norm, else absolute, times 1 + the largest |f|.

    Returns:
        The worst figures. Jacobians are those of the first four points.

    Raises:
        AssertionError: a check fails; the message names it and the figure.
        ValueError: x is not finite, holds one point alone, or f changes its shape.

    Reference: Gribonval and Nikolova, "A Characterization of Proximity Operators", 2020; Moreau, 1965.

    Example:
        >>> import torch
        >>> from probkernels.inverse import assert_prox
        >>> x = torch.randn(8, 2, dtype=torch.float64)
        >>> round(assert_prox(lambda x: 0.5 * x, x, strong_convexity=0.5).monotone, 6)
        0.5
        >>> assert_prox(lambda x: x.flip(1), x)
        Traceback (most recent call last):
        AssertionError: assert_prox: f is no proximal operator: least eigenvalue -1 of its Jacobian, below 0
    """
    checks.float_tensor("assert_prox", "x", x)
    checks.finite("assert_prox", "x", x)
    checks.non_negative("assert_prox", "strong_convexity", strong_convexity)
    if x.ndim < 2 or len(x) < 2 or x[0].numel() > MOST_FEATURES:
        wanted = f"shape (B, ...) of at least 2 points with at most {MOST_FEATURES} features"
        raise ValueError(message("assert_prox", "x", wanted, f"shape {tuple(x.shape)}"))
    x = x.detach()
    with torch.no_grad():
        image = f(x)
    checks.shape("assert_prox", "f(x)", image, x.shape, "(that of 'x')")
    asymmetry, eigenvalue = _jacobians(f, x[:POINTS])
    flat, mapped = x.flatten(1), image.flatten(1)
    report = ProximalReport(asymmetry, eigenvalue, *_monotone(flat, mapped), _bow(potential, x, strong_convexity))
    room, mu = tol * (1 + float(image.abs().max())), strong_convexity
    for wrong, text in (
        (not report.asymmetry <= tol, f"its Jacobian is not symmetric, by {asymmetry:.3g} of its norm"),
        (not eigenvalue >= mu - room, f"least eigenvalue {eigenvalue:.3g} of its Jacobian, below {mu:g}"),
        (not report.monotone >= mu - room, f"monotone by {report.monotone:.3g} alone, below {mu:g}"),
        (not report.cyclic <= room, f"a cycle sums to {report.cyclic:.3g}, above 0"),
        (report.convex is not None and not report.convex >= -room, f"its potential bows by {report.convex}, below 0"),
    ):
        if wrong:
            raise AssertionError(f"assert_prox: f is no proximal operator: {text}")
    return report


def _jacobians(f: Callable[[Tensor], Tensor], points: Tensor) -> tuple[float, float]:
    """The largest asymmetry and the least eigenvalue."""
    asymmetry, least = 0.0, float("inf")
    for point in points:
        jacobian = torch.autograd.functional.jacobian(lambda t: f(t[None])[0], point)
        matrix = jacobian.reshape(point.numel(), point.numel())
        norm = float(matrix.norm()) or 1.0
        asymmetry = max(asymmetry, float((matrix - matrix.T).norm()) / norm)
        least = min(least, float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]))
    return asymmetry, least


def _monotone(x: Tensor, f: Tensor) -> tuple[float, float]:
    """The least slope between two points, and the largest sum over cycles: all pairs, and cycles of all points in
    eight orders."""
    gaps, rises = x[:, None] - x[None], f[:, None] - f[None]
    square = gaps.square().sum(-1)
    slopes = (gaps * rises).sum(-1) / square
    least = float(slopes[square > 0].min()) if bool((square > 0).any()) else float("inf")
    generator = torch.Generator().manual_seed(0)
    sums = []
    for _ in range(8):
        order = torch.randperm(len(x), generator=generator)
        sums.append(float((f[order] * (x[order.roll(-1)] - x[order])).sum()))
    return least, max(sums)


def _bow(potential: Callable[[Tensor], Tensor] | None, x: Tensor, mu: float) -> float | None:
    """t psi(x) + (1 - t) psi(y) - psi(t x + (1 - t) y) - mu / 2 t (1 - t) ||x - y||^2, the least."""
    if potential is None:
        return None
    y = x.roll(1, 0)
    least = float("inf")
    with torch.no_grad():
        for t in (0.25, 0.5, 0.9):
            bow = t * potential(x) + (1 - t) * potential(y) - potential(t * x + (1 - t) * y)
            least = min(least, float((bow - mu / 2 * t * (1 - t) * (x - y).square().flatten(1).sum(1)).min()))
    return least
