"""Asynchronous leapfrog: a reversible solver of order 2 with one call per step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._core.errors import message
from ..process import Process
from ..table import ends
from .scheme import Scheme, zeros


def alf(process: Process, times: Tensor, *, damping: float = 1.0) -> Scheme:
    """(y, p) with y = x / alpha and p an average of eps: y += h/2 p; p += 2 damping (e - p); y += h/2 p.

    e is the predicted noise at the middle of the step in rho. Row 0 only evaluates p = eps(x_T), so N steps take N + 1
    rows. ``damping`` below 1 stabilizes strong guidance; at 1/2 the step is not reversible.
    """
    if not 0 < damping <= 1 or damping == 0.5:
        raise ValueError(message("alf", "damping", "a number in (0, 1], not 1/2", repr(damping)))
    e = ends(process, times)
    h = e.r1 - e.r
    t = process.t_of_rho(e.r + h / 2)
    a = process.alpha(t)
    c = zeros(len(h) + 1, 1, 2)
    c["inputs"][0, 0, 0] = c["carry"][0, 0, 0] = c["gather"][0, 1, 0] = 1
    c["inputs"][1:, 0] = torch.stack([a / e.a, a * h / 2], 1)
    c["carry"][1:, 0] = torch.stack([e.a1 / e.a, e.a1 * h * (1 - damping)], 1)
    c["carry"][1:, 1, 1] = 1 - 2 * damping
    c["gather"][1:, :, 0] = torch.stack([e.a1 * h * damping, torch.full_like(h, 2 * damping)], 1)
    rows = torch.cat([times[:1], times])
    return Scheme(torch.cat([times[:1], t])[:, None], **c, kind="eps", times=rows)
