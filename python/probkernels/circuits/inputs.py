"""Input layers: V variables with K units each, all of one family. A variable may occur several times.

The batch is the last axis. A layer's log values are (V, K, B); a missing observation has log value 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import leaf_gather, leaf_histogram
from .evidence import Evidence

SPREAD = 0.4  # initial probabilities are drawn from 1 - SPREAD .. 1 + SPREAD and normalized
MIN_FACTOR = 0.1  # what noise multiplies a probability with, at least
CELLS = 1 << 24  # values held at once by what works in pieces
MAX_LOG_SCALE = (
    69.0  # log scale of a logistic at most: beyond, infinity times zero would be NaN, as would log 0's slope
)
MIN_SPREAD = 1e-6  # of data that are all alike
MIN_WIDTH = 1e-3  # relative to the data's, below which no Gaussian may shrink


def random_simplex(shape: tuple[int, ...], dim: int, generator: torch.Generator) -> Tensor:
    """Positive numbers that sum to one over ``dim`` and differ by a bounded factor."""
    p = 1 - SPREAD + 2 * SPREAD * torch.rand(shape, generator=generator)
    return p / p.sum(dim, keepdim=True)


def noise_factors(spread: Tensor, generator: torch.Generator) -> Tensor:
    """Positive normal numbers with mean about 1. ``spread`` gives the standard deviation of each."""
    return (1 + spread * torch.randn(spread.shape, generator=generator)).clamp_min(MIN_FACTOR)


def log_or_zero(p: Tensor) -> Tensor:
    """log p, but 0 where p is zero. So p log p has no NaN in its gradient."""
    return torch.where(p > 0, p, 1.0).log()


def draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws a column for each row in proportion to unnormalized weights: (n, C) >= 0 -> (n,).

    Inverts the distribution function in float64. Random numbers come from the CPU, so a seed gives the same result on
    every device and with any number of threads. A column of weight zero is never drawn.
    """
    below = weights.double().cumsum(1)
    at = torch.rand(len(weights), 1, dtype=torch.float64, generator=generator, device="cpu")  # as the generator is
    at = at.to(weights.device) * below[:, -1:]
    return (below <= at).sum(1)


class Inputs(nn.Module):
    """Base class of all input layers.

    Args:
        variables: variable of each of the V rows.
        units: K, number of units of each row.
        categories: C, number of categories of each row. 0 if the variables are continuous.
    """

    variables: Tensor  # (V,) int64

    def __init__(self, variables: list[int], units: int, categories: int) -> None:
        super().__init__()
        self.units, self.categories = units, categories
        self.in_order = variables == list(range(len(variables)))
        self.register_buffer("variables", torch.tensor(variables), persistent=False)

    def log_table(self) -> Tensor:
        """The table that the methods of the family take, with one row for each variable. For a discrete family, (V, C,
        K): log-probability of each category under each unit."""
        raise NotImplementedError

    def probabilities(self) -> Tensor | None:
        """The probabilities (V, C, K) as a table that the op ``em_update_`` can change. None if the layer has an M-step
        of its own."""
        return None

    def load_probabilities_(self, table: Tensor) -> None:
        """Sets the parameters from the output of :meth:`probabilities`."""
        raise NotImplementedError

    def codes(self, evidence: Evidence) -> Tensor:
        """The rows of the codes that belong to the layer's variables, (V, B)."""
        everything = self.in_order and len(self.variables) == len(evidence.codes)
        return evidence.codes if everything else evidence.codes[self.variables]


