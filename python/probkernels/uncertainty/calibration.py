"""How far probabilities are from frequencies: binned, cumulative and smoothed calibration errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from ._binning import EQUAL, mass_sums, sorted_columns, width_edges, width_sums
from ._inputs import MODES, Samples, columns, events, samples

NORMS = ("l1", "l2")
CELLS = 4096  # of the grid that smoothing works on
HALVINGS = 40  # of the interval that holds the width of smoothing


class ReliabilityBins(NamedTuple):
    """What a reliability diagram shows. With ``mode="class_wise"`` each field has a leading dimension of C classes.

    Attributes:
        edges: (bins + 1,) edges. Bin b is (edges[b], edges[b + 1]]; the first one holds a probability of 0 too.
        confidence: (bins,) mean probability in each bin. NaN in an empty bin.
        accuracy: (bins,) frequency of the event in each bin. NaN in an empty bin.
        count: (bins,) number of samples, or sum of their weights, in each bin.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import reliability
        >>> reliability(torch.tensor([0.1, 0.3, 1.0]), torch.tensor([0, 1, 1]), bins=2).count
        tensor([2., 1.])
    """

    edges: Tensor
    confidence: Tensor
    accuracy: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


def check_bins(op: str, bins: int, equal: str, mode: str) -> None:
    """Checks the options of binned metrics."""
    checks.integer(op, "bins", bins)
    checks.one_of(op, "equal", equal, EQUAL)
    checks.one_of(op, "mode", mode, MODES)


def bin_sums(given: Samples, bins: int, equal: str) -> tuple[Tensor, Tensor]:
    """Sums (K, 3, bins) of weight, probability and outcome for K events, and edges (K, bins + 1)."""
    if equal == "mass":
        return mass_sums(given, bins)
    sums = width_sums(given, bins)
    return sums, width_edges(given.probs, len(sums), bins)


def reliability_of(sums: Tensor, edges: Tensor, squeeze: bool) -> ReliabilityBins:
    """Diagram of bin sums, in the dtype of the edges."""
    mass, probs, hits = sums.unbind(1)
    fields = [edges, *(x.to(edges.dtype) for x in (probs / mass, hits / mass, mass))]  # 0/0 = NaN in an empty bin
    return ReliabilityBins(*(x[0] if squeeze else x for x in fields))


def ece_of(sums: Tensor, weighted: bool) -> Tensor:
    """Mean over events of the mean over bins of the gap."""
    mass, probs, hits = sums.unbind(1)
    gaps = (probs - hits).abs()
    if weighted:
        return (gaps.sum(1) / mass.sum(1)).mean()
    filled = mass > 0
    return ((gaps / mass.where(filled, 1)).sum(1) / filled.sum(1)).mean()


def mce_of(sums: Tensor) -> Tensor:
    """Largest gap of a bin."""
    mass, probs, hits = sums.unbind(1)
    return ((probs - hits).abs() / mass.where(mass > 0, 1)).amax()


def debiased_of(sums: Tensor, norm: str) -> Tensor:
    """Mean over events of the calibration error without the part that is due to few samples in a bin."""
    mass, probs, hits = sums.unbind(1)
    safe = mass.where(mass > 0, 1)
    gap, frequency = ((probs - hits) / safe).abs(), hits / safe
    spread, share = frequency * (1 - frequency), mass / mass.sum(1, keepdim=True)
    if norm == "l2":
        squares = torch.where(mass > 1, gap.square() - spread / (mass - 1).where(mass > 1, 1), 0)
        return (share * squares).sum(1).clamp(min=0).sqrt().mean()
    deviation = (spread / safe).sqrt().clamp(min=1e-150)
    ratio = gap / deviation  # of a folded normal variable: its mean is what noise makes of the gap
    noisy = deviation * math.sqrt(2 / math.pi) * (-ratio.square() / 2).exp() + gap * (ratio / math.sqrt(2)).erf()
    return (share * (2 * gap - noisy)).sum(1).clamp(min=0).mean()


def ks_of(given: Samples) -> Tensor:
    """Mean over events of the largest cumulative difference."""
    found = []
    for probs, hit in columns(given):
        ordered, outcome, weight = sorted_columns(probs, hit, given.weight)
        sums = (weight * (ordered - outcome)).cumsum(0).abs()
        inside = torch.nn.functional.pad(ordered[1:] == ordered[:-1], (0, 1))  # of a group of equal probabilities
        found.append(sums.where(~inside, 0).amax() / weight.sum())
    return torch.stack(found).mean()


def residuals(given: Samples) -> Tensor:
    """Sums (K, CELLS + 1) of outcome minus probability in each cell of a fine grid; the last entry is the weight."""
    found = []
    for probs, hit in columns(given):
        cell = (probs.double() * CELLS).long().clamp(max=CELLS - 1)
        sums = given.weight.new_zeros(CELLS + 1).scatter_add_(0, cell, given.weight * (hit.double() - probs.double()))
        sums[-1] = given.weight.sum()
        found.append(sums)
    return torch.stack(found)


def smooth_of(sums: Tensor) -> Tensor:
    """Mean over events of the error at the width of smoothing that equals the error."""
    mass = sums[:, :-1] / sums[:, -1:]
    # Reflection at 0 and 1 makes the residuals even and periodic, so that smoothing is a product of spectra.
    spectrum = torch.fft.rfft(torch.cat([mass, mass.flip(1)], 1))
    frequency = math.pi * torch.arange(spectrum.shape[1], device=sums.device, dtype=sums.dtype)

    def error(width: Tensor) -> Tensor:
        kernel = (-(width[:, None] * frequency).square() / 2).exp()
        return torch.fft.irfft(spectrum * kernel, n=2 * CELLS)[:, :CELLS].abs().sum(1)

    low, high = torch.zeros_like(mass[:, 0]), torch.ones_like(mass[:, 0])
    for _ in range(HALVINGS):  # the error falls with the width, so that one width equals its error
        middle = (low + high) / 2
        above = error(middle) > middle
        low, high = middle.where(above, low), high.where(above, middle)
    return error(high).mean()


def _events(op: str, probs: Tensor, labels: Tensor, weight: Tensor | None, mode: str) -> Samples:
    checks.one_of(op, "mode", mode, MODES)
    return events(samples(op, probs, labels, weight), mode)


def reliability(
    probs: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    *,
    bins: int = 15,
    equal: str = "width",
    mode: str = "auto",
) -> ReliabilityBins:
    """Edges, mean probability, frequency and count of each bin: the data of a reliability diagram.

    Args:
        probs: (N,) probabilities of class 1, or (N, C).
        labels: (N,) classes, integer or bool.
        sample_weight: (N,) weights >= 0. A weight of 2 equals a repeated sample.
        bins: number of bins.
        equal: "width" divides [0, 1]. "mass" puts an equal weight into each bin, as far as equal probabilities, which
            share a bin, allow: with N distinct ones bin b ends after the first ``floor((b + 1) N / bins)``.
        mode: "auto" asks about class 1 for (N,) and about the predicted class for (N, C). "top_label" asks about the
            predicted class (the first one of a tie) always, "class_wise" about every class.

    Returns:
        :class:`ReliabilityBins` of the dtype of ``probs`` (float32 for half precision).

    Raises:
        TypeError: an argument of another dtype.
        ValueError: entries outside [0, 1], rows that do not sum to 1, labels out of range, no samples, unequal shapes.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import reliability
        >>> p, y = torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([0, 1, 1, 1])
        >>> reliability(p, y, bins=2).accuracy
        tensor([0.5000, 1.0000])
    """
    check_bins("reliability", bins, equal, mode)
    given = _events("reliability", probs, labels, sample_weight, mode)
    return reliability_of(*bin_sums(given, bins, equal), mode != "class_wise")


def ece(
    probs: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    *,
    bins: int = 15,
    equal: str = "width",
    mode: str = "auto",
    weighted: bool = True,
) -> Tensor:
    """Expected calibration error: the mean over bins of \\|mean probability − frequency\\|.

    Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599, use the defaults. Liu et al., ICML 2022,
    https://arxiv.org/abs/2111.10734, use ``equal="mass", weighted=False``. The estimate is too large for few samples
    in a bin: see :func:`debiased_ece`.

    ``probs``, ``labels``, ``sample_weight``, ``bins``, ``equal`` and the errors are those of :func:`reliability`.

    Args:
        mode: that of :func:`reliability`; "class_wise" gives the mean over classes.
        weighted: whether bins count by their weight, or each bin that is not empty equally.

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import ece
        >>> ece(torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([0, 1, 1, 1]), bins=2)
        tensor(0.1875)
    """
    check_bins("ece", bins, equal, mode)
    given = _events("ece", probs, labels, sample_weight, mode)
    return ece_of(bin_sums(given, bins, equal)[0], weighted).to(given.probs.dtype)


def mce(
    probs: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    *,
    bins: int = 15,
    equal: str = "width",
    mode: str = "auto",
) -> Tensor:
    """Maximum calibration error: the largest \\|mean probability − frequency\\| of a bin.

    ``probs``, ``labels``, ``sample_weight``, ``bins``, ``equal`` and the errors are those of :func:`reliability`.

    Args:
        mode: that of :func:`reliability`; "class_wise" gives the maximum over classes.

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import mce
        >>> mce(torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([0, 1, 1, 1]), bins=2)
        tensor(0.2500)
    """
    check_bins("mce", bins, equal, mode)
    given = _events("mce", probs, labels, sample_weight, mode)
    return mce_of(bin_sums(given, bins, equal)[0]).to(given.probs.dtype)


def debiased_ece(
    probs: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    *,
    bins: int = 15,
    equal: str = "mass",
    mode: str = "auto",
    norm: str = "l2",
) -> Tensor:
    """Calibration error less what few samples in a bin add to it.

    From Kumar, Liang and Ma, *Verified Uncertainty Calibration*, NeurIPS 2019, https://arxiv.org/abs/1909.10155. "l2"
    is the root of the mean squared gap, less ``f (1 - f) / (n - 1)`` in a bin of n samples and frequency f; a bin of
    at most one sample counts 0. "l1" is the mean gap, less what normal noise of variance ``f (1 - f) / n`` adds, by
    its formula and not by drawing. A negative estimate is returned as 0.

    ``probs``, ``labels``, ``sample_weight``, ``bins``, ``equal`` and the errors are those of :func:`reliability`.

    Args:
        mode: that of :func:`reliability`; "class_wise" gives the mean over classes.
        norm: "l2" or "l1".

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import debiased_ece
        >>> p, y = torch.full((100,), 0.9), torch.arange(100) < 50
        >>> debiased_ece(p, y, bins=1)  # the gap of 0.4 squared, less 0.25 / 99
        tensor(0.3968)
    """
    check_bins("debiased_ece", bins, equal, mode)
    checks.one_of("debiased_ece", "norm", norm, NORMS)
    given = _events("debiased_ece", probs, labels, sample_weight, mode)
    return debiased_of(bin_sums(given, bins, equal)[0], norm).to(given.probs.dtype)


def ks(probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None, *, mode: str = "auto") -> Tensor:
    """Kolmogorov-Smirnov calibration error: the largest difference of cumulative probability and frequency. No bins.

    From Gupta et al., *Calibration of Neural Networks using Splines*, ICLR 2021, https://arxiv.org/abs/2006.12800.

    ``probs``, ``labels``, ``sample_weight`` and ``mode`` are those of :func:`reliability`, and so are the errors; with
    "class_wise" the result is the mean over classes.

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import ks
        >>> ks(torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([0, 1, 1, 1]))
        tensor(0.1875)
    """
    given = _events("ks", probs, labels, sample_weight, mode)
    return ks_of(given).to(given.probs.dtype)


def smooth_ece(probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None, *, mode: str = "auto") -> Tensor:
    """Smooth calibration error: residuals are smoothed by a Gaussian instead of averaged in bins.

    From Błasiok and Nakkiran, *Smooth ECE*, ICLR 2024, https://arxiv.org/abs/2309.12236. The Gaussian is reflected at
    0 and 1. Its width is the one that equals the error, so that nothing is left to choose. Probabilities are rounded
    to 4096 cells; no sort is needed.

    ``probs``, ``labels``, ``sample_weight`` and ``mode`` are those of :func:`reliability`, and so are the errors; with
    "class_wise" the result is the mean over classes.

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import smooth_ece
        >>> smooth_ece(torch.full((4,), 0.25), torch.tensor([0, 1, 1, 1]))
        tensor(0.5000)
    """
    given = _events("smooth_ece", probs, labels, sample_weight, mode)
    return smooth_of(residuals(given)).to(given.probs.dtype)
