"""``scheme``: builds any sampler by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..._core import checks
from ..._core.errors import message
from .._device import on_cpu
from ..grids import check_times
from ..process import Process
from ..table import METHODS, table
from .alf import alf
from .runge_kutta import RUNGE_KUTTA, edm_stochastic
from .scheme import Scheme, from_table
from .two_step import bdia, obelm
from .unipc import unipc

BUILDERS: dict[str, Callable[..., Scheme]] = {
    **RUNGE_KUTTA,
    "edm_stochastic": edm_stochastic,
    "alf": alf,
    "obelm": obelm,
    "bdia": bdia,
    "unipc": unipc,
}
SOLVERS = [*METHODS, *BUILDERS]


@on_cpu
def scheme(process: Process, times: Tensor, solver: str = "ddim", **options: Any) -> Scheme:
    """Builds a sampler as a :class:`Scheme`. ``solver`` is a name of :func:`table` or one of these:

    | solver | |
    |---|---|
    | ``heun``, ``midpoint``, ``rk4`` | Runge-Kutta methods in rho; ``heun`` is EDM's sampler |
    | ``edm_stochastic`` | Heun with new noise in every step; options ``churn``, ``s_min``, ``s_max``, ``s_noise`` |
    | ``dpm2s``, ``dpm3s``, ``dpmpp_2s`` | DPM-Solver 2 and 3 and DPM-Solver++ 2, single-step |
    | ``alf`` | asynchronous leapfrog, reversible; option ``damping``, 1 for none |
    | ``obelm``, ``bdia`` | reversible two-step methods; ``bdia`` has the option ``gamma`` |
    | ``unipc`` | predictor-corrector with one call per step; options ``order``, ``variant`` ("bh1" or "bh2") |

    Args:
        process: the process that adds noise to the data.
        times: (N+1,) float64, strictly decreasing.
        solver: name of the solver.
        options: options of the solver; solvers of :func:`table` may take ``eta``.

    Raises:
        TypeError: the solver does not have an option.
        ValueError: ``times`` do not decrease, the solver is unknown, or coefficients are not finite.

    Reference:
        Karras et al., NeurIPS 2022; Lu et al., NeurIPS 2022; Zhuang et al., MALI, ICLR 2021; Wang et al., BELM,
        NeurIPS 2024; Zhang et al., BDIA, ECCV 2024; Zhao et al., UniPC, NeurIPS 2023.

    Example:
        >>> from probkernels.diffusion import VP, grid, scheme
        >>> scheme(VP(), grid(VP(), 20), "unipc", order=3).evaluations
        20
    """
    checks.one_of("scheme", "solver", solver, SOLVERS)
    builder = table if solver in METHODS else BUILDERS[solver]
    allowed = [name for name in list(inspect.signature(builder).parameters)[2:] if name != "solver"]
    for name in options:
        if name not in allowed:
            expected = f"one of {', '.join(allowed)}" if allowed else "none"
            hint = checks.nearest(name, allowed)
            raise TypeError(message("scheme", "options", f"{expected}, as solver is '{solver}'", f"'{name}'", hint))
    if solver in METHODS:
        return from_table(table(process, times, solver, **options))
    check_times("scheme", process, times)
    made = BUILDERS[solver](process, times.cpu(), **options)
    for part in made.parts():
        bad = ~part.detach().flatten(1).isfinite().all(1)
        if bad.any():
            n = int(bad.nonzero()[0])
            got = f"none in step {n} of {made.steps}"
            hint = "begin where some signal is left, and end where some noise is"
            raise ValueError(
                message("scheme", "times", f"times at which '{solver}' has finite coefficients", got, hint)
            )
    return made