class TableInputs(Inputs):
    """Discrete units. Each is a column of a table of log-probabilities."""

    def forward(self, evidence: Evidence, table: Tensor | None = None) -> Tensor:
        """Log values (V, K, B). ``table`` replaces the layer's own parameters."""
        return leaf_gather(self.log_table() if table is None else table, self.codes(evidence))

    def statistics(self, evidence: Evidence, flow: Tensor) -> tuple[Tensor, Tensor]:
        """flow (V, K, B) -> statistics for the M-step, summed over the batch: the flow by category (V, C, K), and the
        flow of missing observations (V, K)."""
        codes = self.codes(evidence)
        seen = leaf_histogram(codes, flow, self.categories)
        return seen, (flow * (codes < 0).unsqueeze(1)).sum(2)

    def mean(self) -> Tensor:
        """Of each unit, (V, K)."""
        table = self.log_table().exp()
        return (self._values(table) * table).sum(1)

    def variance(self) -> Tensor:
        """Of each unit, (V, K)."""
        table, mean = self.log_table().exp(), self.mean()
        return ((self._values(table) - mean[:, None]).square() * table).sum(1)

    def _values(self, table: Tensor) -> Tensor:
        return torch.arange(self.categories).to(table)[:, None]

    def best(self) -> tuple[Tensor, Tensor]:
        """The most probable value of each unit and its log-probability, both (V, K)."""
        value, code = self.log_table().max(1)
        return code.to(value), value

    def sample(self, row: Tensor, unit: Tensor, generator: torch.Generator | None) -> Tensor:
        """One draw for each pair (row of the layer, unit), (n,)."""
        table = self.log_table()
        pairs = max(CELLS // self.categories, 1)
        drawn = [
            draw(table[rows, :, units].exp(), generator)
            for rows, units in zip(row.split(pairs), unit.split(pairs), strict=True)
        ]
        return torch.cat(drawn).to(table)


class CategoricalInputs(TableInputs):
    """Categorical units: one logit for each category. A softmax over the categories gives the probabilities."""

    def __init__(self, variables: list[int], units: int, categories: int) -> None:
        super().__init__(variables, units, categories)
        self.logits = nn.Parameter(torch.empty(len(variables), categories, units))

    def reset(self, generator: torch.Generator, data: Evidence | None) -> None:
        """Draws the parameters anew."""
        self.logits.data.copy_(random_simplex(tuple(self.logits.shape), 1, generator).log())

    def log_table(self) -> Tensor:
        """See the base class."""
        return self.logits.log_softmax(1)

    def probabilities(self) -> Tensor | None:
        """See the base class."""
        return self.log_table().exp()

    def load_probabilities_(self, table: Tensor) -> None:
        """See the base class."""
        self.logits.copy_(table.log())


class IndicatorInputs(TableInputs):
    """Unit k is 1 at category k and 0 elsewhere."""

    one: Tensor  # has the circuit's dtype and device

    def __init__(self, variables: list[int], units: int, categories: int) -> None:
        super().__init__(variables, units, categories)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def reset(self, generator: torch.Generator, data: Evidence | None) -> None:
        """Does nothing: the layer has no parameters."""

    def log_table(self) -> Tensor:
        """See the base class."""
        c = self.categories
        table = self.one.new_full((c, c), -math.inf).fill_diagonal_(0.0)
        return table.expand(len(self.variables), c, c)

    def em_update_(self, statistics: Tensor, step: float, pseudocount: float) -> None:
        """Does nothing: the layer has no parameters."""


class LogisticInputs(TableInputs):
    """Discretized logistic units with parameters location and log_scale, (V, K)."""

    def __init__(self, variables: list[int], units: int, categories: int) -> None:
        super().__init__(variables, units, categories)
        self.location = nn.Parameter(torch.empty(len(variables), units))
        self.log_scale = nn.Parameter(torch.empty(len(variables), units))

    def reset(self, generator: torch.Generator, data: Evidence | None) -> None:
        """Spreads the locations over the alphabet. The scales are a quarter of it."""
        c = self.categories
        self.location.data.copy_(torch.rand(self.location.shape, generator=generator) * (c - 1))
        self.log_scale.data.fill_(math.log(max(c / 4, 0.5)))

    def log_table(self) -> Tensor:
        """See the base class."""
        return self._table(self.location, self.log_scale)

    def _table(self, location: Tensor, log_scale: Tensor) -> Tensor:
        c = self.categories
        edges = torch.arange(1, c).to(location)[:, None] - 0.5  # between neighboring values
        width = torch.exp(-log_scale[:, None].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE))  # of a bin, in scales
        z = (edges - location[:, None]) * width  # (V, C - 1, K)
        below, above = nn.functional.logsigmoid(z), nn.functional.logsigmoid(-z)
        # P(lower < x < upper) = s(upper) s(-lower) (1 - e^(lower - upper)), without cancellation in either tail
        inner = below[:, 1:] + above[:, :-1] + torch.log(-torch.expm1(-width))
        if c == 1:
            return torch.zeros_like(location[:, None])
        return torch.cat([below[:, :1], inner, above[:, -1:]], 1)

    @torch.no_grad()
    def em_update_(self, statistics: Tensor, step: float, pseudocount: float) -> None:
        """Takes gradient steps on the expected log-likelihood as long as each helps, then moves ``step`` of the way
        there.

        There is no closed form. The expected log-likelihood of a unit never falls, which is all that EM needs.
        """
        counts = statistics + pseudocount / self.categories  # (V, C, K)
        total = counts.sum(1).clamp_min(torch.finfo(counts.dtype).tiny)

        def quality(at: Tensor) -> Tensor:  # (2, V, K) -> (V, K)
            return (counts * self._table(*at)).sum(1) / total

        start = torch.stack([self.location, self.log_scale])
        now = start
        for _ in range(8):
            with torch.enable_grad():
                at = now.clone().requires_grad_()
                slope = torch.autograd.grad(quality(at).sum(), at)[0]
            slope[0] *= (2 * now[1]).exp()  # in units of the scale
            tries = torch.stack([now + length * slope for length in (0.0, 0.1, 0.4, 1.0, 2.5, 6.0)])
            tries[:, 1].clamp_(-5.0, math.log(4.0 * self.categories))
            tries[0] = now
            best = torch.stack([quality(t) for t in tries]).nan_to_num(-math.inf).argmax(0)
            now = tries.gather(0, best.expand(1, 2, *best.shape))[0]
        self.location.copy_(torch.lerp(start[0], now[0], step))
        self.log_scale.copy_(torch.lerp(start[1], now[1], step))


