"""Sampling: from noise to data by any solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from . import gradients
from .denoiser import Denoiser
from .run import Run, prepare
from .solvers.scheme import Scheme, run
from .table import Table

MODES = (None, "autograd", "exact", "reversible", "continuous")


def sample(
    model: Denoiser,
    x_T: Tensor,
    *,
    solver: str | Table | Scheme = "dpmpp_2m",
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str | None = None,
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
        grid: what is spaced evenly, with ``steps``: see :func:`grid`; "t" by default.
        cond: see :meth:`Denoiser.forward`, as for the next two; for the whole batch.
        uncond: the condition that means none.
        guidance: its strength w.
        generator: gives the seed of the noise that solvers with noise add. The noise of a step depends on that seed and
            the step alone.
        noise: (rows, B, *S) in place of that, one row a step of the scheme. Solvers without noise ignore both.
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
        callback: called as ``callback(n, x)`` after step n; x is float32 at least. It must not write to x, in any mode:
            that raises.
        options: of the solver, for instance ``eta``.

    Returns:
        (B, *S), in x_T's dtype. With half precision the net is given and gives that, and all else is float32.

    Raises:
        TypeError: no denoiser, x_T no floating-point tensor, a net that gives none.
        ValueError: neither or both of ``steps`` and ``times``, batch normalization in training mode, or what the grid,
            solver and model refuse; with "exact", "reversible" and "continuous" also a net that depends on a tensor
            that requires a gradient and is neither its parameter nor buffer nor in ``cond``, ``uncond`` or
            ``guidance``.
        FloatingPointError: with these, the net gave NaN or infinity; the text names the step.
        NotImplementedError: a second derivative, but of "autograd".
        RuntimeError: with "exact", "reversible" and "continuous": the net was changed during the run or before the
            backward pass, or gives other outputs there ("reversible": other bits); the text names what changed.
            Training flags, replaced parameters and random numbers are put back for the calls.

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
    made = prepare(
        model, x_T, solver=solver, steps=steps, times=times, grid=grid, cond=cond, uncond=uncond, guidance=guidance,
        generator=generator, noise=noise, ode="sample" if grad == "continuous" else "", **options,
    )  # fmt: skip
    damping = options.get("damping", 1.0)
    return execute(made, grad, store, last_k, progress, callback, solver, damping).to(x_T.dtype)


def execute(
    made: Run,
    grad: str | None = None,
    store: str | int = "states",
    last_k: int | None = None,
    progress: bool = False,
    callback: Callable[[int, Tensor], None] | None = None,
    solver: str | Table | Scheme = "",
    damping: float = 1.0,
) -> Tensor:
    """The end of a run (B, *S), float32 at least; arguments of :func:`sample`."""
    checks.one_of("sample", "grad", grad, MODES)
    if grad != "exact" and (store != "states" or last_k is not None):
        raise ValueError(message("sample", "grad", "'exact', as 'store' or 'last_k' is given", repr(grad)))
    with tqdm(total=made.scheme.steps, desc="sample", disable=checks.hidden(progress)) as bar:

        def after(n: int, x: Tensor) -> None:
            bar.update()
            if callback is not None:
                _show(callback, n, x)

        if grad == "exact":
            return gradients.exact(made, after, store, last_k)
        if grad == "reversible":
            return gradients.reversible(made, after, solver, damping)
        if grad == "continuous":
            return gradients.continuous(made, after, solver)
        with torch.set_grad_enabled(grad is not None and torch.is_grad_enabled()):
            return run(made.scheme, made.predict, made.x, made.noise, after)


def _show(callback: Callable[[int, Tensor], None], n: int, x: Tensor) -> None:
    """Calls it; x is the run's own, and a write to it would change the sample, but not all of its gradient."""
    if x.is_inference():  # torch counts no writes to these
        callback(n, x.clone())
        return
    before = x._version
    callback(n, x)
    if x._version != before:
        expected, hint = "a function that leaves x as it is", "work on x.clone()"
        raise ValueError(message("sample", "callback", expected, f"one that wrote to it after step {n}", hint))
