"""Calibration errors that are updated batch by batch and merge over the processes of torch.distributed."""

from __future__ import annotations

from torch import Tensor

from .._core import checks
from . import calibration
from ._binning import mass_sums, width_edges, width_sums
from ._inputs import MODES, Samples, events, samples
from ._state import Metric, Sync, rows_of, samples_of
from .calibration import ReliabilityBins


class _Calibration(Metric):
    """Metric of events. ``mode`` is that of :func:`reliability`."""

    def __init__(self, mode: str, sync: Sync) -> None:
        super().__init__(sync)
        checks.one_of(self._name, "mode", mode, MODES)
        self.mode = mode

    def update(self, probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch, which may be empty. The arguments are those of the function."""
        given = samples(f"{self._name}.update", probs, labels, sample_weight, empty=True)
        if self.mode == "auto":
            self._check_dims(given.probs)
        self._add_events(events(given, self.mode))

    def _add_events(self, given: Samples) -> None:
        raise NotImplementedError


class KS(_Calibration):
    """:func:`ks` of all batches. It keeps all probabilities.

    Args:
        mode: "auto", "top_label" or "class_wise".
        sync: over which processes ``compute`` merges: True for all, False for none, or a process group.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import KS
        >>> metric = KS()
        >>> metric.update(torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([0, 1, 1, 1]))
        >>> metric.compute().item()
        0.1875
    """

    _rows = True

    def __init__(self, mode: str = "auto", sync: Sync = True) -> None:
        super().__init__(mode, sync)

    def _add_events(self, given: Samples) -> None:
        self._add(rows_of(given))

    def compute(self) -> Tensor:
        """The error over all samples of all processes, in float64."""
        return calibration.ks_of(samples_of(self._merged()))


class SmoothECE(_Calibration):
    """:func:`smooth_ece` of all batches. Its state are sums over 4096 cells. The arguments are those of :class:`KS`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import SmoothECE
        >>> metric = SmoothECE()
        >>> metric.update(torch.full((4,), 0.25), torch.tensor([0, 1, 1, 1]))
        >>> round(metric.compute().item(), 6)
        0.5
    """

    def __init__(self, mode: str = "auto", sync: Sync = True) -> None:
        super().__init__(mode, sync)

    def _add_events(self, given: Samples) -> None:
        if len(given.weight):
            self._add(calibration.residuals(given))

    def _fits(self, state: Tensor) -> bool:
        return state.ndim == 2 and state.shape[1] == calibration.CELLS + 1

    def compute(self) -> Tensor:
        """The error over all samples of all processes, in float64."""
        return calibration.smooth_of(self._merged())


class _Binned(_Calibration):
    """Metric of bins. With bins of equal width its state are sums over bins, with bins of equal mass all
    probabilities."""

    def __init__(self, bins: int, equal: str, mode: str, sync: Sync) -> None:
        super().__init__(mode, sync)
        calibration.check_bins(self._name, bins, equal, mode)
        self.bins, self.equal = bins, equal
        self._rows = equal == "mass"

    def _add_events(self, given: Samples) -> None:
        if self._rows:
            self._add(rows_of(given))
        elif len(given.weight):
            self._add(width_sums(given, self.bins))

    def _fits(self, state: Tensor) -> bool:
        return super()._fits(state) if self._rows else state.ndim == 3 and state.shape[1:] == (3, self.bins)

    def _bins(self) -> tuple[Tensor, Tensor]:
        state = self._merged()
        if self._rows:
            return mass_sums(samples_of(state), self.bins)
        return state, width_edges(state, len(state), self.bins)


class ECE(_Binned):
    """:func:`ece` of all batches.

    Args:
        bins: number of bins.
        equal: bins of equal "width" (kept as sums), or of equal "mass" (keeps all probabilities).
        mode: "auto", "top_label" or "class_wise".
        weighted: whether bins count by their weight, or each bin that is not empty equally.
        sync: over which processes ``compute`` merges: True for all, False for none, or a process group.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import ECE
        >>> metric = ECE(bins=2)
        >>> metric.update(torch.tensor([0.0, 0.5]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([0.75, 1.0]), torch.tensor([1, 1]))
        >>> metric.compute().item()
        0.1875
    """

    def __init__(
        self, bins: int = 15, equal: str = "width", mode: str = "auto", weighted: bool = True, sync: Sync = True
    ) -> None:
        super().__init__(bins, equal, mode, sync)
        self.weighted = weighted

    def compute(self) -> Tensor:
        """The error over all samples of all processes, in float64."""
        return calibration.ece_of(self._bins()[0], self.weighted)


class MCE(_Binned):
    """:func:`mce` of all batches. The arguments are those of :class:`ECE`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import MCE
        >>> metric = MCE(bins=2)
        >>> metric.update(torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([0, 1, 1, 1]))
        >>> metric.compute().item()
        0.25
    """

    def __init__(self, bins: int = 15, equal: str = "width", mode: str = "auto", sync: Sync = True) -> None:
        super().__init__(bins, equal, mode, sync)

    def compute(self) -> Tensor:
        """The error over all samples of all processes, in float64."""
        return calibration.mce_of(self._bins()[0])


class DebiasedECE(_Binned):
    """:func:`debiased_ece` of all batches. The other arguments are those of :class:`ECE`.

    Args:
        norm: "l2" or "l1".

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import DebiasedECE
        >>> metric = DebiasedECE(bins=1)
        >>> metric.update(torch.full((100,), 0.9), torch.arange(100) < 50)
        >>> round(metric.compute().item(), 4)
        0.3968
    """

    def __init__(
        self, bins: int = 15, equal: str = "mass", mode: str = "auto", norm: str = "l2", sync: Sync = True
    ) -> None:
        super().__init__(bins, equal, mode, sync)
        checks.one_of(self._name, "norm", norm, calibration.NORMS)
        self.norm = norm

    def compute(self) -> Tensor:
        """The error over all samples of all processes, in float64."""
        return calibration.debiased_of(self._bins()[0], self.norm)


class Reliability(_Binned):
    """:func:`reliability` of all batches. The arguments are those of :class:`ECE`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import Reliability
        >>> metric = Reliability(bins=2)
        >>> metric.update(torch.tensor([0.1, 0.3, 1.0]), torch.tensor([0, 1, 1]))
        >>> metric.compute().count.tolist()
        [2.0, 1.0]
    """

    def __init__(self, bins: int = 15, equal: str = "width", mode: str = "auto", sync: Sync = True) -> None:
        super().__init__(bins, equal, mode, sync)

    def compute(self) -> ReliabilityBins:
        """The bins of all samples of all processes, in float64."""
        return calibration.reliability_of(*self._bins(), self.mode != "class_wise")