class GaussianInputs(Inputs):
    """Normal units with parameters location and log_scale, (V, K), on the scale of the data."""

    center: Tensor  # (V, 1): of the data the layer was made for
    width: Tensor  # (V, 1)

    def __init__(self, variables: list[int], units: int, categories: int) -> None:
        super().__init__(variables, units, categories)
        self.location = nn.Parameter(torch.empty(len(variables), units))
        self.log_scale = nn.Parameter(torch.empty(len(variables), units))
        self.register_buffer("center", torch.zeros(len(variables), 1))
        self.register_buffer("width", torch.ones(len(variables), 1))

    def reset(self, generator: torch.Generator, data: Evidence | None) -> None:
        """Scatters the locations like the data, with the data's width as scale. Without data, standard normals."""
        if data is not None:
            x, seen = self._observed(data)
            count = seen.sum(1, keepdim=True).clamp_min(1)
            self.center.copy_((x / count).sum(1, keepdim=True))
            apart = (x - self.center) * seen
            largest = apart.abs().amax(1, keepdim=True).clamp_min(MIN_SPREAD)  # squares of values as they are overflow
            spread = (apart / largest).square().sum(1, keepdim=True) / count
            self.width.copy_((largest * spread.sqrt()).clamp_min(MIN_SPREAD))
        noise = torch.randn(self.location.shape, generator=generator)
        self.location.data.copy_(self.center + self.width * noise)
        self.log_scale.data.copy_(self.width.log().expand_as(self.log_scale))

    def _observed(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """The layer's values (0 where missing), and 1 where they are observed, else 0. Both (V, B)."""
        assert evidence.values is not None
        x = evidence.values[self.variables].to(self.location)
        if evidence.missing is None:
            return x, torch.ones_like(x)
        missing = evidence.missing[self.variables]
        return x.masked_fill(missing, 0.0), (~missing).to(x)

    def forward(self, evidence: Evidence, table: Tensor | None = None) -> Tensor:
        """Log densities (V, K, B). ``table`` replaces the layer's own parameters."""
        location, log_scale = (self.log_table() if table is None else table).unbind(1)
        x, seen = self._observed(evidence)
        z = (x[:, None] - location[..., None]) * torch.exp(-log_scale)[..., None]
        return (-0.5 * z.square() - log_scale[..., None] - 0.5 * math.log(2 * math.pi)) * seen[:, None]

    def log_table(self) -> Tensor:
        """(V, 2, K): location and log_scale."""
        return torch.stack([self.location, self.log_scale], 1)

    def statistics(self, evidence: Evidence, flow: Tensor) -> tuple[Tensor, Tensor]:
        """flow (V, K, B) -> the sums of flow times 1, z and z^2, (V, 3, K), where z is standardized by the data's
        center and width, and the flow of missing observations (V, K)."""
        x, seen = self._observed(evidence)
        z = ((x - self.center) / self.width)[:, None]
        unseen = (flow * (1 - seen)[:, None]).sum(2)
        flow = flow * seen[:, None]
        return torch.stack([flow.sum(2), (flow * z).sum(2), (flow * z.square()).sum(2)], 1), unseen

    def em_update_(self, statistics: Tensor, step: float, pseudocount: float) -> None:
        """Moves mean and mean square ``step`` of the way to those of the statistics. The pseudocount adds virtual
        observations with the distribution of the whole data."""
        count, first, second = statistics.unbind(1)  # (V, K)
        total = count + pseudocount
        found = total > 0
        total = torch.where(found, total, 1.0)
        mean, square = first / total, (second + pseudocount) / total
        old_mean = (self.location - self.center) / self.width
        old_square = (self.log_scale.exp() / self.width).square() + old_mean.square()
        mean = torch.where(found, torch.lerp(old_mean, mean, step), old_mean)
        square = torch.where(found, torch.lerp(old_square, square, step), old_square)
        std = (square - mean.square()).clamp_min(MIN_WIDTH**2).sqrt()
        self.location.data.copy_(self.center + self.width * mean)
        self.log_scale.data.copy_((self.width * std).log())

    def mean(self) -> Tensor:
        """Of each unit, (V, K)."""
        return self.location

    def variance(self) -> Tensor:
        """Of each unit, (V, K)."""
        return (2 * self.log_scale).exp()

    def best(self) -> tuple[Tensor, Tensor]:
        """The mode of each unit and its log-density, both (V, K)."""
        return self.location, -self.log_scale - 0.5 * math.log(2 * math.pi)

    def sample(self, row: Tensor, unit: Tensor, generator: torch.Generator | None) -> Tensor:
        """One draw for each pair (row of the layer, unit), (n,)."""
        location, scale = self.location[row, unit], self.log_scale[row, unit].exp()
        return location + scale * torch.randn(location.shape, generator=generator, device="cpu").to(location)
