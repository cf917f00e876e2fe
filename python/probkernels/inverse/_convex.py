"""Inverts the gradient of a convex function, all rows at once: Newton's method with conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

INNER = 50  # steps of conjugate gradients at most, for one Newton step
HALVINGS = 30
FAR = 1e6  # times 1 + ||x||: a row that goes further looks for what f does not reach


class Inversion(NamedTuple):
    """The certificate of :meth:`LPN.invert`."""

    y: Tensor  # f(y) = x, of the shape and dtype of x
    residual: Tensor  # ||f(y) - x|| of each row, (B,) float64
    converged: Tensor  # whether it is within the tolerance, (B,) bool
    steps: int  # of Newton's method


class FirstDerivatives(torch.autograd.Function):
    """The identity, for a minimum whose minimizer is a constant: that gives first derivatives alone."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            hint = "call autograd.grad or backward without create_graph"
            raise NotImplementedError(f"LPN.prior: has no second derivatives. Hint: {hint}")
        return grad


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows, (B, 1, ..)."""
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))


def newton_direction(product: Callable[[Tensor], Tensor], r: Tensor, active: Tensor) -> Tensor:
    """Solves J d = r roughly, for a positive semi-definite J, as Newton's method needs it: a direction of ascent."""
    d, left, p = torch.zeros_like(r), r, r
    square = start = dot(r, r)
    forcing = torch.minimum(start.sqrt(), start.new_tensor(0.01))  # relative to the residual: quadratic at the end
    for _ in range(INNER):
        going = active & (square > forcing.square() * start)
        if not bool(going.any()):
            break
        q = product(p)
        bend = dot(p, q)
        step = torch.where(going & (bend > 0), square / bend.clamp_min(1e-300), 0.0)
        d, left = d + step * p, left - step * q
        before, square = square, dot(left, left)
        p = left + torch.where(going, square / before.clamp_min(1e-300), 0.0) * p
    return torch.where(dot(d, r) > 0, d, r)


def invert(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, start: Tensor, tol: float, steps: int
) -> Inversion:
    """y = argmin psi(y) - <x, y>, in the dtype of x, which should be float64."""
    shape = (-1, *[1] * (x.ndim - 1))

    def look(y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y that requires grad, f(y) with its graph, the objective and the residual."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            psi, f = value_and_gradient(y)
        return y, f, psi.detach().view(shape) - dot(x, y.detach()), (x - f).detach()

    y, f, objective, r = look(start)
    done, going = 0, torch.ones_like(objective, dtype=torch.bool)
    far = FAR * (1 + dot(x, x).sqrt())
    for done in range(1, steps + 1):
        active = going & (dot(r, r).sqrt() > tol)
        if not bool(active.any()):
            done -= 1
            break
        seen, image = y, f
        d = newton_direction(lambda v: torch.autograd.grad(image, seen, v, retain_graph=True)[0], r, active)  # noqa: B023
        rise, t = dot(d, r), torch.ones_like(objective)
        for _ in range(HALVINGS):
            y, f, found, left = look(seen.detach() + torch.where(active, t, 0.0) * d)
            enough = (found <= objective - 1e-4 * t * rise) | (dot(left, left) <= 0.25 * dot(r, r)) | ~active
            if bool(enough.all()):
                break
            t = torch.where(enough, t, t / 2)
        objective, r = found, left
        going = enough & (dot(y.detach(), y.detach()).sqrt() <= far)
    residual = dot(r, r).sqrt().flatten()
    return Inversion(y.detach(), residual, residual <= tol, done)
