"""The bar distribution: a histogram with half-normal tails, or bounded, as a torch distribution with exact formulas."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .._core import checks
from .._core.errors import message
from ..ops.bar_log_prob import (
    SCALE,
    apply,
    bars_of,
    check_borders,
    check_targets,
    log_density_in_bar,
    tail_distance,
    wide_dtype,
)

ROOT_2_PI = math.sqrt(2 / math.pi)  # mean of a half-normal of scale 1
OP = "BarDistribution"


def quantile_borders(samples: Tensor, n_bars: int) -> Tensor:
    """Borders of bars that hold equally many samples: those of a bar distribution for values like these.

    The last ``len(samples) % n_bars`` samples are left out. An inner border is the mean of the two samples beside it,
    the outer ones are the smallest and the largest sample. Duplicates are dropped, so that repeated values may give
    fewer bars.

    Args:
        samples: finite numbers in any shape, at least ``n_bars`` of them; usually targets of a prior.
        n_bars: number of bars.

    Returns:
        (K + 1) rising borders, K <= ``n_bars``, in the dtype of ``samples``.

    Raises:
        TypeError: ``samples`` is no float32 or float64 tensor, or ``n_bars`` no whole number.
        ValueError: samples are too few, not finite or all equal.

    Reference: Muller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.amortized.quantile_borders(torch.tensor([5.0, 1.0, 2.0, 4.0, 3.0, 6.0, 99.0]), 3)
        tensor([1.0000, 2.5000, 4.5000, 6.0000])
    """
    op = "quantile_borders"
    checks.wide_float_tensor(op, "samples", samples, checks.AS_TENSOR)
    checks.integer(op, "n_bars", n_bars)
    samples = samples.detach().flatten()
    if len(samples) < n_bars:
        raise ValueError(message(op, "samples", f"at least {n_bars} samples, one for each bar", str(len(samples))))
    checks.finite(op, "samples", samples)
    each = len(samples) // n_bars
    ranked = samples[: each * n_bars].sort().values.view(n_bars, each)
    inner = ranked[:-1, -1] / 2 + ranked[1:, 0] / 2
    borders = torch.cat([ranked[:1, 0], inner, ranked[-1:, -1]]).unique_consecutive()
    if len(borders) < 2:
        raise ValueError(message(op, "samples", "at least two different numbers", f"{borders[0].item()} only"))
    return borders


def _excess(u: Tensor) -> Tensor:
    """E[max(|Z| - u, 0)] of a standard normal Z, u >= 0. The scaled erfc keeps digits far out."""
    density = 2 / math.sqrt(2 * math.pi) * (-u.square() / 2).exp()
    return density * (1 - u * math.sqrt(math.pi / 2) * torch.special.erfcx(u / math.sqrt(2)))


class BarDistribution(Distribution):
    """A histogram density: bar k holds the probability ``softmax(logits)[k]``, spread evenly over its width.

    With half-normal tails the first and last bar are half-normals that point outwards from ``borders[1]`` and
    ``borders[-2]``, with half of their mass within the bar, so that every number has a density. All statistics are
    exact, differentiable in logits and borders, and computed in float64 inside.

    Args:
        logits: (..., K), also unnormalized, in any floating-point dtype. The batch shape is that of all but the last
            dimension.
        borders: (K + 1) rising numbers, shared by the batch; see :func:`quantile_borders`.
        tails: "half_normal", for which K >= 2, or "bounded": the support is then [borders[0], borders[-1]].
        validate_args: as for every torch distribution: whether numbers are checked, which reads the logits twice.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape is wrong or borders do not rise; with ``validate_args``, logits have NaN or a row without a
            finite largest entry, values are NaN or outside of bounded support, probabilities are outside of [0, 1].

    Reference: Muller et al., "Transformers Can Do Bayesian Inference", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> logits = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64).log()
        >>> bars = pk.amortized.BarDistribution(logits, torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0]))
        >>> round(bars.mean.item(), 6), round(bars.variance.item(), 6), round(bars.icdf(torch.tensor(0.975)).item(), 4)
        (0.579884, 3.399979, 5.549)
        >>> round(bars.expected_improvement(0.8).item(), 6)
        0.525178
    """

    arg_constraints = {"logits": constraints.real_vector, "borders": constraints.real_vector}  # noqa: RUF012 - torch's
    has_rsample = True

    def __init__(
        self, logits: Tensor, borders: Tensor, tails: str = "half_normal", validate_args: bool | None = None
    ) -> None:
        checks.float_tensor(OP, "logits", logits)
        check_borders(OP, borders, logits, tails)
        self.logits, self.borders, self.tails = logits, borders, tails
        super().__init__(logits.shape[:-1], validate_args=False)
        if validate_args is not None:
            self._validate_args = validate_args
        else:
            del self._validate_args  # torch's default
        if self._validate_args:
            top = logits.detach().amax(-1)
            if bool((wrong := ~top.isfinite()).any()):
                wanted = "rows without NaN whose largest entry is finite"
                raise ValueError(message(OP, "logits", wanted, checks.offender(top, wrong, "largest entry ")))

    def expand(self, batch_shape: Any, _instance: Any = None) -> BarDistribution:
        """The same distribution with a larger batch shape; no numbers are copied."""
        new = self._get_checked_instance(BarDistribution, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits, new.borders, new.tails = self.logits.expand(*batch_shape, -1), self.borders, self.tails
        super(BarDistribution, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """All numbers, or those from the first to the last border."""
        if self.tails == "half_normal":
            return constraints.real
        return constraints.interval(self.borders[0], self.borders[-1])

    # --- shapes: a value (*sample, *batch) becomes (*batch, S), beside tables (*batch, K) ---

    def _number(self, name: str, value: Any) -> Tensor:
        """A tensor of the results' dtype; ``value`` may be a number."""
        if not isinstance(value, Tensor):
            value = torch.tensor(checks.number(OP, name, value), dtype=self._dtype, device=self.logits.device)
        return value if value.is_floating_point() else value.to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return wide_dtype(self.logits, self.borders)

    def _columns(self, value: Tensor) -> tuple[Tensor, torch.Size]:
        """The value as (*batch, S) float64, and its full shape."""
        shape = torch.broadcast_shapes(value.shape, self._batch_shape)
        lead = len(shape) - len(self._batch_shape)
        count = math.prod(shape[:lead])
        return value.double().expand(shape).reshape(count, *shape[lead:]).movedim(0, -1).contiguous(), shape

    def _result(self, columns: Tensor, shape: torch.Size, *values: Tensor) -> Tensor:
        dtype = wide_dtype(self.logits, self.borders, *values)
        return columns.movedim(-1, 0).reshape(shape).to(dtype)

    @staticmethod
    def _at(table: Tensor, index: Tensor) -> Tensor:
        """Entries (*batch, S) of a table (*batch, K)."""
        return table.expand(*index.shape[:-1], -1).gather(-1, index)

    # --- the bars in float64 ---

    def _log_probs(self) -> Tensor:
        """(..., K); finite also for bars of probability zero, so that p log p has a gradient."""
        return self.logits.double().log_softmax(-1).clamp(min=torch.finfo(torch.float64).min)

    def _bars(self) -> tuple[Tensor, Tensor, Tensor]:
        """Borders (K + 1), probabilities (..., K), and the probability before each bar (..., K + 1)."""
        p = self.logits.double().softmax(-1)
        total = p.cumsum(-1)
        return self.borders.double(), p, torch.nn.functional.pad(total / total[..., -1:], (1, 0))

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each bar (K)."""
        b = self.borders.double()
        width = b.diff()
        means, variances = b[:-1] + width / 2, width.square() / 12
        if self.tails == "half_normal":
            ends = torch.stack([b[1] - SCALE * width[0] * ROOT_2_PI, b[-2] + SCALE * width[-1] * ROOT_2_PI])
            spread = (SCALE * width[:: max(len(width) - 1, 1)]).square() * (1 - ROOT_2_PI**2)
            means = torch.cat([ends[:1], means[1:-1], ends[1:]])
            variances = torch.cat([spread[:1], variances[1:-1], spread[1:]])
        return means, variances

    def _mirrored(self) -> BarDistribution:
        """The distribution of -y."""
        return BarDistribution(self.logits.flip(-1), -self.borders.flip(-1), self.tails, validate_args=False)

    # --- statistics ---

    @property
    def probs(self) -> Tensor:
        """(..., K) probabilities of the bars."""
        return self.logits.double().softmax(-1).to(self._dtype)

    @property
    def mean(self) -> Tensor:
        """The exact mean."""
        return (self._bars()[1] * self._moments()[0]).sum(-1).to(self._dtype)

    @property
    def variance(self) -> Tensor:
        """The exact variance."""
        p, (means, variances) = self._bars()[1], self._moments()
        away = means - (p * means).sum(-1, keepdim=True)
        return (p * (variances + away.square())).sum(-1).to(self._dtype)

    @property
    def mode(self) -> Tensor:
        """The middle of the bar of the highest density; of a half-normal tail, its inner border."""
        b = self.borders.double()
        peaks = b[:-1] + b.diff() / 2
        if self.tails == "half_normal":
            peaks = torch.cat([b[1:2], peaks[1:-1], b[-2:-1]])
        bars = torch.arange(len(peaks), device=b.device)
        heights = self._log_probs() + log_density_in_bar(peaks, bars, b, self.tails)
        return peaks[heights.argmax(-1)].to(self._dtype)

    def entropy(self) -> Tensor:
        """The exact differential entropy in nats."""
        within = self.borders.double().diff().log()
        if self.tails == "half_normal":
            tail = within + 0.5 * math.log(math.pi * SCALE**2 / 2) + 0.5
            within = torch.cat([tail[:1], within[1:-1], tail[-1:]])
        log_p = self._log_probs()
        return (log_p.exp() * (within - log_p)).sum(-1).to(self._dtype)

    # --- densities and quantiles ---

    def _validate_sample(self, value: Tensor) -> None:
        check_targets(OP, "value", value, self.borders, self.tails)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value`` (..., *batch_shape). Values of the batch shape go through ``ops.bar_log_prob``; more
        for each row share one softmax."""
        value = self._number("value", value)
        if self._validate_args:
            self._validate_sample(value)
        if value.shape == self._batch_shape:
            return apply(self.logits, value, self.borders, self.tails)
        columns, shape = self._columns(value)
        borders = self.borders.double()
        index = bars_of(columns, borders)
        log_p = self._at(self.logits.double().log_softmax(-1), index)
        return self._result(log_p + log_density_in_bar(columns, index, borders, self.tails), shape, value)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of being at most ``value`` (..., *batch_shape); 0 and 1 outside of bounded support."""
        value = self._number("value", value)
        if self._validate_args:
            check_targets(OP, "value", value, self.borders, "half_normal")  # any number will do
        (y, shape), (b, p, before) = self._columns(value), self._bars()
        index = bars_of(y, b)
        width = b.diff()[index]
        share = ((y - b[index]) / width).clamp(0, 1)
        if self.tails == "half_normal":
            tail, distance = tail_distance(y, index, b)
            z = distance / (SCALE * width * math.sqrt(2))
            share = torch.where(tail, torch.where(index == 0, z.erfc(), z.erf()), share)
        return self._result(self._at(before, index) + self._at(p, index) * share, shape, value)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of each probability ``value`` (..., *batch_shape), differentiable in all arguments."""
        value = self._number("value", value)
        if self._validate_args and bool((wrong := ~((value >= 0) & (value <= 1))).any()):
            raise ValueError(message(OP, "value", "probabilities in [0, 1]", checks.offender(value, wrong)))
        return self._icdf(value)

    def _icdf(self, value: Tensor) -> Tensor:
        (u, shape), (b, p, before) = self._columns(value), self._bars()
        last = p.shape[-1] - 1
        ends = before[..., 1:].detach().expand(*u.shape[:-1], -1).contiguous()
        index = torch.searchsorted(ends, u.detach()).clamp_(max=last)
        index = torch.where(u >= 1, last, index)
        width, mass = b.diff()[index], self._at(p, index).clamp(min=torch.finfo(torch.float64).tiny)
        y = torch.lerp(b[index], b[index + 1], ((u - self._at(before, index)) / mass).clamp(0, 1))  # never outside
        if self.tails == "half_normal":
            left, right = index == 0, index == last
            outside = (torch.where(left, u, 1 - u) / mass).clamp(max=1)  # share of the tail that lies further out
            z = torch.special.ndtri(torch.where(left | right, outside, 1) / 2) * SCALE * width
            y = torch.where(left, b[1] + z, torch.where(right, b[-2] - z, y))
        return self._result(y, shape, value)

    def quantile(self, q: float | list[float] | Tensor) -> Tensor:
        """Quantiles of probabilities, a number or (Q): shape (*batch_shape) or (Q, *batch_shape)."""
        probabilities = torch.as_tensor(q, dtype=torch.float64, device=self.logits.device)
        if probabilities.dim() > 1:
            raise ValueError(message(OP, "q", "a number or a list", f"shape {tuple(probabilities.shape)}"))
        found = self.icdf(probabilities.reshape(*probabilities.shape, *[1] * len(self._batch_shape)))
        return found.to(self._dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Samples by inversion of the cdf: their gradients are exact, in logits and borders."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=torch.float64, device=self.logits.device)
        return self._icdf(u.clamp_(min=2.0**-54)).to(self._dtype)

    # --- improvements over a best value so far ---

    def expected_improvement(self, best: float | Tensor, maximize: bool = True) -> Tensor:
        """Exact E[max(y - best, 0)], or of max(best - y, 0) if ``maximize`` is False. ``best`` broadcasts with the
        batch shape."""
        best = self._number("best", best)
        if self._validate_args:
            checks.finite(OP, "best", best)
        if not maximize:
            return self._mirrored().expected_improvement(-best)
        b, f, p = self.borders.double(), best.double()[..., None], self._bars()[1]
        width, cut = b.diff(), torch.minimum(torch.maximum(f, b[:-1]), b[1:])
        gain = (b[1:] - cut) * ((b[1:] + cut) / 2 - f) / width
        if self.tails == "half_normal":
            scales = SCALE * width
            below, above = (b[1] - f) / scales[0], (b[-2] - f) / scales[-1]
            left = torch.where(below > 0, below - ROOT_2_PI + _excess(below.clamp(min=0)), 0) * scales[0]
            right = torch.where(above >= 0, above + ROOT_2_PI, _excess((-above).clamp(min=0))) * scales[-1]
            gain = torch.cat([left, gain[..., 1:-1], right], -1)
        return (p * gain).sum(-1).to(wide_dtype(self.logits, self.borders, best))

    def probability_of_improvement(self, best: float | Tensor, maximize: bool = True) -> Tensor:
        """Exact P(y > best), or P(y < best) if ``maximize`` is False. ``best`` broadcasts with the batch shape."""
        best = self._number("best", best)
        if self._validate_args:
            checks.finite(OP, "best", best)
        return self._mirrored().cdf(-best) if maximize else self.cdf(best)
