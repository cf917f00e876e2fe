"""Peers and tools of the AdjointDPM experiment: torchdiffeq, and a count of the bytes that autograd keeps."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ...diffusion import Denoiser, grid

TORCHDIFFEQ = {"ddim": "euler", "midpoint": "midpoint"}  # its names; its rk4 is another method than ours


def has_torchdiffeq() -> bool:
    """Whether torchdiffeq is installed."""
    return importlib.util.find_spec("torchdiffeq") is not None


class Flow(nn.Module):
    """dy / d rho = eps(alpha y, t, cond) for y = x / alpha. The condition is a constant part of the state."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, rho: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """rho (); y (B, 64) and condition (B, 32) -> their slopes."""
        y, cond = state
        t = self.model.process.t_of_rho(rho)
        return self.model.eps(self.model.process.alpha(t).to(y) * y, t, cond), torch.zeros_like(cond)


def by_torchdiffeq(model: Denoiser, x_T: Tensor, cond: Tensor, solver: str, steps: int) -> Tensor:
    """The sample (B, 64) with odeint_adjoint's gradient, as the authors' code has it."""
    import torchdiffeq

    times = grid(model.process, steps)
    alpha, rho = model.process.alpha(times), model.process.rho(times)
    start = (x_T / alpha[0], cond)
    y, _ = torchdiffeq.odeint_adjoint(Flow(model), start, rho.to(x_T), method=TORCHDIFFEQ[solver])
    return alpha[-1] * y[-1]


@contextlib.contextmanager
def counting_saved_bytes() -> Iterator[Callable[[], int]]:
    """Counts the bytes that autograd keeps for graphs made inside the block, each storage once."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield lambda: sum(sizes.values())
