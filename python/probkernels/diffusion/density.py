"""The likelihood of data under the probability-flow ODE."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from .denoiser import Denoiser
from .gradients._inputs import refuse_batch_norm, refuse_undeclared, tensors_in
from .gradients.continuous import TABLEAUX
from .inversion import check_data, ode_times
from .solvers.runge_kutta import explicit
from .solvers.scheme import run

TRACES = ("exact", "hutchinson")


def log_prob(
    model: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    solver: str = "heun",
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str = "lambda",
    trace: str = "exact",
    probes: int = 1,
    generator: torch.Generator | None = None,
    progress: bool = False,
    **guide: Any,
) -> Tensor:
    """log p(x0) in nats, by the change of variables along the probability-flow ODE from data to noise.

    With y = x / alpha, dy / d rho = eps, and log p falls along it by the trace of d eps / d y. Where it ends is held
    against N(0, sigma^2) at the first of the times; p is the density at the last one, where some noise remains.

    Args:
        model: what denoises.
        x0: (B, *S) float, D numbers a row: data, at the last of the times.
        cond: see :meth:`Denoiser.forward`.
        solver: "ddim" (Euler's method), "heun", "midpoint" or "rk4", for state and trace alike.
        steps: how many, spaced by ``grid``; or
        times: (N+1,) float64, falling. The last must have some noise.
        grid: see :func:`grid`.
        trace: "exact": D vector-Jacobian products a call. "hutchinson": ``probes`` of them, without bias in the trace:
            the mean of v^T J v over signs v, which stay the same for the whole run.
        probes: of "hutchinson".
        generator: of its signs, a CPU generator, whose signs are then the same on every device.
        progress: show a progress bar.
        guide: ``uncond`` and ``guidance``.

    Returns:
        (B,) float64, with the gradient of the steps taken to x0, parameters, conditions, guidance, times and whatever
        else the net or the process is made of, by autograd: the graphs of all calls and of their traces are kept. Under
        ``torch.no_grad()``, or where nothing requires a gradient, nothing is kept.

    Raises:
        TypeError, ValueError: as :func:`encode`; an unknown trace, no probe, batch normalisation in training mode.

    Reference:
        Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021; Grathwohl et
        al., FFJORD, ICLR 2019; Hutchinson, 1989.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, log_prob
        >>> class Normal(torch.nn.Module):  # of standard normal data
        ...     def forward(self, x, t):
        ...         return x * VP().sigma(t).to(x)[:, None]
        >>> x0 = torch.ones(1, 2, dtype=torch.float64)
        >>> normal = torch.distributions.Normal(0.0, 1.0).log_prob(x0).sum(1)
        >>> bool((log_prob(Denoiser(Normal(), VP()), x0, solver="rk4", steps=50) - normal).abs() < 1e-3)
        True
    """
    check_data("log_prob", model, x0)
    checks.one_of("log_prob", "solver", solver, [*TABLEAUX])
    checks.one_of("log_prob", "trace", trace, TRACES)
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(message("log_prob", "probes", "a whole number >= 1", checks.describe(probes)))
    refuse_batch_norm(model)
    rising = ode_times("log_prob", model, steps, times, grid).cpu().flip(0)
    scheme = explicit(TABLEAUX[solver])(model.process, rising)
    size = math.prod(x0.shape[1:])
    alpha = model.process.alpha(scheme.t)
    weights = scheme.gather[:, 0] / model.process.alpha(rising)[1:, None] * alpha  # (N, S): of the traces
    signs = _signs(x0, probes, generator) if trace == "hutchinson" else None
    points = dict(zip(scheme.places, model.points("eps", scheme.t[scheme.used]), strict=True))
    live = [live for point in points.values() for live in point.live()]
    learned = [x0, *tensors_in((cond, guide)), *live, weights, *scheme.parts(), *model.parameters(), *model.buffers()]
    enabled = torch.is_grad_enabled()
    graph = enabled and any(t.requires_grad for t in learned)
    traces: list[Tensor] = []

    def evaluate(n: int, s: int, u: Tensor) -> Tensor:
        with torch.enable_grad():
            # of its own: what else depends on the state, for instance a condition, is no part of the Jacobian
            u = u.view_as(u) if graph and u.requires_grad else u.detach().requires_grad_()
            eps = model.predict_at(points[n, s], "eps", u, cond, **guide)
        if enabled and not graph:
            refuse_undeclared(eps, [u])
        traces.append(weights[n, s] * _trace(eps, u, signs, graph))
        return eps if graph else eps.detach()

    with torch.set_grad_enabled(graph), tqdm(total=scheme.steps, desc="log_prob", disable=not progress) as bar:
        x_T = run(scheme, evaluate, x0, lambda n: x0, lambda n, x: bar.update() and None)
        last, std = x_T.double().flatten(1), model.process.sigma(rising[-1])
        prior = -0.5 * (last / std).square().sum(1) - size * (std.log() + 0.5 * math.log(2 * math.pi))
        stretch = model.process.log_alpha(rising[-1]) - model.process.log_alpha(rising[0])
        return prior + torch.stack(traces).sum(0) + size * stretch


def _signs(x0: Tensor, probes: int, generator: torch.Generator | None) -> list[Tensor]:
    """Rademacher vectors (B, *S)."""
    shape = (probes, *x0.shape)
    return list((torch.randint(2, shape, generator=generator) * 2 - 1).to(x0))


def _trace(eps: Tensor, u: Tensor, signs: list[Tensor] | None, graph: bool) -> Tensor:
    """(B,) float64: the trace of d eps / d u (B, *S) of every row, or its mean estimate by signs; with its graph."""
    if not eps.requires_grad:
        return torch.zeros(len(u), dtype=torch.float64, device=u.device)
    if signs is not None:
        found = [(_pulled(eps, u, v, graph) * v).double().flatten(1).sum(1) for v in signs]
        return torch.stack(found).mean(0)
    total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    for i in range(math.prod(u.shape[1:])):
        basis = torch.zeros_like(eps)
        basis.flatten(1)[:, i] = 1
        total = total + _pulled(eps, u, basis, graph).flatten(1)[:, i]
    return total


def _pulled(eps: Tensor, u: Tensor, v: Tensor, graph: bool) -> Tensor:
    grad = torch.autograd.grad(eps, u, v.to(eps.dtype), retain_graph=True, create_graph=graph, allow_unused=True)[0]
    return torch.zeros_like(u) if grad is None else grad
