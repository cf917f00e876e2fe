"""``Run``: the checked arguments of one sampling run, which :mod:`.sample` and the gradient modes execute."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._net import check_state, outside_inference, refuse_running_statistics, replaced, setting_of, wide
from .denoiser import Denoiser, Point, check_guidance
from .grids import one_of_both
from .noise import Generators, StepNoise
from .solvers.build import scheme as make_scheme
from .solvers.mixing import AS_IT_IS, ONE, Prediction, fold
from .solvers.scheme import Scheme, from_table
from .table import Table


@dataclass(frozen=True)
class Run:
    """One sampling run with checked arguments: everything that a forward or backward pass needs."""

    scheme: Scheme
    model: Denoiser
    x: Tensor  # x_T (B, *S), float32 at least
    noise: StepNoise
    guide: dict[str, Any]  # cond, uncond, guidance, and the setting of all calls
    converts: bool  # whether calls return the prediction; otherwise steps do with the net's outputs, in their sums

    @functools.cached_property
    def points(self) -> dict[tuple[int, int], Point]:
        """The coefficients of every step and stage at which the net is called: elsewhere some may be infinite."""
        kind = self.scheme.kind if self.converts else ""
        return dict(zip(self.scheme.places, self.model.points(kind, self.scheme.t[self.scheme.used]), strict=True))

    def coefficients(self, constant: int = 0) -> tuple[Tensor, Tensor]:
        """Those of the stages' inputs and of the registers, see :func:`fold`."""
        used, guidance = self.scheme.used, self.guide["guidance"]
        if self.converts:
            return fold(self.scheme, AS_IT_IS, constant)
        p, q = (
            torch.zeros_like(self.scheme.t).masked_scatter(used, part.to(used.device))
            for part in self.model.coefficients(self.scheme.kind, self.scheme.t[used])
        )
        share = ONE
        if guidance is not None and not self.model.combines:
            check_guidance(guidance, self.x.shape[0])
            w = torch.as_tensor(guidance, dtype=torch.float64, device="cpu").view(-1)
            share = torch.stack([1 - w, w], 1)
        return fold(self.scheme, Prediction(p, q, share), constant)

    def outputs(self, n: int, s: int, x: Tensor) -> Tensor:
        """The net's outputs (G, B, *S) at step n and stage s; (1, B, *S) of its prediction if the run ``converts``."""
        if self.converts:
            return self.model.predict_at(self.points[n, s], self.scheme.kind, x, **self.guide)[None]
        return self.model.outputs_at(self.points[n, s], x, **self.guide)


def prepare(
    model: Denoiser,
    x_T: Tensor,
    *,
    solver: str | Table | Scheme,
    steps: int | None = None,
    times: Tensor | None = None,
    grid: str | None = None,
    cond: Any = None,
    uncond: Any = None,
    guidance: float | Tensor | None = None,
    generator: Generators = None,
    seeds: int | Tensor | None = None,
    noise: Tensor | None = None,
    ode: str = "",
    converts: bool = False,
    **options: Any,
) -> Run:
    """Checks the arguments of :func:`sample` and makes a :class:`Run` of them.

    ``ode`` names the calling function if it solves an ODE; its net may not draw random numbers. ``converts``: see
    :class:`Run`; clipped predictions are always converted in the call.
    """
    if not isinstance(model, Denoiser):
        hint = "wrap the network: Denoiser(net, process, pred=...)"
        raise TypeError(message("sample", "model", "a Denoiser", checks.describe(model), hint))
    check_state("sample", "x_T", x_T)
    refuse_running_statistics(ode or "sample", model)
    made = _resolve(model, solver, steps, times, grid, options)
    first = model.process.alpha(made.t[0, 0].detach()).detach()
    if float(first) == 0 and model.needs_signal(made.kind):
        hint = "start a little earlier, or use a network with pred 'x0', 'v' or 'flow'"
        raise ValueError(message("sample", "times", f"some signal at the start for '{model.pred}'", "none", hint))
    if noise is not None and len(noise) != made.steps:
        expected = f"{made.steps} rows, one for each of the scheme's"
        raise ValueError(message("sample", "noise", expected, f"shape {tuple(noise.shape)}"))
    x = outside_inference(x_T).to(wide(x_T.dtype))
    given = None if noise is None else outside_inference(noise)
    source = StepNoise(x, generator, given, seeds=seeds, draws=any(made.draws))
    condition = {"cond": cond, "uncond": uncond, "guidance": guidance}
    guide = {**replaced(condition, outside_inference), "setting": setting_of(model, x_T, ode)}
    return Run(made, model, x, source, guide, converts or model.clip is not None)


def _resolve(
    model: Denoiser,
    solver: str | Table | Scheme,
    steps: int | None,
    times: Tensor | None,
    grid: str | None,
    options: dict[str, Any],
) -> Scheme:
    if not isinstance(solver, str):
        if not isinstance(solver, (Table, Scheme)):
            raise TypeError(message("sample", "solver", "a name, a Table or a Scheme", checks.describe(solver)))
        if steps is not None or times is not None or grid is not None or options:
            expected = "no steps, times, grid or options: the coefficients have them"
            raise ValueError(message("sample", "solver", expected, f"a {type(solver).__name__} and some"))
        return from_table(solver) if isinstance(solver, Table) else solver
    times = one_of_both("sample", model.process, steps, times, grid, "t")
    return make_scheme(model.process, times, solver, **options)
