"""Populations of predators and prey, simulated exactly event by event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._draws import random_order, take_points
from .task_priors import TaskPrior

CHUNK = 1024  # events whose random numbers are drawn at once
MOST_TRIES = 100


@dataclass(frozen=True, eq=False)
class LotkaVolterraPrior(TaskPrior):
    """Predators X and prey Y by Gillespie's algorithm: x is the time of an event, y the two populations after it.

    Events and rates: a predator is born, rates[0] X Y; one dies, rates[1] X; prey is born, rates[2] Y; prey is eaten,
    rates[3] X Y. Waiting times are exponential. The start is ``start`` + N(0, 1) rounded towards 0, at least 1. A
    population that dies out ends its series, after that event. Of each series a draw takes n random events in random
    order; a series of fewer than n events is simulated anew.

    The simulation runs on the CPU, all series side by side.

    Args:
        start: (X, Y) at time 0, numbers > 0.
        rates: four positive numbers.
        most_events: length of the longest series, the start included.
        dtype: of the draws.
        device: of the draws.

    Example:
        >>> import torch
        >>> from probkernels.amortized import LotkaVolterraPrior, TaskSampler
        >>> tasks = TaskSampler(LotkaVolterraPrior(most_events=500), least=15, most=100, standardize=True)
        >>> task = tasks.sample(4, torch.Generator().manual_seed(0))
        >>> task.x_ctx.shape[2], task.y_ctx.shape[2]
        (1, 2)
    """

    start: tuple[float, float] = (50.0, 100.0)
    rates: tuple[float, float, float, float] = (0.01, 0.5, 1.0, 0.01)
    most_events: int = 20_000

    def _check(self) -> None:
        op = "LotkaVolterraPrior"
        for name, count in (("start", 2), ("rates", 4)):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or len(value) != count:
                raise TypeError(message(op, name, f"{count} positive numbers", checks.describe(value)))
            for number in value:
                checks.positive(op, name, number)
        checks.integer(op, "most_events", self.most_events, 2)

    def simulate(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Simulates series: times (B, E), populations (B, E, 2) and lengths (B,), float64 on the prior's device.

        E is the longest length. Beyond its length a series repeats its last time and populations.
        """
        self._check_sizes(batch, 0, generator)
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": self.at}
        first = torch.tensor(self.start, dtype=torch.float64, device=self.at) + torch.randn(batch, 2, **options)
        now = first.trunc().clamp(min=1).cpu().numpy()
        times, states, lengths = [np.zeros((1, batch))], [now[None]], np.full(batch, self.most_events)
        done = 1
        while done < self.most_events and (lengths > done).any():
            size = (min(CHUNK, self.most_events - done), batch)
            u = torch.rand(size, **options).cpu().numpy()
            wait = torch.empty(size, dtype=torch.float64, device=self.at).exponential_(generator=generator)
            found, totals = self._events(states[-1][-1], u)
            died = (found <= 0).any(-1)
            first_death = np.where(died.any(0), done + died.argmax(0) + 1, self.most_events)
            lengths = np.minimum(lengths, first_death)
            times.append(times[-1][-1] + np.cumsum(wait.cpu().numpy() / totals, 0))
            states.append(found)
            done += size[0]
        rows = np.minimum(np.arange(lengths.max())[:, None], lengths - 1)  # the end repeats
        time = np.take_along_axis(np.concatenate(times), rows, 0).T
        state = np.take_along_axis(np.concatenate(states), rows[..., None], 0).swapaxes(0, 1)
        return self._moved(time), self._moved(state), self._moved(lengths)

    def _events(self, now: Any, u: Any) -> tuple[Any, Any]:
        """Populations (E, B, 2) after each event, which u (E, B) choose, and the total rates before it.

        Series go on after a death. What they do then is cut off, so that no step needs to look for it.
        """
        a, b, c, d = self.rates
        x, y = now[:, 0], now[:, 1]
        states, totals = np.empty((*u.shape, 2)), np.empty(u.shape)
        for step, share in enumerate(u):
            met = x * y
            born = a * met
            predators = born + b * x
            prey = predators + c * y
            totals[step] = total = prey + d * met
            point = share * total
            among = point < predators
            x = x + 2.0 * (point < born) - among
            y = y + 2.0 * (point < prey) - among - 1.0
            states[step, :, 0], states[step, :, 1] = x, y
        return states, np.where(totals > 0, totals, 1.0)

    def _moved(self, values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.at)

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        if n > self.most_events:
            raise ValueError(message("LotkaVolterraPrior.sample", "n", f"at most {self.most_events} events", str(n)))
        x = torch.empty(batch, n, 1, dtype=self.dtype, device=self.at)
        y = torch.empty(batch, n, 2, dtype=self.dtype, device=self.at)
        waiting = torch.arange(batch, device=self.at)
        for _ in range(MOST_TRIES):
            times, states, lengths = self.simulate(len(waiting), generator)
            long = lengths >= n
            if long.any():
                index = random_order(lengths[long], times.shape[1], generator)[:, :n]
                x[waiting[long]] = take_points(times[long][..., None], index).to(self.dtype)
                y[waiting[long]] = take_points(states[long], index).to(self.dtype)
            waiting = waiting[~long]
            if len(waiting) == 0:
                return x, y
        expected = f"a number of events that series reach within {MOST_TRIES} tries"
        raise ValueError(message("LotkaVolterraPrior.sample", "n", expected, str(n), "populations die out before it"))
