"""Scores and ranks that are updated batch by batch and merge over the processes of torch.distributed."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from . import ranking, scores
from ._inputs import pair, samples, scored
from ._state import Metric, Sync, rows_of, samples_of


class _Mean(Metric):
    """Mean over samples: its state is the sum of weighted values and the sum of weights."""

    def _add_values(self, values: Tensor, weight: Tensor) -> None:
        if len(weight):
            self._add(torch.stack([(values.detach() * weight).sum(), weight.sum()]))

    def _fits(self, state: Tensor) -> bool:
        return state.shape == (2,)

    def compute(self) -> Tensor:
        """The mean over all samples of all processes, in float64."""
        total, weight = self._merged()
        return total / weight


class MSEp(_Mean):
    """:func:`mse_p` of all batches: mean squared distance from true probabilities.

    Args:
        sync: over which processes ``compute`` merges: True for all, False for none, or a process group.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import MSEp
        >>> metric = MSEp()
        >>> metric.update(torch.tensor([0.1, 0.4]), torch.tensor([0.2, 0.6]))
        >>> round(metric.compute().item(), 4)
        0.025
    """

    def update(self, probs: Tensor, true_probs: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch, which may be empty. The arguments are those of :func:`mse_p`."""
        p, true, weight = pair("MSEp.update", probs, true_probs, sample_weight, empty=True)
        self._check_dims(p)
        self._add_values(scores.squared_distance(p, true), weight)


class KLp(_Mean):
    """:func:`kl_p` of all batches: mean divergence from true probabilities, in nats.

    Args:
        reverse: gives KL(predicted || true).
        sync: over which processes ``compute`` merges: True for all, False for none, or a process group.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import KLp
        >>> metric = KLp()
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 1.0]))
        >>> round(metric.compute().item(), 4)
        0.3466
    """

    def __init__(self, reverse: bool = False, sync: Sync = True) -> None:
        super().__init__(sync)
        self.reverse = reverse

    def update(self, probs: Tensor, true_probs: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch, which may be empty. The arguments are those of :func:`kl_p`."""
        p, true, weight = pair("KLp.update", probs, true_probs, sample_weight, empty=True)
        self._add_values(scores.divergence(p, true, self.reverse), weight)


class Brier(_Mean):
    """:func:`brier` of all batches. ``sync`` is that of :class:`MSEp`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import Brier
        >>> metric = Brier()
        >>> metric.update(torch.tensor([0.5]), torch.tensor([0]))
        >>> metric.update(torch.tensor([1.0]), torch.tensor([1]))
        >>> metric.compute().item()
        0.125
    """

    def update(self, probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch, which may be empty. The arguments are those of :func:`brier`."""
        given = samples("Brier.update", probs, labels, sample_weight, empty=True)
        self._check_dims(given.probs)
        self._add_values(scores.brier_of(given), given.weight)


class NLL(_Mean):
    """:func:`nll` of all batches, in nats. ``sync`` is that of :class:`MSEp`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import NLL
        >>> metric = NLL()
        >>> metric.update(torch.tensor([0.5, 1.0]), torch.tensor([0, 1]))
        >>> round(metric.compute().item(), 4)
        0.3466
    """

    def update(self, probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch, which may be empty. The arguments are those of :func:`nll`."""
        given = samples("NLL.update", probs, labels, sample_weight, empty=True)
        self._add_values(scores.nll_of(given), given.weight)


class _Ranking(Metric):
    _rows = True

    def __init__(self, average: str = "macro", sync: Sync = True) -> None:
        super().__init__(sync)
        checks.one_of(self._name, "average", average, ranking.AVERAGES)
        self.average = average

    def update(self, scores: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch, which may be empty. The arguments are those of the function."""
        self._add(rows_of(scored(f"{self._name}.update", scores, labels, sample_weight, empty=True)))


class AUROC(_Ranking):
    """:func:`auroc` of all batches. It keeps all scores.

    Args:
        average: for scores (N, C): "macro" or "none".
        sync: over which processes ``compute`` merges: True for all, False for none, or a process group.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import AUROC
        >>> metric = AUROC()
        >>> metric.update(torch.tensor([0.1, 0.4]), torch.tensor([0, 0]))
        >>> metric.update(torch.tensor([0.4, 0.8]), torch.tensor([1, 1]))
        >>> metric.compute().item()
        0.875
    """

    def compute(self) -> Tensor:
        """The area over all samples of all processes, in float64."""
        return ranking.auroc_of(samples_of(self._merged()), self.average)


class AveragePrecision(_Ranking):
    """:func:`average_precision` of all batches. It keeps all scores. The arguments are those of :class:`AUROC`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import AveragePrecision
        >>> metric = AveragePrecision()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.8333
    """

    def compute(self) -> Tensor:
        """Average precision over all samples of all processes, in float64."""
        return ranking.average_precision_of(samples_of(self._merged()), self.average)
