"""The likelihood of data under the probability-flow ODE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from ._net import flat, outside_inference, refuse_running_statistics, replaced, setting_of, tensors_in, wide
from .denoiser import Denoiser
from .gradients._inputs import reaches, refuse_undeclared, undeclared
from .gradients.continuous import TABLEAUX
from .inversion import check_data, ode_times
from .solvers.mixing import AS_IT_IS, fold, plan, run
from .solvers.runge_kutta import explicit
from .solvers.scheme import Scheme

TRACES = ("exact", "hutchinson")


def log_prob(
    model: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    solver: str = "heun",
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str | None = None,
    trace: str = "exact",
    probes: int = 1,
    generator: torch.Generator | None = None,
    progress: bool = False,
    **guide: Any,
) -> Tensor:
    """log p(x0) in nats, by the change of variables along the probability-flow ODE from data to noise.

    With y = x / alpha the ODE is dy / d rho = eps, and log p decreases along it by the trace of d eps / d y. The end
    state is scored under N(0, sigma^2) at the first of the times. p is the density at the last of the times, where some
    noise remains. The rows of the network's output must not depend on other rows of x, and what it detaches from x
    counts as constant.

    Args:
        model: the denoiser.
        x0: (B, *S) float, D numbers per row: the data, at the last of the times.
        cond: see :meth:`Denoiser.forward`.
        solver: "ddim" (Euler's method), "heun", "midpoint" or "rk4". It integrates both the state and the trace.
        steps: number of steps, spaced by ``grid``. Give either ``steps`` or ``times``.
        times: (N+1,) float64, decreasing. Some noise must be left at the last one.
        grid: spacing of ``steps``, see :func:`grid`; "lambda" by default.
        trace: "exact" takes D vector-Jacobian products per call. "hutchinson" takes ``probes`` of them: an unbiased
            estimate of the trace, the mean of v^T J v over random signs v that stay the same for the whole run.
        probes: number of sign vectors v for "hutchinson".
        generator: generator for the signs. A CPU generator gives the same signs on every device.
        progress: whether to show a progress bar.
        guide: ``uncond`` and ``guidance``, see :meth:`Denoiser.forward`.

    Returns:
        (B,) float64. Its gradient is that of the discrete steps and reaches x0, parameters, conditions, guidance, times
        and learned processes. Autograd keeps the graphs of all calls and traces for it; under ``torch.no_grad()``, or
        if nothing requires a gradient, nothing is kept.

    Raises:
        TypeError, ValueError: as for :func:`encode`; also if the trace is unknown, ``probes`` is below 1, batch
            normalization is in training mode, the network draws random numbers, or autograd sees no path from its
            output to x.

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
    checks.integer("log_prob", "probes", probes)
    if trace == "exact" and (probes != 1 or generator is not None):
        name, got = ("probes", repr(probes)) if probes != 1 else ("generator", "a generator")
        raise ValueError(message("log_prob", name, "none, as trace is 'exact'", got, "give trace='hutchinson'"))
    for name in guide:
        checks.one_of("log_prob", "guide", name, ("uncond", "guidance"))
    refuse_running_statistics("log_prob", model)
    enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):  # in inference mode there would be no traces
        rising = ode_times("log_prob", model, steps, times, grid, "lambda").clone().cpu().flip(0)
        scheme = explicit(TABLEAUX[solver])(model.process, rising)
        setting = setting_of(model, x0, "log_prob")
        guide = {**replaced({"cond": cond, **guide}, outside_inference), "setting": setting}
        signs = _signs(x0, probes, generator) if trace == "hutchinson" else None
        return _integrated(model, outside_inference(x0).to(wide(x0.dtype)), scheme, signs, guide, progress)


