"""Fixed points of functions of a batch: damped and Anderson iterations, and the implicit gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

SOLVERS = ("damped", "anderson")
Function = Callable[[Tensor], Tensor]


class FixedPoint(NamedTuple):
    """A fixed point, and how it was found.

    Attributes:
        value: (B, ...).
        iterations: (B,) how many calls of the function each sample took.
        residual: (B,) |f(z) - z| / |f(z)| at the last call.
        converged: whether all residuals are at most tol.

    Example:
        >>> import torch
        >>> from probkernels.energy import fixed_point
        >>> found = fixed_point(torch.cos, torch.ones(1, 1, dtype=torch.float64), tol=1e-10)
        >>> found.converged, round(found.value.item(), 6)
        (True, 0.739085)
    """

    value: Tensor
    iterations: Tensor
    residual: Tensor
    converged: bool


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _spread(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *(1,) * (like.dim() - 1))


class _Anderson:
    """The next point from the last ones: the combination whose residuals cancel best.

    A point whose residual is larger than the best one is refused for its sample, which then takes a damped step from
    the best point. The residual of such a step is always accepted.
    """

    def __init__(self, memory: int, ridge: float, damping: float) -> None:
        self.memory, self.ridge, self.damping = memory, ridge, damping
        self.points: list[Tensor] = []
        self.images: list[Tensor] = []
        self.valid: list[Tensor] = []  # (B) whether a sample may use this entry
        self.best: tuple[Tensor, Tensor, Tensor] | None = None  # point, image, norm of the residual
        self.plain: Tensor | None = None  # (B) whether the last step was a damped one

    def next(self, z: Tensor, image: Tensor) -> Tensor:
        size = _norm(image - z)
        if self.best is None or self.plain is None:
            self.best, refused = (z, image, size), torch.zeros_like(size, dtype=torch.bool)
        else:
            refused = ~(size < self.best[2]) & ~self.plain
            keep = _spread(refused, z)
            self.best = (
                torch.where(keep, self.best[0], z),
                torch.where(keep, self.best[1], image),
                torch.where(refused, self.best[2], size),
            )
        point, image, _ = self.best
        damped = point + self.damping * (image - point)
        self.valid = [valid & ~refused for valid in self.valid][-self.memory + 1 :]
        self.points = [*self.points[-self.memory + 1 :], point]
        self.images = [*self.images[-self.memory + 1 :], image]
        self.valid.append(torch.ones_like(refused))
        if len(self.points) == 1:
            self.plain = torch.ones_like(refused)
            return damped
        mixed = self._mixed(z)
        self.plain = refused | ~mixed.flatten(1).isfinite().all(1)
        return torch.where(_spread(self.plain, z), damped, mixed)

    def _mixed(self, like: Tensor) -> Tensor:
        images, valid = torch.stack(self.images, 1).flatten(2), torch.stack(self.valid, 1).to(like.dtype)
        points = torch.stack(self.points, 1).flatten(2)
        rest = (images - points) * valid[..., None]
        gram = rest @ rest.mT
        scale = gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=torch.finfo(like.dtype).tiny)[:, None, None]
        unit = torch.eye(len(self.points), dtype=like.dtype, device=like.device)
        ridge = max(self.ridge, 10 * torch.finfo(like.dtype).eps)
        weights = torch.linalg.solve_ex(gram / scale + ridge * unit, valid[..., None]).result[..., 0] * valid
        weights = weights / weights.sum(1, keepdim=True)
        mixed = points + self.damping * (images - points)
        return (weights[..., None] * mixed).sum(1).view_as(like)


@torch.no_grad()
def _solve(function: Function, z: Tensor, tol: float, most: int, anderson: _Anderson | None, damping: float) -> Any:
    count = z.shape[0]
    iterations = torch.zeros(count, dtype=torch.long, device=z.device)
    residual = torch.full((count,), float("inf"), dtype=z.dtype, device=z.device)
    done = torch.zeros(count, dtype=torch.bool, device=z.device)
    for _ in range(most):
        image = function(z)
        if image.shape != z.shape:
            expected = f"shape {tuple(z.shape)}, that of 'start'"
            raise ValueError(message("fixed_point", "function", expected, f"shape {tuple(image.shape)}"))
        length = _norm(image).clamp(min=torch.finfo(z.dtype).tiny)
        size = torch.where(length.isfinite(), _norm(image - z) / length, float("inf"))  # infinity stays what it is
        residual = torch.where(done, residual, size)
        iterations += ~done
        ahead = z + damping * (image - z) if anderson is None else anderson.next(z, image)
        now = ~done & (size <= tol)
        z = torch.where(_spread(done, z), z, torch.where(_spread(now, z), image, ahead))
        done |= now
        if bool((done | residual.isinf()).all()):
            break
    return FixedPoint(z, iterations, residual, bool(done.all()))


class _Adjoint(torch.autograd.Function):
    """The identity, whose backward replaces the gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # what follows would take the solution for a constant
            hint = "call autograd.grad or backward without create_graph"
            raise NotImplementedError(f"fixed_point: the implicit gradient has no second derivatives. Hint: {hint}")
        return ctx.solve(grad), None


