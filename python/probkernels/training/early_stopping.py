"""Early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._core import checks


@dataclass
class EarlyStopping:
    """Stops training when a figure that should fall, such as a validation loss, no longer improves.

    Args:
        patience: number of steps without a new best figure, at least 1, after which :attr:`stop` is True; None never
            stops.

    Raises:
        TypeError, ValueError: ``patience`` is not a whole number, or less than 1.

    Example:
        >>> from probkernels.training import EarlyStopping
        >>> stopping = EarlyStopping(patience=2)
        >>> [stopping.improved(n, loss) for n, loss in enumerate([3.0, 2.0, 2.5, 2.1])]
        [True, True, False, False]
        >>> stopping.best_step, stopping.stop
        (1, True)
    """

    patience: int | None = None
    best: float = math.inf
    best_step: int = -1
    last_step: int = -1

    def __post_init__(self) -> None:
        if self.patience is not None:
            checks.integer("EarlyStopping", "patience", self.patience)

    def improved(self, step: int, value: float) -> bool:
        """Records the figure of a step and returns whether it is the best so far.

        The first figure is the best, even an infinite one; NaN never is.
        """
        self.last_step, value = step, float(value)  # a tensor could change later
        first = self.best_step < 0 and not math.isnan(value)
        if not (first or value < self.best):
            return False
        self.best, self.best_step = value, step
        return True

    @property
    def stop(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.last_step - self.best_step >= self.patience
