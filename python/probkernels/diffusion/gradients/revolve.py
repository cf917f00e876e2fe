"""Binomial checkpoints: keeps few states and repeats the steps between them as seldom as possible.

Reference: Griewank and Walther, Algorithm 799: Revolve, ACM Transactions on Mathematical Software, 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..solvers.mixing import Registers

REPEATS = 2  # how often a step is taken again at most, where the number of states is not given


def repeats(steps: int, states: int) -> int:
    """The least number r of repeats for which ``states`` suffice: steps <= C(states + r, r)."""
    r = 0
    while math.comb(states + r, r) < steps:
        r += 1
    return r


def least_states(steps: int) -> int:
    """The fewest states with which no step is repeated more than REPEATS times."""
    states = 1
    while math.comb(states + REPEATS, REPEATS) < steps:
        states += 1
    return states


def advances(steps: int, states: int) -> int:
    """The number of steps to take to go through ``steps`` in reverse, not counting differentiated steps.

    Args:
        steps: number of steps l >= 1.
        states: number of states s >= 1 to keep at a time, including the first one.

    Returns:
        r l - C(s + r, r - 1) with the least r for which l <= C(s + r, r); l - 1 if there are as many states as steps.
    """
    r = repeats(steps, states)
    return r * steps - (math.comb(states + r, r - 1) if r else 0)


def split(steps: int, states: int) -> int:
    """The number of steps after which to keep the next state, for ``steps`` >= 2 and ``states`` >= 2."""
    return min(range(1, steps), key=lambda m: m + advances(steps - m, states - 1) + advances(m, states))


class Snapshots:
    """Kept states of a run, by the step that starts from each. The first one always stays.

    Args:
        states: the maximal number of states, at least 1, in addition to the current one.
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
