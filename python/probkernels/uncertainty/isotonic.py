"""Utilities into probabilities by their order alone: a non-decreasing map, fitted to how often options are right."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from .._core import checks
from ._fitted import FittedMap
from .conversions import revealed_gap
from .scaling import check_calibration_set, check_logits

SCORES = ("gap", "utility")


class IsotonicConversion(FittedMap):
    """Makes probabilities of utilities by their order: how often an option of such a score is right.

    A non-decreasing piecewise linear map, fitted with scikit-learn's ``IsotonicRegression`` to all N * C options of
    held-out samples: 1 for the label, 0 for others.

    Args:
        score: what the map takes. "gap", :func:`revealed_gap`, ignores an offset common to all options of a sample, as
            logits have. "utility" itself is compared across samples; on the samples of the fit the result is then the
            same for every increasing function of the utilities, such as their third power.

    Attributes:
        scores: ends of the linear pieces (K,); None before :meth:`fit`.
        frequencies: the map at these scores (K,).

    Raises:
        ImportError: scikit-learn is not installed; only :meth:`fit` needs it.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import IsotonicConversion
        >>> utility = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> conversion = IsotonicConversion().fit(utility, torch.tensor([0, 0, 1, 1]))  # three of four are right
        >>> conversion(utility)[0].exp()
        tensor([0.7500, 0.2500])
    """

    scores: Tensor | None
    frequencies: Tensor | None

    def __init__(self, score: str = "gap") -> None:
        super().__init__("scores", "frequencies")
        checks.one_of("IsotonicConversion", "score", score, SCORES)
        self.score = score

    def get_extra_state(self) -> Tensor:
        """Which score the map takes, for ``state_dict``."""
        return torch.tensor(SCORES.index(self.score))

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the score over from ``load_state_dict``."""
        self.score = SCORES[int(state)]

    def fit(self, utility: Tensor, labels: Tensor) -> IsotonicConversion:
        """Fits the map to finite utilities (N, C), C >= 2, and labels (N,) that can be trusted; returns itself."""
        if importlib.util.find_spec("sklearn") is None:
            hint = "pip install 'probkernels[report]'"
            raise ImportError(f"IsotonicConversion.fit: needs scikit-learn, which is not installed. Hint: {hint}")
        from sklearn.isotonic import IsotonicRegression

        given, classes = check_calibration_set("IsotonicConversion.fit", utility, labels, "utility")
        right = torch.nn.functional.one_hot(classes, given.shape[1])
        regression = IsotonicRegression(y_min=0, y_max=1)
        regression.fit(self._scores(given).double().flatten().cpu().numpy(), right.double().flatten().cpu().numpy())
        ends = (regression.X_thresholds_, regression.y_thresholds_)
        scores, frequencies = (torch.from_numpy(values) for values in ends)
        self._keep(given, scores=scores, frequencies=frequencies)
        return self

    def _scores(self, wide: Tensor) -> Tensor:
        return revealed_gap(wide) if self.score == "gap" else wide

    def frequency(self, utility: Tensor) -> Tensor:
        """Utilities (N, C) -> how often an option of such a score is right (N, C). Rows need not sum to 1."""
        self._check_fitted()
        assert self.scores is not None and self.frequencies is not None
        op = "IsotonicConversion"
        wide = check_logits(op, utility, name="utility").detach()
        checks.same_device(op, "utility", wide, self.scores, "scores")
        x = self._scores(wide).to(self.scores.dtype)
        high = torch.searchsorted(self.scores, x.contiguous()).clamp(max=len(self.scores) - 1)  # the first one >= x
        low = (high - 1).clamp_min(0)
        width = self.scores[high] - self.scores[low]
        share = ((self.scores[high] - x) / width.where(width > 0, 1)).clamp(0, 1)  # 0 at the upper end, exactly
        return torch.lerp(self.frequencies[high], self.frequencies[low], share)

    def forward(self, utility: Tensor) -> Tensor:
        """Utilities (N, C) -> log-probabilities (N, C): frequencies divided by their sum. Without a gradient.

        A row of which no option was ever right becomes uniform."""
        found = self.frequency(utility)
        total = found.sum(1, keepdim=True)
        return (found / total.where(total > 0, 1)).where(total > 0, 1 / found.shape[1]).log()
