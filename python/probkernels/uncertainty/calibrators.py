"""h-calibration of a classifier: fits a map that keeps the order of logits, and selects among twelve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import EarlyStopping, Loop
from ._fitted import not_fitted
from .calibration import debiased_ece, ece
from .h_calibration import Settings, check_settings, value_and_gradient
from .mappings import CANDIDATES, MAPPINGS, SIZES, MonotoneNetwork, build
from .scaling import check_calibration_set, check_logits

KINDS = tuple(MAPPINGS)
SCALE = 1e5  # of the loss, as in the authors' code: keeps small gradients above Adam's own eps of 1e-8


def _nll(log_probs: Tensor, labels: Tensor) -> float:
    return nn.functional.nll_loss(log_probs.double(), labels).item()


SELECTORS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "dece": lambda log_probs, labels: debiased_ece(log_probs.exp(), labels).item(),
    "cwece": lambda log_probs, labels: ece(log_probs.exp(), labels, mode="class_wise").item(),
    "nll": _nll,
}


class Plan:
    """How :meth:`HCalibrator.fit` trains."""

    def __init__(self, epochs: int, batch_size: int, lr: float, patience: int | None, seed: int) -> None:
        op = "HCalibrator.fit"
        self.epochs = checks.integer(op, "epochs", epochs)
        self.batch_size = checks.integer(op, "batch_size", batch_size)
        checks.positive(op, "lr", lr)
        self.patience = patience if patience is None else checks.integer(op, "patience", patience)
        self.lr, self.seed = lr, checks.integer(op, "seed", seed, 0)

    def batches(self, count: int, generator: torch.Generator, device: torch.device) -> Iterator[Tensor | slice]:
        """Shuffled batches of about equal size, or all samples."""
        parts = -(-count // self.batch_size)
        if parts == 1:
            yield slice(None)
        else:
            yield from torch.randperm(count, generator=generator).to(device).tensor_split(parts)


class Best(NamedTuple):
    """The best epoch of a training: its score and likelihood loss, and the map's parameters."""

    score: tuple[float, float]
    state: dict[str, Tensor]


def train(
    map_: nn.Module,
    x: Tensor,
    labels: Tensor,
    plan: Plan,
    settings: Settings,
    selects: Sequence[str],
    progress: bool = False,
) -> dict[str, Best]:
    """Trains a map of log-probabilities. Returns the best epoch by each way to select: none changes the training."""
    optimizer = torch.optim.Adam(map_.parameters(), lr=plan.lr)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=20)
    stopping = EarlyStopping(plan.patience)
    generator = torch.Generator().manual_seed(plan.seed)
    best: dict[str, Best] = {}
    with Loop(plan.epochs, progress=progress, unit="epoch") as loop:
        for epoch in loop:
            for part in plan.batches(len(x), generator, x.device):
                probs = map_(x[part]).exp()
                loss, gradient = value_and_gradient(probs, labels[part], settings)
                checks.finite_loss("HCalibrator.fit", epoch, loss.item())
                optimizer.zero_grad()
                probs.backward(SCALE * gradient.to(probs.dtype))
                optimizer.step()
            with torch.no_grad():
                log_probs = map_(x)
                error, nll = ece(log_probs.exp(), labels).item(), _nll(log_probs, labels)
                for select in selects:
                    score = SELECTORS[select](log_probs, labels), nll
                    if select not in best or score < best[select].score:
                        best[select] = Best(score, {name: v.clone() for name, v in map_.state_dict().items()})
            plateau.step(error)
            stopping.improved(epoch, error)
            loop.show(loss=loss.item(), ece=error)
            if stopping.stop:
                loop.stop()
    return best


