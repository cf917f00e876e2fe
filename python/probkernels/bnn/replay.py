"""A memory of a stream's examples, of fixed size, to replay them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

POLICIES = ("reservoir", "task_balanced", "class_balanced")


class Replayed(NamedTuple):
    """Examples of a memory: inputs (n, ...), classes (n,), and the number of the task (n,) of each, all equal long.

    Example:
        >>> import torch
        >>> from probkernels.bnn import ReplayMemory
        >>> memory = ReplayMemory(2, seed=0)
        >>> memory.add(torch.eye(3), torch.tensor([0, 1, 2]))
        >>> memory.sample(2).x.shape
        torch.Size([2, 3])
    """

    x: Tensor
    y: Tensor
    task: Tensor


class ReplayMemory:
    """Keeps a random subset of all examples of a stream, batch by batch.

    "reservoir" keeps a uniform subset of all examples so far. "task_balanced" and "class_balanced" divide the size by
    the number of tasks or classes so far, and keep a uniform subset of each. A new task or class takes its share from
    all others; shares that do not divide evenly favor the oldest. With more of them than ``size``, the newest
    have none.

    Args:
        size: the most examples in the memory, of all tasks together. With 0 it stays empty.
        policy: "reservoir", "task_balanced" or "class_balanced".
        seed: of the memory's own random numbers, on the CPU.

    Raises:
        TypeError, ValueError: a size below 0 or an unknown policy.

    Reference: Vitter, "Random Sampling with a Reservoir", 1985 (algorithm R, for each share).

    Example:
        >>> import torch
        >>> from probkernels.bnn import ReplayMemory
        >>> memory = ReplayMemory(4, "class_balanced")
        >>> memory.add(torch.randn(100, 8), torch.arange(100) // 98)
        >>> memory.contents().y.tolist(), len(memory.sample(3).x)
        ([0, 0, 1, 1], 3)
    """

    def __init__(self, size: int, policy: str = "reservoir", *, seed: int = 0) -> None:
        self.size = checks.integer("ReplayMemory", "size", size, 0)
        checks.one_of("ReplayMemory", "policy", policy, POLICIES)
        self.policy = policy
        self._generator = torch.Generator().manual_seed(checks.integer("ReplayMemory", "seed", seed, 0))
        self._groups: dict[int, list[int]] = {}  # rows of each share, by task, class, or 0 of a reservoir
        self._seen: dict[int, int] = {}  # examples seen of each share
        self._kept: Replayed | None = None

    def __len__(self) -> int:
        """The number of examples in the memory."""
        return 0 if self._kept is None else len(self._kept.y)

    def __repr__(self) -> str:
        return f"ReplayMemory({self.size}, {self.policy!r}), {len(self)} examples"

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor, task: int = 0) -> None:
        """Shows the memory a batch of the stream, each example once. It copies those that it keeps.

        Args:
            x: (B, ...) inputs of any dtype; shape, dtype and device are those of the first batch. B may be 0.
            y: (B,) classes, integers.
            task: the number of their task.

        Raises:
            TypeError, ValueError: another shape or dtype than before, or NaN in ``x``. The memory is then as before.
        """
        self._check(x, y, task)
        new = Replayed(x.detach(), y.detach().long(), torch.full_like(y, task, dtype=torch.int64))
        if self._kept is None:
            self._kept = Replayed(*(part[:0] for part in new))
        keys = self._keys(new)
        for key in keys:
            self._groups.setdefault(key, [])
            self._seen.setdefault(key, 0)
        self._shrink()
        quota = dict(zip(self._groups, self._quotas(), strict=True))
        before = len(self)
        drawn = torch.rand(len(keys), generator=self._generator, dtype=torch.float64)
        draws = drawn.tolist()
        for row, (key, draw) in enumerate(zip(keys, draws, strict=True)):
            self._offer(key, before + row, quota[key], draw)
        self._collect(new)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Replayed:
        """Draws ``n`` examples without replacement, or all if there are fewer.

        Args:
            n: a number >= 0.
            generator: on the CPU; by default the memory's own random numbers.

        Returns:
            (x, y, task), copies. Empty tensors from an empty memory.

        Raises:
            ValueError: no batch has been added yet, so that the shape of an example is unknown.
        """
        checks.integer("ReplayMemory.sample", "n", n, 0)
        kept = self.contents("ReplayMemory.sample")
        rows = torch.randperm(len(self), generator=generator or self._generator)[:n]
        return Replayed(*(part[rows.to(part.device)] for part in kept))

    def contents(self, op: str = "ReplayMemory.contents") -> Replayed:
        """All examples, share by share. Raises ValueError before the first :meth:`add`; ``op`` is the error's."""
        if self._kept is None:
            raise ValueError(f"{op}: no batch has been added yet. Hint: call add(x, y) first.")
        return self._kept

    def state_dict(self) -> dict[str, Any]:
        """Examples, what was seen, and the random numbers: a loaded memory continues as this one would."""
        kept = None if self._kept is None else tuple(part.clone() for part in self._kept)
        return {
            "size": self.size, "policy": self.policy, "kept": kept, "seen": dict(self._seen),
            "lengths": [len(rows) for rows in self._groups.values()], "generator": self._generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replaces all by the ``state_dict()`` of a memory of the same size and policy. Raises ValueError otherwise."""
        op = "ReplayMemory.load_state_dict"
        wanted = f"the state of a memory of size {self.size}, {self.policy!r}"
        missing = {"size", "policy", "kept", "seen", "lengths", "generator"} - set(state_dict)
        got = f"one without '{min(missing)}'" if missing else f"size {state_dict['size']}, {state_dict['policy']!r}"
        if missing or (state_dict["size"], state_dict["policy"]) != (self.size, self.policy):
            raise ValueError(message(op, "state_dict", wanted, got))
        kept = state_dict["kept"]
        count = 0 if kept is None else len(kept[1])
        if sum(state_dict["lengths"]) != count or len(state_dict["lengths"]) != len(state_dict["seen"]):
            raise ValueError(message(op, "state_dict", wanted, "shares that do not add up to its examples"))
        self._kept = None if kept is None else Replayed(*(part.clone() for part in kept))
        self._seen = dict(state_dict["seen"])
        rows = torch.arange(count).split(list(state_dict["lengths"]))
        self._groups = {key: part.tolist() for key, part in zip(self._seen, rows, strict=True)}
        self._generator.set_state(state_dict["generator"])

    def _keys(self, new: Replayed) -> list[int]:
        """The share of each example."""
        if self.policy == "reservoir":
            return [0] * len(new.y)
        return (new.task if self.policy == "task_balanced" else new.y).tolist()

    def _quotas(self) -> list[int]:
        """The size of each share, oldest first. Each shrinks or stays as shares are added."""
        count = len(self._groups)
        return [self.size // count + (place < self.size % count) for place in range(count)]

    def _shrink(self) -> None:
        """Drops random rows of shares that are too large. What is left is a uniform subset as before."""
        for (key, rows), quota in zip(self._groups.items(), self._quotas() if self._groups else [], strict=True):
            if len(rows) > quota:
                chosen = torch.randperm(len(rows), generator=self._generator)[:quota]
                self._groups[key] = [rows[k] for k in chosen.tolist()]

    def _offer(self, key: int, row: int, quota: int, draw: float) -> None:
        """Algorithm R: the n-th example enters a full share with probability quota / n, in place of a random one."""
        rows = self._groups[key]
        self._seen[key] += 1
        if len(rows) < quota:
            rows.append(row)
            return
        place = int(draw * self._seen[key])
        if place < quota:
            rows[place] = row

    def _collect(self, new: Replayed) -> None:
        """Copies the chosen rows of the memory and of the new batch, share by share."""
        assert self._kept is not None
        before, lengths = len(self), [len(rows) for rows in self._groups.values()]
        chosen = torch.tensor([row for rows in self._groups.values() for row in rows], dtype=torch.int64)
        old = chosen < before

        def joined(kept: Tensor, part: Tensor) -> Tensor:
            found = kept.new_empty(len(chosen), *kept.shape[1:])
            on = chosen.to(kept.device), old.to(kept.device)
            found[on[1]] = kept[on[0][on[1]]]
            found[~on[1]] = part[on[0][~on[1]] - before]
            return found

        self._kept = Replayed(*(joined(kept, part) for kept, part in zip(self._kept, new, strict=True)))
        parts = torch.arange(len(chosen)).split(lengths) if lengths else ()
        self._groups = {key: part.tolist() for key, part in zip(self._groups, parts, strict=True)}

    def _check(self, x: Tensor, y: Tensor, task: int) -> None:
        op = "ReplayMemory.add"
        if not isinstance(x, Tensor) or not x.ndim:
            raise TypeError(message(op, "x", "a tensor (B, ...)", checks.describe(x), checks.AS_TENSOR))
        checks.integer_tensor(op, "y", y)
        checks.shape(op, "y", y, (len(x),), "(a class for each row of 'x')")
        checks.integer(op, "task", task, 0)
        if x.is_floating_point():
            checks.finite(op, "x", x, "leave out examples with missing values")
        if self._kept is None:
            return
        kept = self._kept.x
        checks.shape(op, "x", x, (len(x), *kept.shape[1:]), "(that of earlier batches)")
        if x.dtype is not kept.dtype:
            raise TypeError(message(op, "x", f"{kept.dtype}, as earlier batches", str(x.dtype)))
        checks.same_device(op, "x", x, kept, "earlier batches")
