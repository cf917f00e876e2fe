"""Exponential moving averages of weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import ModelMismatchError
from .._core.pending import settle

HALF = (torch.float16, torch.bfloat16)


class EMA:
    """An exponential moving average of a module's parameters. Buffers are copied.

    ``module`` is a copy of the module with the averaged weights. Averages of half-precision parameters are kept in
    float32 (``wide``), because rounding would swallow small updates; ``module`` holds them rounded.

    Args:
        module: the module whose parameters are averaged; it is not changed.
        decay: decay in [0, 1) per update.
        warm_up: whether to limit the decay to (1 + n) / (10 + n) after n updates, so that early averages forget the
            start sooner.

    Raises:
        TypeError, ValueError: ``decay`` is out of range.

    Example:
        >>> import torch
        >>> from probkernels.training import EMA
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> torch.nn.init.constant_(net.weight, 1.0).item()
        1.0
        >>> ema = EMA(net, decay=0.9)
        >>> torch.nn.init.constant_(net.weight, 2.0).item()
        2.0
        >>> ema.update(net)
        >>> round(ema.module.weight.item(), 6)
        1.1
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, *, warm_up: bool = False) -> None:
        checks.fraction("EMA", "decay", decay)
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay, self.warm_up, self.updates = decay, warm_up, 0
        self.wide = {name: p.float() for name, p in self.module.named_parameters() if p.dtype in HALF}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Updates the average: average = decay * average + (1 - decay) * ``module``.

        Raises:
            ModelMismatchError: ``module`` has tensors of other shapes or dtypes.
        """
        settle(module)
        shapes = [[t.shape for t in (*m.parameters(), *m.buffers())] for m in (self.module, module)]
        if shapes[0] != shapes[1]:  # lerp_ and copy_ would broadcast
            raise ModelMismatchError("EMA.update: a module with tensors of other shapes")
        dtypes = [[p.dtype for p in m.parameters()] for m in (self.module, module)]
        if dtypes[0] != dtypes[1]:
            raise ModelMismatchError("EMA.update: a module of another dtype. Hint: cast it before you create the EMA")
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay
        self.updates += 1
        for (name, mine), theirs in zip(self.module.named_parameters(), module.parameters(), strict=True):
            if mine.dtype in HALF:
                self.wide[name] = self._precise(name, mine).lerp_(theirs.detach().float(), 1 - decay)
                mine.copy_(self.wide[name])
            else:
                mine.lerp_(theirs.detach(), 1 - decay)
        for ours, other in zip(self.module.buffers(), module.buffers(), strict=True):
            ours.copy_(other)

    def _precise(self, name: str, rounded: Tensor) -> Tensor:
        """The float32 average of a parameter, or the module's value if that was overwritten from outside."""
        kept = self.wide.get(name)
        if kept is None:
            return rounded.float()
        kept = kept.to(rounded.device)
        return torch.where(kept.to(rounded.dtype) == rounded, kept, rounded.float())

    def state_dict(self) -> dict[str, Any]:
        """The state for :meth:`load_state_dict`, from which averaging continues exactly."""
        return {"module": self.module.state_dict(), "wide": dict(self.wide), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads the state of :meth:`state_dict`.

        Raises:
            ModelMismatchError: the state belongs to another module.
        """
        halves = {name for name, p in self.module.named_parameters() if p.dtype in HALF}
        if set(state["wide"]) != halves:
            theirs = sorted(state["wide"])[:3]
            raise ModelMismatchError(
                f"EMA: averages of another module: float32 ones of {theirs}, not {sorted(halves)[:3]}"
            )
        self.module.load_state_dict(state["module"])
        self.wide = {name: t.detach().float().clone() for name, t in state["wide"].items()}
        self.updates = state["updates"]
