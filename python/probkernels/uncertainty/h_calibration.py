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
BLOCK = 1 << 22  # events of all sets that k-means looks at together


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


def _window_sums(values: Tensor, half: int) -> Tensor:
    """The sum of each value, ``half`` values before it and ``half`` after it, as far as they exist."""
    size = len(values)
    half = min(half, size)
    prefix = values.new_zeros(size + 1)  # prefix[n]: the sum of the first n values
    torch.cumsum(values, 0, out=prefix[1:])
    sums = prefix[-1:].repeat(size)
    sums[: size - half] = prefix[half + 1 :]
    sums[half:] -= prefix[: size - half]
    return sums


def clusters_1d(
    ordered: Tensor, kept: Tensor, count: int, steps: int = LLOYD_STEPS, centers: Tensor | None = None
) -> Tensor:
    """Sizes (S, count) of the clusters of k-means on S subsets of values (n,) in ascending order, by Lloyd's algorithm.

    A cluster is a range of the values, so that a step takes ``count`` binary searches for each subset; ``kept`` (S, n)
    tells what is in it. It starts from quantiles, unless ``centers`` (S, count), in ascending order, are given. A
    cluster that gets no value keeps its center.
    """
    number = pad(kept.cumsum(1), (1, 0))  # of what is kept among the first n
    sums = pad((kept * ordered).cumsum(1), (1, 0))
    if centers is None:
        places = (torch.arange(count, device=ordered.device) * 2 + 1) * number[:, -1:] // (2 * count)
        centers = ordered[torch.searchsorted(number, places, right=True) - 1]
    ends = number.new_zeros(len(kept), count + 1)
    ends[:, -1] = len(ordered)
    for _ in range(steps):
        middles = (centers[:, 1:] + centers[:, :-1]) / 2
        ends[:, 1:-1] = torch.searchsorted(ordered, middles, right=True)  # a value in the middle belongs to the left
        sizes = number.gather(1, ends).diff()
        centers = (sums.gather(1, ends).diff() / sizes).where(sizes > 0, centers)
    return number.gather(1, ends).diff()


def _of_events(residual: Tensor, sizes: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    """The loss of events in ascending order of their probabilities, and its gradient; float64. ``sizes`` are those of
    the clusters, whose weights are equal."""
    half, divisor = settings.window // 2, residual.new_tensor(settings.window + 1)
    if settings.edges == "valid":
        divisor = _window_sums(torch.ones_like(residual), half)
    # Rounding makes noise of a sum that is 0. Its sign would be a gradient.
    noise = torch.linalg.vector_norm(residual, 1).item() * 2.0**-52 / (settings.window + 1)
    excess = torch.nn.functional.softshrink(_window_sums(residual, half) / divisor, max(settings.eps, noise))
    if sizes is None:
        weight = residual.new_full((len(residual),), 1 / len(residual))
    else:
        weight = (1 / (len(sizes) * sizes.clamp(min=1).double())).repeat_interleave(sizes)
    loss = weight.dot(excess.abs())
    return loss, _window_sums(weight.mul_(excess.sign_()).div_(divisor), half)


def _left_out(label: Tensor, classes: int, settings: Settings) -> dict[int, float]:
    """The classes to leave out, and how often each set of events counts; -1 leaves out none."""
    each = settings.leave_one_out
    if each == "auto":
        each = classes <= MOST_CLASSES
    if not each:
        return {-1: 1.0}
    present = label.bincount(minlength=classes).tolist()
    # A class without samples leaves all of them; without the only class nothing is left, which counts 0.
    sets = {c: 1 / classes for c, count in enumerate(present) if 0 < count < len(label)}
    return {**sets, -1: present.count(0) / classes} if 0 in present else sets


def value_and_gradient(probs: Tensor, labels: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """The loss of probabilities (N, C) and its gradient (N, C), both float64. Nothing is checked."""
    classes = probs.shape[1]
    ordered, order = probs.detach().flatten().sort(stable=True)  # equal ones in the order of samples, on every machine
    ordered, label = ordered.double(), labels[order.div(classes, rounding_mode="floor")]
    residual = ordered - (order % classes == label).double()
    loss, slopes = ordered.new_zeros(()), torch.zeros_like(ordered)
    sets = list(_left_out(label, classes, settings).items())
    step = max(BLOCK // len(ordered), 1)
    for some in (sets[start : start + step] for start in range(0, len(sets), step)):
        kept = label != torch.tensor([c for c, _ in some], device=label.device)[:, None]  # sorted, as all of them are
        sizes = None if settings.clusters is None else clusters_1d(ordered, kept, settings.clusters)
        for n, (_, share) in enumerate(some):
            chosen = kept[n].nonzero()[:, 0]
            value, slope = _of_events(residual[chosen], None if sizes is None else sizes[n], settings)
            loss = loss + share * value
            slopes.index_add_(0, chosen, slope, alpha=share)
    gradient = torch.empty_like(slopes)
    gradient[order] = slopes
    return loss, gradient.view(probs.shape)


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
