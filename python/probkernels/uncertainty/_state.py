"""The state of a metric that is updated batch by batch, and its merging over processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._inputs import Samples

Sync = bool | dist.ProcessGroup
MOST_DIMS = 3


def rows_of(given: Samples) -> Tensor:
    """Rows of scores, label and weight in float64, in which labels are exact."""
    columns = given.probs if given.probs.ndim == 2 else given.probs[:, None]
    return torch.cat([columns.double(), given.labels[:, None].double(), given.weight[:, None]], 1)


def samples_of(rows: Tensor) -> Samples:
    """The samples of such rows."""
    values = rows[:, 0] if rows.shape[1] == 3 else rows[:, :-2]
    return Samples(values, rows[:, -2].long(), rows[:, -1])


def _gathered(state: Tensor | None, group: dist.ProcessGroup | None) -> list[Tensor]:
    """The float64 states of all processes that have one, in order of rank. Their shapes may differ."""
    device = torch.device("cpu") if state is None else state.device
    if dist.get_backend(group) == "nccl" and device.type == "cpu":
        device = torch.device("cuda", torch.cuda.current_device())
    shape = torch.full((1 + MOST_DIMS,), -1, dtype=torch.int64, device=device)
    if state is not None:
        shape[: state.ndim + 1] = torch.tensor([state.numel(), *state.shape], device=device)
    shapes = [torch.empty_like(shape) for _ in range(dist.get_world_size(group))]
    dist.all_gather(shapes, shape, group=group)
    most = max(int(s[0]) for s in shapes)
    if most <= 0:
        return []
    flat = torch.zeros(most, dtype=torch.float64, device=device)  # padded: all_gather needs equal sizes
    if state is not None:
        flat[: state.numel()] = state.to(device).flatten()
    parts = [torch.empty_like(flat) for _ in shapes]
    dist.all_gather(parts, flat, group=group)
    sizes = [[n for n in s.tolist() if n >= 0] for s in shapes]
    return [p[: size[0]].view(size[1:]) for p, size in zip(parts, sizes, strict=True) if size]


class Metric:
    """Base of all metrics that are updated batch by batch. A state is one float64 tensor: a sum over samples, or a row
    for each sample where the metric is no sum.

    Args:
        sync: over which processes ``compute`` merges: True for all if torch.distributed is initialized, a process
            group, or False for this process alone.
    """

    _rows = False  # whether states are joined row by row; otherwise they are added

    def __init__(self, sync: Sync = True) -> None:
        if not isinstance(sync, (bool, dist.ProcessGroup)):
            raise TypeError(message(self._name, "sync", "True, False or a process group", checks.describe(sync)))
        self.sync = sync
        self._pieces: list[Tensor] = []
        self._dims: int | None = None  # of the first batch's probabilities

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _join(self, pieces: list[Tensor]) -> Tensor | None:
        if not pieces:
            return None
        device = pieces[0].device
        tails = {tuple(piece.shape[self._rows :]) for piece in pieces}
        if len(tails) > 1:
            got = " and ".join(map(str, sorted(tails)))
            raise ValueError(f"{self._name}: all batches must have the same number of classes, got states of {got}.")
        moved = [piece.to(device) for piece in pieces]
        return torch.cat(moved) if self._rows else torch.stack(moved).sum(0)

    def _add(self, piece: Tensor) -> None:
        piece = piece.detach().double()
        if self._rows:
            if self._pieces and self._pieces[0].shape[1:] != piece.shape[1:]:
                self._join([self._pieces[0], piece])  # raises
            self._pieces.append(piece)
        else:
            joined = self._join([*self._pieces, piece])
            assert joined is not None
            self._pieces = [joined]

    def _check_dims(self, probs: Tensor) -> None:
        """Refuses probabilities (N,) beside (N, C), of which the metric asks another question."""
        if not len(probs):
            return
        if self._dims not in (None, probs.ndim):
            got = "probabilities (N,) and (N, C)"
            raise ValueError(f"{self._name}.update: all batches must have the same dimensions, got {got}.")
        self._dims = probs.ndim

    def _merged(self) -> Tensor:
        """The state of all processes. Every process of the group must take part."""
        state = self._join(self._pieces)
        if self.sync is not False and dist.is_available() and dist.is_initialized():
            state = self._join(_gathered(state, None if self.sync is True else self.sync))
        if state is None or (self._rows and not len(state)):
            raise ValueError(f"{self._name}.compute: there are no samples yet. Hint: call update() first.")
        return state

    def reset(self) -> None:
        """Forgets all samples."""
        self._pieces, self._dims = [], None

    def state_dict(self) -> dict[str, Tensor]:
        """The samples seen by this process as ``{"state": tensor}``; empty if there are none. Options are not in it."""
        state = self._join(self._pieces)
        self._pieces = [] if state is None else [state]
        return {} if state is None else {"state": state.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replaces the samples by those of ``state_dict()`` of a metric with the same options."""
        unknown = [key for key in state_dict if key != "state"]
        state = state_dict.get("state")
        if unknown or not (state is None or (isinstance(state, Tensor) and self._fits(state))):
            got = f"the key {unknown[0]!r}" if unknown else checks.describe(state)
            name = f"{self._name}.load_state_dict"
            raise ValueError(message(name, "state_dict", "the state of a metric with equal options", got))
        self._pieces, self._dims = [] if state is None else [state.detach().double().clone()], None

    def _fits(self, state: Tensor) -> bool:
        return state.ndim == 2 if self._rows else True
