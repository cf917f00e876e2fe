"""Inversion: from data to their noise, along the probability-flow ODE or exactly in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core import checks
from .._core.errors import message
from ._net import check_state
from .denoiser import Denoiser
from .gradients.continuous import TABLEAUX
from .gradients.exact import Plan
from .gradients.reversible import ONE, Evaluate, Leapfrog, State
from .grids import check_times, one_of_both
from .run import Run, prepare
from .sample import execute, sample
from .solvers.runge_kutta import explicit

EXECUTED = ("grad", "store", "last_k", "progress", "callback")  # options of sample() that do not change the sampler
CONDITION = ("cond", "uncond", "guidance")


@dataclass(frozen=True, eq=False)
class Latent:
    """The noise of :func:`invert`, which :func:`decode` turns back into the data without error.

    Args:
        y: (B, *S) int64: x_T / alpha_T in fixed point with 36 fractional bits.
        p: (B, *S) int64: an average of the predicted noise at the start, in the same fixed point.
        times: (N+1,) float64, decreasing: the times of the run.
        x: (B, *S): x_T in the data's dtype, for inspection. Decoding uses only y and p.

    Example:
        >>> from probkernels.diffusion import Latent
        >>> len(Latent.__dataclass_fields__)
        4
    """

    y: Tensor
    p: Tensor
    times: Tensor
    x: Tensor


def check_data(op: str, model: Denoiser, x0: Tensor) -> None:
    """A denoiser, and floating-point data (B, *S)."""
    if not isinstance(model, Denoiser):
        hint = "wrap the network: Denoiser(net, process, pred=...)"
        raise TypeError(message(op, "model", "a Denoiser", checks.describe(model), hint))
    check_state(op, "x0", x0)


def ode_times(
    op: str, model: Denoiser, steps: int | None, times: Tensor | None, grid: str | None, default: str = "t"
) -> Tensor:
    """(N+1,) float64, falling, with noise at the end and signal at the start: what runs of the ODE from data need."""
    times = one_of_both(op, model.process, steps, times, grid, default)
    check_times(op, model.process, times)
    noise = model.process.rho(times.detach()).detach()
    if not (float(noise[-1]) > 0 and bool(noise.isfinite().all())):
        expected = "some noise at the last time, where the data are, and some signal at the first"
        got = f"sigma / alpha of {float(noise[-1]):g} and {float(noise[0]):g}"
        raise ValueError(message(op, "times", expected, got, "move t_min or t_max of grid() a little inwards"))
    return times


def encode(
    model: Denoiser,
    x0: Tensor,
    *,
    solver: str = "ddim",
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str | None = None,
    **options: Any,
) -> Tensor:
    """Solves the probability-flow ODE from data to noise x_T. With solver "ddim" this is DDIM inversion.

    :func:`decode` with the same arguments returns the data up to discretization error; :func:`invert` is exact.

    Args:
        model: the denoiser.
        x0: (B, *S) float: the data, at the last of the times.
        solver: "ddim" (Euler's method on dy / d rho = eps), "heun", "midpoint" or "rk4".
        steps: number of steps, spaced by ``grid``. Give either ``steps`` or ``times``.
        times: (N+1,) float64, decreasing, as for sampling. Some noise must be left at the last one.
        grid: spacing of ``steps``, see :func:`grid`; "t" by default.
        options: options of :func:`sample`: ``cond``, ``uncond``, ``guidance``, ``grad`` (None, "autograd" or "exact"),
            ``store``, ``last_k``, ``progress``, ``callback``. Gradients reach x0 in place of x_T.

    Returns:
        (B, *S), in x0's dtype.

    Raises:
        TypeError, ValueError: as for :func:`sample`; also if the last time has no noise, or the first one no signal, or
            ``options`` has another name.

    Reference:
        Song et al., Denoising Diffusion Implicit Models, ICLR 2021.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, decode, encode
        >>> class Normal(torch.nn.Module):  # of standard normal data, which stay what they are
        ...     def forward(self, x, t):
        ...         return x * VP().sigma(t).to(x)[:, None]
        >>> model, x0 = Denoiser(Normal(), VP()), torch.ones(1, 2)
        >>> x_T = encode(model, x0, solver="rk4", steps=50, grid="lambda")
        >>> back = decode(model, x_T, solver="rk4", steps=50, grid="lambda")
        >>> round(float(x_T.mean()), 2), round(float(back.mean()), 2)
        (1.0, 1.0)
    """
    check_data("encode", model, x0)
    checks.one_of("encode", "solver", solver, [*TABLEAUX])
    for name in options:
        checks.one_of("encode", "options", name, [*CONDITION, *EXECUTED])
    times = ode_times("encode", model, steps, times, grid)
    run = {key: options.pop(key) for key in EXECUTED if key in options}
    scheme = explicit(TABLEAUX[solver])(model.process, times.cpu().flip(0))
    return execute(prepare(model, x0, solver=scheme, ode="encode", **options), **run).to(x0.dtype)


def decode(model: Denoiser, latent: Tensor | Latent, **options: Any) -> Tensor:
    """Turns the noise of :func:`encode` or :func:`invert` back into data.

    Args:
        model: the denoiser.
        latent: the output of :func:`encode`, (B, *S) float, or of :func:`invert`, a :class:`Latent`. A latent decodes
            exactly if the network returns the same bits as before: same device, autocast and batch.
        options: for a tensor, options of :func:`sample`, with ``solver`` "ddim" by default. For a :class:`Latent`,
            ``cond``, ``uncond``, ``guidance`` and ``progress``. Another condition than in :func:`invert` edits the
            data.

    Returns:
        (B, *S), in the latent's dtype.

    Raises:
        TypeError, ValueError: as for :func:`sample`; also if a :class:`Latent` comes with other options.
        FloatingPointError: the network returned NaN or infinity.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, decode, invert
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.tanh(x + t[:, None])
        >>> model, x0 = Denoiser(Net(), VP(), pred="v"), torch.linspace(-1, 1, 9)[None]
        >>> bool((decode(model, invert(model, x0, steps=10)) == x0).all())
        True
    """
    if not isinstance(latent, Latent):
        return sample(model, latent, **{"solver": "ddim", **options})
    allowed = {*CONDITION, "progress"}
    if not set(options) <= allowed:
        hint = "the others are those of invert()"
        raise ValueError(message("decode", "options", f"some of {', '.join(sorted(allowed))}", str(options), hint))
    check_data("decode", model, latent.x)
    with (
        torch.no_grad(),
        tqdm(total=len(latent.times) - 1, disable=checks.hidden(options.pop("progress", False))) as bar,
    ):
        given = {**options, "solver": "alf", "times": latent.times, "ode": "decode", "converts": True}
        frog = _leapfrog(prepare(model, latent.x, **given))
        state = State(latent.y.clone(), latent.p.clone(), None)
        return frog.forth(state, _evaluate(frog, bar)).to(latent.x.dtype)


def invert(
    model: Denoiser,
    x0: Tensor,
    *,
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str | None = None,
    cond: Any = None,
    uncond: Any = None,
    guidance: float | Tensor | None = None,
    progress: bool = False,
) -> Latent:
    """Inverts the sampler exactly: :func:`decode` reproduces the data for any number of steps.

    Runs asynchronous leapfrog in fixed point, backwards from x0 and the noise predicted there. Every step can be undone
    without error; only x0 itself is rounded, by at most 2^-37. Float32 data come back to the bit where they are 0 or at
    least 2^-12 in magnitude, half precision where they are at least 2^-26.

    Args:
        model: the denoiser. It must return the same bits for the same input.
        x0: (B, *S) float: the data, at the last of the times.
        steps: number of steps, spaced by ``grid``. Give either ``steps`` or ``times``.
        times: (N+1,) float64, decreasing, as for sampling. Some noise must be left at the last one.
        grid: spacing of ``steps``, see :func:`grid`; "t" by default.
        cond: the condition, see :meth:`Denoiser.forward`.
        uncond: the null condition for guidance.
        guidance: the guidance weight w.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: as for :func:`encode`; also if batch normalization is in training mode, or the network
            draws random numbers.
        FloatingPointError: the network returned NaN or infinity, or x / alpha left the range of fixed point.
        NotImplementedError: x0 requires a gradient, which integers do not have. Use :func:`encode`.

    Reference:
        Zhuang et al., MALI, ICLR 2021; Maclaurin et al., ICML 2015.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, invert
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.tanh(x + t[:, None])
        >>> latent = invert(Denoiser(Net(), VP(), pred="v"), torch.zeros(2, 3), steps=10)
        >>> latent.y.dtype, latent.x.shape
        (torch.int64, torch.Size([2, 3]))
    """
    check_data("invert", model, x0)
    if torch.is_grad_enabled() and x0.requires_grad:
        expected = "a tensor that requires no gradient"
        raise NotImplementedError(message("invert", "x0", expected, "one that does", "encode() has gradients"))
    times = ode_times("invert", model, steps, times, grid).detach()
    with torch.no_grad(), tqdm(total=len(times) - 1, desc="invert", disable=checks.hidden(progress)) as bar:
        given = {"cond": cond, "uncond": uncond, "guidance": guidance}
        made = prepare(model, x0, solver="alf", times=times, ode="invert", converts=True, **given)
        frog = _leapfrog(made)
        y = frog.rounded(x0.double() * (ONE / frog.last))
        p = frog.rounded(model.eps(made.x.detach(), float(times[-1]), **made.guide).double() * ONE)
        x = frog.back(State(y, p, None), _evaluate(frog, bar))
        frog.refuse_overflow()
    return Latent(y, p, times.cpu(), x.to(x0.dtype))


def _leapfrog(made: Run) -> Leapfrog:
    return Leapfrog(Plan(made, lambda n, x: None, 0, None), 1.0)


def _evaluate(frog: Leapfrog, bar: Any) -> Evaluate:
    """The net's noise (B, *S) in the middle of a step n, whose row in ALF's scheme is n + 1."""

    def noise(n: int, u: Tensor) -> Tensor:
        bar.update()
        return frog.plan.call((n + 1, 0), u, graph=False).k[0]

    return noise
