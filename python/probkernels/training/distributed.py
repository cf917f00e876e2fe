"""Data-parallel training: sums over the processes of a group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .._core.errors import message


class DataParallel:
    """A group of processes that train together, each on its own part of the data.

    Args:
        group: a torch.distributed process group; None for this process alone.

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
        """Sums each tensor over all processes, in place.

        Raises:
            TypeError: the tensors have different dtypes.
        """
        dtypes = list(dict.fromkeys(t.dtype for t in tensors))
        if len(dtypes) > 1:  # one message would round them to a common one
            raise TypeError(message("DataParallel.sum_", "tensors", f"one dtype, {dtypes[0]}", str(dtypes[1])))
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message instead of one a tensor
        dist.all_reduce(flat, group=self.group)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Copies the tensors of the first process to all processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group=self.group, group_src=0)
