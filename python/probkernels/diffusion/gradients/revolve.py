"""Binomial checkpoints: few states are kept, and the steps between them are taken again, as seldom as possible.

Reference: Griewank and Walther, Algorithm 799: Revolve, ACM Transactions on Mathematical Software, 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..solvers.scheme import Registers

REPEATS = 2  # how often a step is taken again at most, where the number of states is not given


def repeats(steps: int, states: int) -> int:
    """The least r at which ``states`` serve for ``steps``: steps <= C(states + r, r)."""
    r = 0
    while math.comb(states + r, r) < steps:
        r += 1
    return r


def least_states(steps: int) -> int:
    """The fewest states with which no step is taken again more than REPEATS times."""
    states = 1
    while math.comb(states + REPEATS, REPEATS) < steps:
        states += 1
    return states


def advances(steps: int, states: int) -> int:
    """How many steps must be taken to go through ``steps`` in reverse, none of them counted where it is differentiated.

    Args:
        steps: l >= 1.
        states: s >= 1 that may be kept at a time, the first one among them.

    Returns:
        r l - C(s + r, r - 1), with the least r for which l <= C(s + r, r). It is l - 1 with as many states as steps.
    """
    r = repeats(steps, states)
    return r * steps - (math.comb(states + r, r - 1) if r else 0)


def split(steps: int, states: int) -> int:
    """After how many of ``steps`` >= 2 the next state is kept, when ``states`` >= 2 are free or the first."""
    return min(range(1, steps), key=lambda m: m + advances(steps - m, states - 1) + advances(m, states))


class Snapshots:
    """States of a run in progress, by the steps that start from them; the first one always stays.

    Args:
        states: how many at most, at least 1, beside the one at work.
    """

    def __init__(self, states: int) -> None:
        self.states = states
        self.kept: list[tuple[int, Registers]] = []
        self.reached: tuple[int, Registers] | None = None  # where the run stands: the forward pass ends where we begin

    def start(self, n: int, registers: Registers) -> None:
        """Step n is the first one to return to."""
        self.kept = [(n, registers)]

    def reach(self, n: int, step: Callable[[int, Registers], Registers]) -> Registers:
        """The registers before step n: ``step(i, registers)`` is taken from the last state on, and states are left
        behind where they serve best."""
        at, registers = self.kept[-1] if self.reached is None else self.reached
        while at < n:
            free = self.states - len(self.kept)
            stop = at + split(n + 1 - at, free + 1) if free else n
            for i in range(at, stop):
                registers = step(i, registers)
            at = stop
            if free:
                self.kept.append((at, registers))
        self.reached = n, registers
        return registers

    def passed(self, n: int) -> None:
        """Nothing returns to step n any more."""
        self.reached = None
        if len(self.kept) > 1 and self.kept[-1][0] == n:
            self.kept.pop()
