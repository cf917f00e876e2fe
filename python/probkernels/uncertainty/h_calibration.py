"""The loss of h-calibration: one sort, window sums and k-means by prefix sums, and a gradient in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._core import checks
from .._core.errors import message
from ._inputs import samples

LEAVE_ONE_OUT = ("auto", True, False)
EDGES = ("zero", "valid")
MOST_CLASSES = 50  # up to which "auto" leaves each class out once: the cost is quadratic in the number of classes
LLOYD_STEPS = 25


class Settings(NamedTuple):
    """Options of the loss. See :func:`h_calibration_loss`."""

    window: int = 200
    eps: float = 0.0
    clusters: int | None = 15
    leave_one_out: bool | str = "auto"
    edges: str = "zero"


def check_settings(op: str, given: Settings) -> None:
    """Checks the options of the loss."""
    window = checks.integer(op, "window", given.window, 0)
    if window % 2:
        hint = "an event is in the middle of its window"
        raise ValueError(message(op, "window", "an even number", str(window), hint))
    checks.non_negative(op, "eps", given.eps)
    if given.clusters is not None:
        checks.integer(op, "clusters", given.clusters, wanted="a number >= 1 or None")
    checks.one_of(op, "leave_one_out", given.leave_one_out, LEAVE_ONE_OUT)
    checks.one_of(op, "edges", given.edges, EDGES)


def _prefix(values: Tensor) -> Tensor:
    """prefix[n]: the sum of the first n values."""
    return pad(values.cumsum(0), (1, 0))


def _window_sums(values: Tensor, half: int) -> Tensor:
    """The sum of each value, ``half`` values before it and ``half`` after it, as far as they exist."""
    prefix, half = _prefix(values), min(half, len(values))
    # sums[i] = prefix[min(i + half + 1, n)] - prefix[max(i - half, 0)]
    ends = torch.cat([prefix[half + 1 :], prefix[-1:].expand(min(half, len(values)))])
    starts = torch.cat([prefix.new_zeros(half), prefix[: len(values) - half]])
    sums = ends - starts
    # Rounding makes noise of a sum that is 0; its sign would be a gradient.
    return sums.masked_fill_(sums.abs() <= torch.linalg.vector_norm(prefix, torch.inf) * 2.0**-50, 0)


def clusters_1d(ordered: Tensor, count: int, steps: int = LLOYD_STEPS, centers: Tensor | None = None) -> Tensor:
    """Ends (count,) of the clusters of k-means on values in ascending order, by Lloyd's algorithm.

    A cluster is a range of the values, so that a step takes ``count`` binary searches. It starts from quantiles, unless
    ``centers`` (count,), in ascending order, are given. A cluster that gets no value keeps its center.
    """
    size = len(ordered)
    if centers is None:
        places = (torch.arange(count, device=ordered.device) * 2 + 1) * size // (2 * count)
        centers = ordered[places]
    prefix = _prefix(ordered)
    ends = torch.full((count + 1,), size, device=ordered.device)
    ends[0] = 0
    for _ in range(steps):
        middles = (centers[1:] + centers[:-1]) / 2
        ends[1:-1] = torch.searchsorted(ordered, middles, right=True)  # a value in the middle belongs to the left
        sums, sizes = prefix[ends], ends[1:] - ends[:-1]
        centers = ((sums[1:] - sums[:-1]) / sizes).where(sizes > 0, centers)
    return ends[1:]


def _weights(ordered: Tensor, clusters: int | None) -> Tensor:
    """The weight of each event: equal, or equal sums for all clusters."""
    if clusters is None:
        return torch.full_like(ordered, 1 / len(ordered))
    sizes = pad(clusters_1d(ordered, clusters), (1, 0)).diff()
    return (1 / (clusters * sizes.clamp(min=1).double())).repeat_interleave(sizes)


def _of_events(ordered: Tensor, residual: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """The loss of events in ascending order of their probabilities, and its gradient; float64."""
    half = settings.window // 2
    if settings.edges == "valid":
        divisor = _window_sums(torch.ones_like(residual), half)
    else:
        divisor = residual.new_tensor(settings.window + 1)
    mean = _window_sums(residual, half) / divisor
    weight = _weights(ordered, settings.clusters)
    excess = mean.abs() - settings.eps
    loss = weight.dot(excess.clamp(min=0))
    slope = weight * mean.sign() * (excess > 0) / divisor
    return loss, _window_sums(slope, half)


def value_and_gradient(probs: Tensor, labels: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """The loss of probabilities (N, C) and its gradient (N, C), both float64. Nothing is checked."""
    rows, classes = probs.shape
    ordered, order = probs.detach().flatten().sort(stable=True)  # equal ones in the order of samples, on every machine
    ordered, label = ordered.double(), labels[order.div(classes, rounding_mode="floor")]
    residual = ordered - (order % classes == label).double()
    each = settings.leave_one_out
    if each == "auto":
        each = classes <= MOST_CLASSES
    if not each:
        loss, slopes = _of_events(ordered, residual, settings)
    else:
        loss, slopes = _leaving_out(ordered, residual, label, classes, settings)
    gradient = torch.empty_like(slopes)
    gradient[order] = slopes
    return loss, gradient.view(rows, classes)


def _leaving_out(
    ordered: Tensor, residual: Tensor, label: Tensor, classes: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    """The mean over classes of the loss without the samples of this class. What is left of sorted events is sorted."""
    loss, slopes = ordered.new_zeros(()), torch.zeros_like(ordered)
    present = label.bincount(minlength=classes).tolist()
    absent = present.count(0)
    if absent:  # each leaves all samples
        value, slope = _of_events(ordered, residual, settings)
        loss, slopes = absent * value, absent * slope
    for c, count in enumerate(present):
        if 0 < count < len(ordered):  # without the only class nothing is left, which counts 0
            kept = (label != c).nonzero()[:, 0]
            value, slope = _of_events(ordered[kept], residual[kept], settings)
            loss = loss + value
            slopes.index_add_(0, kept, slope)
    return loss / classes, slopes / classes


def h_calibration_loss(
    probs: Tensor,
    labels: Tensor,
    *,
    window: int = 200,
    eps: float = 0.0,
    clusters: int | None = 15,
    leave_one_out: bool | str = "auto",
    edges: str = "zero",
) -> Tensor:
    """The differentiable calibration error of h-calibration: over events of similar probability, the mean probability
    should be the frequency.

    From Huang et al., *h-calibration*, IEEE TPAMI 2025, https://arxiv.org/abs/2506.17968. Each of the C classes of each
    sample is an event. All events are sorted by probability. T is the mean of ``probability - outcome`` over the
    ``window`` nearest events and the event itself. The loss is the weighted mean of ``max(|T| - eps, 0)``. The order
    and the weights are constants for the gradient, as in the authors' code.

    Args:
        probs: (N, C) probabilities, or (N,) of class 1. Differentiable; the gradient is exact except where T changes
            its sign or two probabilities are equal, and the second derivative is 0.
        labels: (N,) classes, integer or bool.
        window: number of neighbors in the mean, an even number. The more, the less noise and the less detail.
        eps: errors up to this one are free.
        clusters: number of groups of similar probability (exact Lloyd steps of k-means, from quantiles). All groups
            weigh equally, so that the many small probabilities do not drown the others. None: all events weigh equally.
        leave_one_out: whether to take the mean of C losses, each without the samples of one class. "auto" does so for
            up to 50 classes; the cost grows with the square of C. The authors do so for up to some hundred classes.
        edges: what the windows at both ends lack counts as 0 ("zero", as in the authors' code), or the mean is over the
            events that exist ("valid").

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision). All sums are float64.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: an option out of range, entries outside [0, 1], rows that do not sum to 1, labels out of range, no
            samples, unequal shapes.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import h_calibration_loss
        >>> p = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.25, 0.35, 0.4]])
        >>> h_calibration_loss(p, torch.tensor([0, 1, 0]), window=2, clusters=None, leave_one_out=False)
        tensor(0.1407)
    """
    settings = Settings(window, eps, clusters, leave_one_out, edges)
    check_settings("h_calibration_loss", settings)
    given, classes, _ = samples("h_calibration_loss", probs, labels, None)
    if given.ndim == 1:
        given = torch.stack([1 - given, given], 1)
    value, gradient = value_and_gradient(given, classes, settings)
    # A linear function with this value and this gradient: all of autograd and torch.func can differentiate it.
    return value.to(given.dtype) + (gradient.to(given.dtype) * (given - given.detach())).sum()