def _report(found: FixedPoint, what: str, most: int, on_failure: str) -> None:
    if found.converged or on_failure == "ignore":
        return
    text = message(
        "fixed_point", "function", f"a {what} that converges in {most} iterations",
        f"a largest relative residual of {float(found.residual.max()):.3g} in a batch of {len(found.residual)}",
        "a larger max_iterations, a smaller damping, or for a Boltzmann machine a smaller alpha",
    )  # fmt: skip
    if on_failure == "raise":
        raise RuntimeError(text)
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def fixed_point(
    function: Function,
    start: Tensor,
    *,
    tol: float = 1e-4,
    max_iterations: int = 500,
    solver: str = "damped",
    damping: float = 1.0,
    memory: int = 5,
    ridge: float = 1e-6,
    on_failure: str = "warn",
) -> FixedPoint:
    """Finds z = f(z) for each sample of a batch, with the gradient of the solution and not of the iterations.

    The gradient solves ``w = grad + (df/dz)^T w`` by the same iteration, at a memory of one call of the function.
    Samples that have converged stop moving. There are no second derivatives: ``create_graph=True`` raises.

    Args:
        function: maps z (B, ...) to the same shape, sample by sample. Tensors that it uses and that require grad get
            their gradient.
        start: (B, ...) where to begin; no gradient flows to it.
        tol: the relative residual ``|f(z) - z| / |f(z)|`` to reach.
        max_iterations: largest number of calls.
        solver: ``"damped"`` takes ``z + damping (f(z) - z)``. ``"anderson"`` combines the last points; if a residual
            grows, that sample goes back and takes a damped step.
        damping: in (0, 1].
        memory: number of points that Anderson's method combines.
        ridge: added to the diagonal of its normalized equations, so that they are never singular.
        on_failure: what to do if a sample does not converge: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Returns:
        ``value``, ``iterations`` and ``residual`` of each sample, and whether all ``converged``.

    Raises:
        TypeError, ValueError: an argument is wrong, or the function changes the shape.
        RuntimeError: a sample does not converge, with ``on_failure="raise"``.
        NotImplementedError: a second derivative was asked for.

    Reference: Bai, Kolter, Koltun, "Deep equilibrium models", NeurIPS 2019.

    Example:
        >>> import torch
        >>> from probkernels.energy import fixed_point
        >>> a = torch.tensor(2.0, requires_grad=True)
        >>> found = fixed_point(lambda z: (z + a / z) / 2, torch.ones(1, 1), tol=1e-6)
        >>> found.value.sum().backward()
        >>> round(float(found.value), 4), round(float(a.grad), 4)  # sqrt(2) and 1 / (2 sqrt(2))
        (1.4142, 0.3536)
    """
    op = "fixed_point"
    checks.wide_float_tensor(op, "start", start)
    if start.dim() < 2:
        raise ValueError(message(op, "start", "shape (batch, ...)", f"shape {tuple(start.shape)}"))
    for name, number in (("tol", tol), ("ridge", ridge)):
        checks.positive(op, name, number)
    checks.positive_fraction(op, "damping", damping)
    checks.integer(op, "max_iterations", max_iterations)
    checks.integer(op, "memory", memory, 2)
    checks.one_of(op, "solver", solver, SOLVERS)
    checks.one_of(op, "on_failure", on_failure, ("warn", "raise", "ignore"))

    def solved(step: Function, begin: Tensor, what: str) -> FixedPoint:
        anderson = _Anderson(memory, ridge, damping) if solver == "anderson" else None
        found = _solve(step, begin, tol, max_iterations, anderson, damping)
        _report(found, what, max_iterations, on_failure)
        return found

    found = solved(function, start.detach(), "function")
    if not torch.is_grad_enabled():
        return found
    value = function(found.value)
    if not value.requires_grad:
        return found
    z = found.value.clone().requires_grad_()
    image = function(z)

    def adjoint(grad: Tensor) -> Tensor:
        def step(w: Tensor) -> Tensor:
            pulled = torch.autograd.grad(image, z, w, retain_graph=True, allow_unused=True)[0]
            return grad if pulled is None else grad + pulled

        return solved(step, grad, "backward pass").value

    return found._replace(value=_Adjoint.apply(value, adjoint))
