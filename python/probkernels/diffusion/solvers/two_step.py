"""Reversible methods over two states: y_{n+1} = g y_{n-1} + (1 - g) y_n + (h_n + g h_{n-1}) e_n, y = x / alpha."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._core import checks
from ..process import Process
from ..table import ends
from .scheme import Scheme, zeros


def _two_step(process: Process, times: Tensor, g: Tensor) -> Scheme:
    """``g`` (N,), of which the first is 0: DDIM's step."""
    e = ends(process, times)
    h = e.r1 - e.r
    earlier = torch.cat([torch.zeros(1, dtype=h.dtype), h[:-1]])
    older = torch.cat([torch.ones(1, dtype=h.dtype), e.a[:-1]])  # alpha at n - 1
    c = zeros(len(h), 1, 2)
    c["inputs"][:, 0, 0] = 1
    c["carry"][:, 0] = torch.stack([(1 - g) * e.a1 / e.a, g * e.a1 / older], 1)
    c["carry"][:, 1, 0] = 1
    c["gather"][:, 0, 0] = e.a1 * (h + g * earlier)
    return Scheme(e.t[:, None], **c, kind="eps", times=times)


def _first_zero(g: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=g.dtype), g])


def obelm(process: Process, times: Tensor) -> Scheme:
    """O-BELM: g = (h_n / h_{n-1})^2, of second order locally."""
    h = process.rho(times).diff()
    return _two_step(process, times, _first_zero((h[1:] / h[:-1]).square()))


def bdia(process: Process, times: Tensor, *, gamma: float = 0.5) -> Scheme:
    """BDIA: g = gamma alpha_{n-1} / alpha_{n+1}."""
    checks.unit_interval("bdia", "gamma", gamma)
    a = process.alpha(times)
    return _two_step(process, times, _first_zero(gamma * a[:-2] / a[2:]))