class HCalibrator(nn.Module):
    """Makes the logits of a trained classifier calibrated probabilities, by h-calibration.

    From Huang et al., *h-calibration*, IEEE TPAMI 2025, https://arxiv.org/abs/2506.17968. A non-decreasing function,
    the same for all classes, maps log-probabilities, so that the order of classes and the accuracy stay (as far as
    rounding can tell two probabilities apart). It is trained on held-out samples with :func:`h_calibration_loss`. The
    state of the best epoch is kept; no other data are used.

    Args:
        mapping: "ts" (one temperature), "ensemble_ts" (a mixture of temperatures), "pwlinear" (a piecewise linear
            function), "umnn" (the integral of a positive network), or "all": fits the twelve maps of the paper, and
            keeps the one that ``select`` prefers.
        size: number of temperatures (16), segments (100) or hidden units (10). None: the number in brackets.
        window: number of neighbors of an event: see :func:`h_calibration_loss`.
        eps: errors up to this one are free.
        clusters: number of groups of similar probability; None: all events weigh equally.
        leave_one_out: whether to take the mean of C losses, each without the samples of one class.
        edges: "zero" or "valid".
        select: what the best epoch and the best map have the least of, on the samples of the fit: "dece"
            (:func:`debiased_ece` of the predicted class), "cwece" (:func:`ece` of all classes) or "nll". Equal ones are
            compared by their negative log-likelihood.

    Attributes:
        chosen: kind and size of the fitted map; None before :meth:`fit`.
        scores: what ``select`` measured for each fitted map. It is not a part of ``state_dict``.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an option out of range.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import HCalibrator, ece
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = torch.randn(1000, 3, generator=generator)
        >>> labels = logits.softmax(1).multinomial(1, generator=generator)[:, 0]
        >>> calibrator = HCalibrator("ts").fit(3 * logits, labels, epochs=200, lr=0.02)  # three times too sure
        >>> bool(ece(calibrator(3 * logits).exp(), labels) < ece((3 * logits).softmax(1), labels) / 4)
        True
    """

    def __init__(
        self,
        mapping: str = "pwlinear",
        *,
        size: int | None = None,
        window: int = 200,
        eps: float = 0.0,
        clusters: int | None = 15,
        leave_one_out: bool | str = "auto",
        edges: str = "zero",
        select: str = "dece",
    ) -> None:
        super().__init__()
        checks.one_of("HCalibrator", "mapping", mapping, (*KINDS, "all"))
        checks.one_of("HCalibrator", "select", select, tuple(SELECTORS))
        self.settings = Settings(window, eps, clusters, leave_one_out, edges)
        check_settings("HCalibrator", self.settings)
        if size is not None:
            checks.integer("HCalibrator", "size", size)
            if mapping in ("ts", "all"):
                raise ValueError(message("HCalibrator", "size", f"None for mapping '{mapping}'", str(size)))
        self.mapping, self.size, self.select = mapping, size, select
        self.scores: dict[tuple[str, int], float] = {}
        self.classes = 0
        self.chosen: tuple[str, int] | None = None
        self.map: nn.Module | None = None

    def fit(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        epochs: int = 2000,
        batch_size: int = 5000,
        lr: float = 5e-3,
        patience: int | None = 160,
        seed: int = 1357,
        progress: bool = False,
    ) -> HCalibrator:
        """Fits the map to logits (N, C) and labels (N,) of a calibration set that the classifier did not see.

        Args:
            logits: (N, C) logits or log-probabilities. No gradient goes into them.
            labels: (N,) classes, integer.
            epochs: most passes over the samples.
            batch_size: most samples in a step. The loss needs many: keep all that fit into the memory.
            lr: learning rate of Adam. It is halved when :func:`ece` has not improved for 20 epochs.
            patience: epochs without a better :func:`ece` after which to stop; None for all epochs.
            seed: seed of the initial parameters and of the batches.
            progress: whether to show a progress bar.

        Returns:
            Itself.

        Raises:
            TypeError: an argument of another dtype.
            ValueError: logits that are not finite, labels out of range, no samples, unequal shapes.
        """
        plan = Plan(epochs, batch_size, lr, patience, seed)
        with torch.inference_mode(False), torch.enable_grad():
            given, classes = check_calibration_set("HCalibrator.fit", logits, labels)
            x = given.log_softmax(1)
            wanted = CANDIDATES if self.mapping == "all" else ((self.mapping, self.size or SIZES[self.mapping]),)
            best, scores = (math.inf, math.inf), {}
            for kind, size in wanted:
                candidate = build(kind, size, plan.seed).to(x)
                if isinstance(candidate, MonotoneNetwork):
                    candidate.normalize_(x)
                found = train(candidate, x, classes, plan, self.settings, (self.select,), progress)[self.select]
                scores[kind, size] = found.score[0]
                if len(scores) == 1 or found.score < best:
                    best, chosen, kept = found.score, (kind, size), candidate
                    kept.load_state_dict(found.state)
        self.map, self.chosen, self.classes, self.scores = kept, chosen, x.shape[1], scores
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C) -> calibrated log-probabilities (N, C), float32 for half precision. Differentiable."""
        if self.map is None:
            raise not_fitted("HCalibrator")
        x = check_logits("HCalibrator", logits, self.classes).log_softmax(1)
        return self.map(x.to(next(self.map.parameters()).dtype)).to(x.dtype)

    def get_extra_state(self) -> Tensor:
        """Kind and size of the map, its dtype and the number of classes, for ``state_dict``."""
        if self.map is None or self.chosen is None:
            return torch.empty(0, dtype=torch.int64)
        kind, size = self.chosen
        dtype = checks.FLOATS.index(next(self.map.parameters()).dtype)
        return torch.tensor([KINDS.index(kind), size, dtype, self.classes])

    def set_extra_state(self, state: Tensor) -> None:
        """Makes the map that ``load_state_dict`` then fills."""
        if not len(state):
            self.map = self.chosen = None
            return
        kind, size, dtype, classes = state.tolist()
        device = None if self.map is None else next(self.map.parameters()).device
        self.chosen, self.classes = (KINDS[kind], size), classes
        self.map = build(*self.chosen, 0).to(device, checks.FLOATS[dtype])
