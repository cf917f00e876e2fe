"""Sampling: from noise to data by any solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from . import gradients
from .denoiser import Denoiser, Point
from .grids import grid as make_grid
from .noise import StepNoise
from .solvers.build import scheme as make_scheme
from .solvers.scheme import Scheme, from_table, run
from .table import Table

MODES = (None, "autograd", "exact", "reversible", "continuous")


@dataclass(frozen=True)
class Run:
    """One sampling run, checked and resolved: all that a forward or a reverse pass needs."""

    scheme: Scheme
    model: Denoiser
    x: Tensor  # x_T (B, *S)
    noise: StepNoise
    guide: dict[str, Any]  # cond, uncond, guidance
    points: dict[tuple[int, int], Point]  # of every step and stage at which the net is called

    def predict(self, n: int, s: int, x: Tensor) -> Tensor:
        """The model's output (B, *S) of the scheme's kind at its time t[n, s]."""
        return self.model.predict_at(self.points[n, s], self.scheme.kind, x, **self.guide)


def sample(
    model: Denoiser,
    x_T: Tensor,
    *,
    solver: str | Table | Scheme = "dpmpp_2m",
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str = "t",
    cond: Any = None,
    uncond: Any = None,
    guidance: float | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    grad: str | None = None,
    store: str | int = "states",
    last_k: int | None = None,
    progress: bool = False,
    callback: Callable[[int, Tensor], None] | None = None,
    **options: Any,
) -> Tensor:
    """Turns noise into data.

    Args:
        model: what denoises.
        x_T: (B, *S) float; standard normal noise times ``model.process.prior_std``.
        solver: a name (see :func:`table` and :func:`scheme`), or coefficients made before.
        steps: how many, spaced by ``grid``; or
        times: (N+1,) float64, falling.
        grid: what is spaced evenly, see :func:`grid`.
        cond: see :meth:`Denoiser.forward`, as for the next two; for the whole batch.
        uncond: the condition that means none.
        guidance: its strength w.
        generator: gives the seed of the noise that solvers with noise add. The noise of a step depends on that seed and
            the step alone.
        noise: (rows, B, *S) in place of that, one row a step of the scheme.
        grad: None: no gradient, and no graph. "autograd": the graph of all steps, as torch makes it. "exact": the same
            gradient, to x_T, the net's parameters, conditions, guidance, given noise and coefficients, for the memory
            of one call's graph: the net is called again in the backward pass. "reversible": the same for "alf" in
            fixed point, which keeps nothing of the run but its end and undoes it to the bit. "continuous": not the
            gradient, but the adjoint ODE of AdjointDPM, solved by the same method ("ddim", "heun", "midpoint" or
            "rk4"): for comparison only, as with few steps it is far off and may have the wrong sign.
        store: of "exact". "states" keeps the input of every call of the net; a number of bytes also whole graphs of
            as many last calls as fit into them, which saves calling those again. "revolve=S" keeps S states at a time
            and takes the steps between them again, as seldom as possible; "revolve" as many as needed to take none
            again more than twice, about (2N)^0.5 of N.
        last_k: of "exact". Calls of the net before the last k steps count as constants, which biases the gradient and
            makes it cheaper; None for none.
        progress: show a progress bar.
        callback: called as ``callback(n, x)`` after step n.
        options: of the solver, for instance ``eta``.

    Returns:
        (B, *S), in x_T's dtype.

    Raises:
        TypeError: no denoiser, x_T no floating-point tensor.
        ValueError: neither or both of ``steps`` and ``times``, or what the grid, solver and model refuse; with "exact",
            "reversible" and "continuous" also batch normalisation in training mode, and a net that depends on a tensor
            that requires a gradient and is neither its parameter nor buffer nor in ``cond``, ``uncond`` or
            ``guidance``.
        FloatingPointError: with these, the net gave NaN or infinity; the text names the step.
        NotImplementedError: a second derivative, but of "autograd".
        RuntimeError: with "reversible", in the backward pass: the net does not give the same bits again.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, sample
        >>> class Normal(torch.nn.Module):  # knows that the data are standard normal: D = alpha x
        ...     def forward(self, x, t):
        ...         return x * VP().alpha(t).to(x)[:, None]
        >>> denoiser = Denoiser(Normal(), VP(), pred="x0")
        >>> x = sample(denoiser, torch.ones(2, 3), solver="dpmpp_2m", steps=100)
        >>> bool(((x - 1).abs() < 1e-2).all())
        True
    """
    checks.one_of("sample", "grad", grad, MODES)
    if grad != "exact" and (store != "states" or last_k is not None):
        raise ValueError(message("sample", "grad", "'exact', as 'store' or 'last_k' is given", repr(grad)))
    made = prepare(
        model, x_T, solver=solver, steps=steps, times=times, grid=grid, cond=cond, uncond=uncond, guidance=guidance,
        generator=generator, noise=noise, **options,
    )  # fmt: skip
    with tqdm(total=made.scheme.steps, desc="sample", disable=not progress) as bar:

        def after(n: int, x: Tensor) -> None:
            bar.update()
            if callback is not None:
                callback(n, x)

        if grad == "exact":
            return gradients.exact(made, after, store, last_k)
        if grad == "reversible":
            return gradients.reversible(made, after, solver, options.get("damping", 1.0))
        if grad == "continuous":
            return gradients.continuous(made, after, solver)
        with torch.set_grad_enabled(grad is not None and torch.is_grad_enabled()):
            return run(made.scheme, made.predict, x_T, made.noise, after)


def prepare(
    model: Denoiser,
    x_T: Tensor,
    *,
    solver: str | Table | Scheme,
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str = "t",
    cond: Any = None,
    uncond: Any = None,
    guidance: float | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    **options: Any,
) -> Run:
    """Checks the arguments of :func:`sample` and resolves them into a :class:`Run`."""
    if not isinstance(model, Denoiser):
        hint = "wrap the network: Denoiser(net, process, pred=...)"
        raise TypeError(message("sample", "model", "a Denoiser", checks.describe(model), hint))
    checks.float_tensor("sample", "x_T", x_T, "complex data go through torch.view_as_real")
    made = _resolve(model, solver, steps, times, grid, options)
    first = model.process.alpha(made.t[0, 0].detach()).detach()
    if float(first) == 0 and model.needs_signal(made.kind):
        hint = "start a little earlier, or use a network with pred 'x0', 'v' or 'flow'"
        raise ValueError(message("sample", "times", f"some signal at the start for '{model.pred}'", "none", hint))
    if noise is not None and len(noise) != made.steps:
        expected = f"{made.steps} rows, one for each of the scheme's"
        raise ValueError(message("sample", "noise", expected, f"shape {tuple(noise.shape)}"))
    draws = noise is not None or any(made.draws)
    source = StepNoise(x_T, generator if draws else torch.Generator(), noise)
    guide = {"cond": cond, "uncond": uncond, "guidance": guidance}
    return Run(made, model, x_T, source, guide, _points(model, made))


def _points(model: Denoiser, scheme: Scheme) -> dict[tuple[int, int], Point]:
    """What the net needs of the times of its calls. At others slopes may be infinite: where no noise is left."""
    return dict(zip(scheme.places, model.points(scheme.kind, scheme.t[scheme.used]), strict=True))


def _resolve(
    model: Denoiser,
    solver: str | Table | Scheme,
    steps: int | None,
    times: Tensor | None,
    grid: str,
    options: dict[str, Any],
) -> Scheme:
    if not isinstance(solver, str):
        if not isinstance(solver, (Table, Scheme)):
            raise TypeError(message("sample", "solver", "a name, a Table or a Scheme", checks.describe(solver)))
        if steps is not None or times is not None or options:
            expected = "no steps, times or options: the coefficients have them"
            raise ValueError(message("sample", "solver", expected, f"a {type(solver).__name__} and some"))
        return from_table(solver) if isinstance(solver, Table) else solver
    if (steps is None) == (times is None):
        got = "neither" if steps is None else "both"
        raise ValueError(message("sample", "steps", "one of 'steps' and 'times'", got))
    if times is None:
        assert steps is not None
        times = make_grid(model.process, steps, grid)
    return make_scheme(model.process, times, solver, **options)
