"""The phase of PowerNorm's warm-up, which the host follows without asking the device."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import readable


class WarmUp:
    """Counts training forwards in ``iters``, a buffer, and on the host.

    In warm-up, a batch without a finite statistic moves nothing, and so ``iters`` does not count it: psi2 is the mean
    over those that count. The host cannot know this. It ends the warm-up after ``warmup_iters`` forwards and then lifts
    ``iters`` to that number, so that a checkpoint continues in the same phase.
    """

    iters: Tensor
    warmup_iters: int
    _iters_seen: int  # forwards that the host has seen; exact in warm-up
    _warming_up: bool  # a bool, as compiled code would specialize on every number
    _count_in_backward: bool

    def _saw_iters(self, iters: int) -> None:
        """Notes that so many forwards were counted, and whether the next one may still be in warm-up."""
        self._iters_seen = iters
        self._warming_up = iters < self.warmup_iters
        self._note_iters()

    def _note_iters(self) -> None:
        """Remembers `iters` as it is now. Another version of it was then written by somebody else."""
        self._iters_noted = self._version_of_iters()

    def _version_of_iters(self) -> tuple[int, int]:
        return id(self.iters), 0 if self.iters.is_inference() else self.iters._version

    def _follow_iters(self) -> None:
        """Reads `iters` where somebody else wrote or replaced it: a broadcast, say, or a functional call."""
        changed = self.warmup_iters > 0 and self._iters_noted != self._version_of_iters()
        if changed and not self.iters.is_meta and readable(self.iters):
            self._count_in_backward = False  # it is in the number that is read
            self._saw_iters(int(self.iters))

    def _count(self, batch: Tensor | None) -> None:
        """Counts a forward with the statistic ``batch`` (C) in warm-up, None afterwards."""
        self.iters.add_(1 if batch is None else torch.isfinite(batch).all())
        if torch.compiler.is_compiling():
            self._count_in_backward = True  # in the hook, which runs eagerly
        elif self._warming_up:
            self._saw_iters(self._iters_seen + 1)
        else:
            self._note_iters()

    def _count_compiled(self) -> None:
        """Counts on the host a forward of compiled code, in its backward."""
        if self._count_in_backward:
            self._count_in_backward = False
            if self._warming_up:
                self._saw_iters(self._iters_seen + 1)
                self._end_warm_up()
            else:
                self._note_iters()

    def _end_warm_up(self) -> None:
        """After a forward in warm-up: lifts `iters` if it was the last one."""
        if not self._warming_up:
            self.iters.clamp_(min=self.warmup_iters)
            self._note_iters()
