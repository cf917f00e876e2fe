"""Sums over the processes that train together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class DataParallel:
    """The processes of a group, each with its own part of the data; one process without a group.

    Args:
        group: of torch.distributed; None for this process alone.

    Example:
        >>> import torch
        >>> from probkernels.training import DataParallel
        >>> alone = DataParallel(None)
        >>> alone.shard(torch.arange(3))
        tensor([0, 1, 2])
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    def shard(self, items: Tensor) -> Tensor:
        """This process's part of the items (n,)."""
        return items[self.rank :: self.size]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Adds up the tensors of all processes, in place. All tensors must have one dtype."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message instead of one a tensor
        dist.all_reduce(flat, group=self.group)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites the tensors of all processes by those of the first one."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group=self.group, group_src=0)
