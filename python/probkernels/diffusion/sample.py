"""Sampling: from noise to data by any solver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from . import gradients
from ._callback import Callback, show
from ._transforms import refuse_transforms
from .denoiser import Denoiser
from .noise import Generators
from .run import Run, prepare
from .solvers.mixing import plan, run
from .solvers.scheme import Scheme
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
    generator: Generators = None,
    seeds: int | Tensor | None = None,
    noise: Tensor | None = None,
    grad: str | None = None,
    store: str | int = "states",
    last_k: int | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> Tensor:
    """Samples from a diffusion model: turns noise into data.

    Args:
        model: the denoiser.
        x_T: (B, *S) float; standard normal noise times ``model.process.prior_std``.
        solver: name of a solver (see :func:`table` and :func:`scheme`), or a :class:`Table` or :class:`Scheme`.
        steps: number of steps, spaced by ``grid``. Give either ``steps`` or ``times``.
        times: (N+1,) float64, decreasing.
        grid: spacing of ``steps``, see :func:`grid`; "t" by default.
        cond: condition of the whole batch, see :meth:`Denoiser.forward`.
        uncond: the null condition for guidance.
        guidance: the guidance weight w.
        generator: draws the seed of the noise that stochastic solvers add; or a list of B generators, one for each row.
            The noise of a row depends only on the seed, the step and the row's number.
        seeds: the seed itself, an int; or (B,) int64, a seed for each row, which then gets the same noise in any batch
            and at any place in it.
        noise: (rows, B, *S), noise to use in place of draws, one row per step of the scheme. Deterministic solvers
            ignore ``generator``, ``seeds`` and ``noise``.
        grad: how to differentiate the sample. None: no gradient and no graph. "autograd": torch keeps the graph of all
            steps. "exact": the same gradient with the memory of one call's graph, because the backward pass calls the
            net again; it reaches x_T, the net's parameters, conditions, guidance, given noise and coefficients.
            "reversible": the same gradient for solver "alf" in fixed point; keeps only the end of the run and undoes
            the steps to the bit. "continuous": the adjoint ODE of AdjointDPM, by the same method ("ddim", "heun",
            "midpoint" or "rk4"). It is not the gradient of the sample and is for comparison only: with few steps it is
            far off and may have the wrong sign.
        store: memory of "exact". "states" keeps the input of every call of the net. A number of bytes also keeps the
            graphs of as many last calls as fit, which are then not called again. "revolve=S" keeps S states at a time
            and repeats the steps between them as seldom as possible. "revolve" chooses S, about (2N)^0.5 for N steps,
            such that no step is repeated more than twice.
        last_k: for "exact": treats the net's outputs before the last k steps as constants. The gradient is cheaper and
            biased. None differentiates all steps.
        progress: whether to show a progress bar.
        callback: called as ``callback(n, x)`` after step n; x is a copy of the state, at least float32. Writing to x
            raises. Only with "autograd" does x have a gradient; with the other modes, a loss on it has none. With None
            and "autograd" it may return a changed x, in its shape and dtype, from which the run goes on; solvers that
            also keep other states ("unipc", "obelm", "bdia") refuse one.
        options: options of the solver, for instance ``eta``.

    Returns:
        (B, *S), in x_T's dtype. In half precision only the net computes in x_T's dtype; everything else is float32.

    Raises:
        TypeError: ``model`` is not a denoiser, or x_T or the net's output is not a floating-point tensor.
        ValueError: neither or both of ``steps`` and ``times`` are given; batch normalization is in training mode; the
            grid, solver or model refuses its arguments; or, with "exact", "reversible" and "continuous", the net
            depends on a tensor that requires a gradient and is not a parameter, a buffer or in ``cond``, ``uncond`` or
            ``guidance``.
        FloatingPointError: with "exact", "reversible" and "continuous": the net returned NaN or infinity. The message
            names the step.
        NotImplementedError: a second derivative was asked for; only "autograd" has one. Or a mode other than
            "autograd" within ``torch.func``: without a graph, ``torch.func.grad`` would be zero.
        RuntimeError: with "exact", "reversible" and "continuous": the net changed during the run or before the backward
            pass, or returns other outputs there ("reversible": other bits). The message names what changed. Training
            flags, replaced parameters and random numbers are restored for these calls and do not raise.

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
        generator=generator, seeds=seeds, noise=noise, ode="sample" if grad == "continuous" else "",
        converts=grad in ("reversible", "continuous"), **options,
    )  # fmt: skip
    damping = options.get("damping", 1.0)
    return execute(made, grad, store, last_k, progress, callback, solver, damping).to(x_T.dtype)


def execute(
    made: Run,
    grad: str | None = None,
    store: str | int = "states",
    last_k: int | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    solver: str | Table | Scheme = "",
    damping: float = 1.0,
) -> Tensor:
    """Executes a run and returns its end (B, *S), at least float32. Takes the arguments of :func:`sample`."""
    checks.one_of("sample", "grad", grad, MODES)
    if grad != "exact" and (store != "states" or last_k is not None):
        raise ValueError(message("sample", "grad", "'exact', as 'store' or 'last_k' is given", repr(grad)))
    refuse_transforms("sample", grad, made.model, (made.x, made.noise.given, made.guide, *made.scheme.parts()))
    if callback is not None:  # it may write to the caller's x_T, which some solvers keep until the end
        made = replace(made, x=made.x.clone())
    with tqdm(total=made.scheme.steps, desc="sample", disable=checks.hidden(progress)) as bar:

        def after(n: int, x: Tensor) -> Tensor | None:
            bar.update()
            changed = None if callback is None else show("sample", callback, n, x)
            if changed is not None:
                _refuse_change(made.scheme, grad)
            return changed

        if grad == "exact":
            return gradients.exact(made, after, store, last_k)
        if grad == "reversible":
            return gradients.reversible(made, after, solver, damping)
        if grad == "continuous":
            return gradients.continuous(made, after, solver)
        with torch.set_grad_enabled(grad is not None and torch.is_grad_enabled()):
            steps = plan(made.scheme, *made.coefficients(), made.x)
            return run(made.scheme, steps, made.outputs, made.x, made.noise.at, after)


def _refuse_change(scheme: Scheme, grad: str | None) -> None:
    """Raises where a state that a callback returns would not be honored."""
    expected = "a function that returns None"
    if grad not in (None, "autograd"):
        hint = "the backward pass of this mode does not know of it; use grad='autograd'"
        raise ValueError(message("sample", "callback", f"{expected}, as grad is '{grad}'", "a changed x", hint))
    if scheme.of_states:
        hint = "take a solver with one state, such as 'ddim', 'dpmpp_2m' or 'heun'"
        raise ValueError(
            message("sample", "callback", f"{expected}, as the solver keeps other states", "a changed x", hint)
        )