def _integrated(
    model: Denoiser, x0: Tensor, scheme: Scheme, signs: list[Tensor] | None, guide: dict[str, Any], progress: bool
) -> Tensor:
    """log p (B,) of x0 (B, *S) by a scheme with increasing times."""
    rising, process, size = scheme.times, model.process, math.prod(x0.shape[1:])
    weights = scheme.gather[:, 0] / process.alpha(rising)[1:, None] * process.alpha(scheme.t)  # (N, S): of the traces
    points = dict(zip(scheme.places, model.points("eps", scheme.t[scheme.used]), strict=True))
    live = [live for point in points.values() for live in point.live()]
    learned = [x0, *tensors_in(guide), *live, weights, *scheme.parts(), *model.parameters(), *model.buffers()]
    enabled = torch.is_grad_enabled()
    graph = enabled and any(t.requires_grad for t in learned)
    traces: list[Tensor] = []

    def evaluate(n: int, s: int, u: Tensor) -> Tensor:
        with torch.enable_grad():
            # of its own: what else depends on the state, for instance a condition, is no part of the Jacobian
            u = u.view_as(u) if graph and u.requires_grad else u.detach().requires_grad_()
            output = model.output_at(points[n, s], u, **guide)
            if not traces:  # the first call
                _refuse_opaque(output, u, lambda x: model.output_at(points[n, s], x, **guide))
            eps = model.convert(points[n, s], "eps", output, u)
        if enabled and not graph:
            refuse_undeclared(undeclared(eps, [u]))
        traces.append(weights[n, s] * _trace(eps, u, signs, graph))
        return eps[None] if graph else eps.detach()[None]

    with (
        torch.set_grad_enabled(graph),
        tqdm(total=scheme.steps, desc="log_prob", disable=checks.hidden(progress)) as bar,
    ):
        steps = plan(scheme, *fold(scheme, AS_IT_IS), x0)
        x_T = run(scheme, steps, evaluate, x0, lambda n: x0, lambda n, x: bar.update() and None)
        last, std = flat(x_T.double()), process.sigma(rising[-1])
        prior = -0.5 * (last / std).square().sum(1) - size * (std.log() + 0.5 * math.log(2 * math.pi))
        stretch = process.log_alpha(rising[-1]) - process.log_alpha(rising[0])
        return prior + torch.stack(traces).sum(0) + size * stretch


def _refuse_opaque(output: Tensor, u: Tensor, again: Callable[[Tensor], Tensor]) -> None:
    """Refuses a net whose output depends on its input u (B, *S) unseen by autograd: the trace would miss it."""
    if reaches(output, u):
        return
    with torch.no_grad():
        changed = not torch.equal(again(1.5 * u.detach() + 0.5), output)
    if changed:
        hint = "torch.no_grad(), detach() and NumPy in its forward() hide its derivative"
        expected = "a net whose output is differentiable with respect to x"
        raise ValueError(message("log_prob", "model", expected, "one whose output has no graph back to x", hint))


def _signs(x0: Tensor, probes: int, generator: torch.Generator | None) -> list[Tensor]:
    """Rademacher vectors (B, *S)."""
    shape = (probes, *x0.shape)
    device = "cpu" if generator is None else generator.device
    signs = torch.randint(2, shape, generator=generator, device=device) * 2 - 1
    return list(signs.to(device=x0.device, dtype=wide(x0.dtype)))


def _trace(eps: Tensor, u: Tensor, signs: list[Tensor] | None, graph: bool) -> Tensor:
    """(B,) float64: each row's trace of d eps / d u (B, *S), or its estimate by signs; with a graph if asked for."""
    if not eps.requires_grad:
        return torch.zeros(len(u), dtype=torch.float64, device=u.device)
    if signs is not None:
        found = [flat((_pulled(eps, u, v, graph) * v).double()).sum(1) for v in signs]
        return torch.stack(found).mean(0)
    total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    for i in range(math.prod(u.shape[1:])):
        basis = torch.zeros_like(eps)
        flat(basis)[:, i] = 1
        total = total + flat(_pulled(eps, u, basis, graph))[:, i]
    return total


def _pulled(eps: Tensor, u: Tensor, v: Tensor, graph: bool) -> Tensor:
    grad = torch.autograd.grad(eps, u, v.to(eps.dtype), retain_graph=True, create_graph=graph, allow_unused=True)[0]
    return torch.zeros_like(u) if grad is None else grad
