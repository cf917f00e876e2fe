"""CaPE: a network learns by turns from outcomes and from their frequencies among samples that it ranks alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from . import _heads
from ._binning import scattered
from ._cape_fit import CaPEFit, Settings, fit
from ._gaussian_window import window_sums
from ._inputs import Samples, all_samples, check_probs, check_weight, columns

TARGETS = ("bin", "kernel")
OfRanks = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _per_event(given: Samples, of_ranks: OfRanks) -> Tensor:
    """Targets (N,) or (N, C). ``of_ranks(probs, outcome, weight)``, float64 and in order of rank, gives for one event
    the weight of outcomes and of samples around each sample."""
    found = []
    for probs, hit in columns(given):
        ordered, order = probs.double().sort(stable=True)  # equal probabilities keep the order of the data
        sums, mass = of_ranks(ordered, hit.double()[order], given.weight[order])
        ranked = torch.where(mass > 0, sums / mass.where(mass > 0, 1), ordered)  # no weight around: nothing to learn
        found.append(torch.empty_like(ranked).index_copy_(0, order, ranked))
    targets = found[0] if given.probs.ndim == 1 else torch.stack(found, 1)
    return targets.to(given.probs.dtype)


def bin_targets(probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None, *, bins: int = 5) -> Tensor:
    """Frequency of the event among the samples of the same bin. The bins are of equal mass, by rank.

    Bin b ends after the first ``floor((b + 1) N / bins)`` samples in ascending order of probability. Only ranks matter,
    and the mean of the targets is that of the labels. Unlike in :func:`ece`, a bin may end among equal probabilities,
    which keep the order of the data.

    Args:
        probs: (N,) probabilities of class 1, or (N, C): each class against the rest. Rows need not sum to 1.
        labels: (N,) classes, integer or bool.
        sample_weight: (N,) weights >= 0. A sample of weight 0 gets a target and has no part in others.
        bins: number of bins. One bin gives the mean label to all, N bins give each sample its own label.

    Returns:
        Targets of the shape and dtype of ``probs`` (float32 for half precision), without a gradient.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: entries outside [0, 1], labels out of range, no samples, unequal shapes, ``bins`` < 1.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import bin_targets
        >>> bin_targets(torch.tensor([0.1, 0.4, 0.3, 0.8]), torch.tensor([0, 0, 1, 1]), bins=2)
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    checks.integer("bin_targets", "bins", bins)

    def of_ranks(_: Tensor, outcome: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        mass = weight.cumsum(0)
        cuts = torch.arange(1, bins, dtype=mass.dtype, device=mass.device) * mass[-1]
        # The slack is for weights whose sums are rounded; it is too small to matter where they are whole numbers.
        ends = torch.searchsorted(mass * bins, cuts * (1 + 1e-12), right=True)
        bin_of = torch.searchsorted(ends, torch.arange(len(mass), device=mass.device), right=True)
        sums, total = scattered(bin_of, bins, weight * outcome, weight)[:, bin_of]
        return sums, total

    return _per_event(all_samples("bin_targets", probs, labels, sample_weight), of_ranks)


def kernel_targets(
    probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None, *, sigma: float = 0.05, window: int = 100
) -> Tensor:
    """Frequency of the event among samples of near probability: their mean, weighted by a Gaussian of the distance.

    The sample of rank i looks at those of ranks ``i - window`` to ``i + window - 1``. Where a window is narrow, about
    2 sigma on each side, a power series of at most 36 terms gives its sums; a wider one takes an exponential for each
    of its samples. Memory is O(N). ``probs``, ``labels``, ``sample_weight`` and the result are those of
    :func:`bin_targets`.

    Args:
        sigma: standard deviation of the Gaussian, in units of probability.
        window: how many samples of lower rank count at most; one less of higher rank.

    Raises:
        TypeError, ValueError: as :func:`bin_targets`; ``sigma`` is not positive, or ``window`` < 1.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import kernel_targets
        >>> kernel_targets(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]), sigma=0.01)
        tensor([0.0000, 0.5000, 0.5000, 1.0000])
    """
    hint = "a standard deviation; a small one gives each sample its label"
    checks.positive("kernel_targets", "sigma", sigma, hint, finite=False)
    checks.integer("kernel_targets", "window", window)

    def of_ranks(ordered: Tensor, outcome: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        scaled = ordered * min(1 / (sigma * math.sqrt(2)), 1e150)  # of which squares are finite
        sums = window_sums(scaled, torch.stack([weight * outcome, weight]), window)
        return sums[0], sums[1]

    return _per_event(all_samples("kernel_targets", probs, labels, sample_weight), of_ranks)


def cape_loss(logits: Tensor, targets: Tensor, sample_weight: Tensor | None = None, *, head: str = "softmax") -> Tensor:
    """Mean cross-entropy of logits with soft targets. With labels as targets it is the usual cross-entropy.

    Args:
        logits: (N,) or (N, 1) logits of one event; (N, 2) logits of "no" and "yes" under a softmax; or (N, C).
        targets: (N,) probabilities of the event, for (N, C) logits (N, C). They get no gradient.
        sample_weight: (N,) weights >= 0, which multiply the losses before their mean.
        head: what logits (N, C) mean: "softmax" for classes that exclude each other, "sigmoid" for one logit for each
            class against the rest, whose losses are summed.

    Returns:
        A scalar of the dtype of ``logits`` (float32 for half precision).

    Raises:
        TypeError, ValueError: an argument of another dtype, shape or device, targets outside [0, 1], no samples.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import cape_loss
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> cape_loss(logits, torch.tensor([0.25, 0.5])).backward()
        >>> logits.grad  # (probability - target) / N
        tensor([0.1250, 0.0000])
    """
    checks.one_of("cape_loss", "head", head, _heads.HEADS)
    wide = _heads.check_logits("cape_loss", "logits", logits)
    checks.float_tensor("cape_loss", "targets", targets, "labels.float() if they are labels of one event")
    shape = wide.shape[:1] if _heads.is_binary(wide, head) else wide.shape
    checks.shape("cape_loss", "targets", targets, shape, "(that of the probabilities)")
    checks.same_device("cape_loss", "targets", targets, wide, "logits")
    check_probs("cape_loss", "targets", targets, exclusive=False)
    if not len(wide):
        raise ValueError(message("cape_loss", "logits", "at least one sample", f"shape {tuple(logits.shape)}"))
    found = _heads.losses(wide, targets.detach(), head)
    if sample_weight is not None:
        found = found * check_weight("cape_loss", sample_weight, wide, "logits").to(found)
    return found.mean()


class CaPE:
    """Calibrated probability estimation: goes on training a network without losing its calibration.

    A network that is trained on outcomes 0 and 1 first learns probabilities, then memorizes the outcomes. CaPE starts
    from the network at its lowest validation loss. An epoch on frequencies among samples that the network ranks alike
    (calibration) takes turns with epochs on the outcomes (discrimination). From Liu et al., *Deep Probability
    Estimation*, ICML 2022, https://arxiv.org/abs/2111.10734.

    Args:
        mode: "bin" for :func:`bin_targets`, "kernel" for :func:`kernel_targets`.
        bins: number of bins of "bin".
        sigma: width of "kernel".
        window: neighbors of "kernel".
        discrimination_epochs: epochs on outcomes after each calibration epoch. The first epoch is a calibration epoch.
        head: what logits (N, C) mean, see :func:`cape_loss`. Under a softmax of C > 2 classes, targets of every class
            against the rest are divided by their sum over classes.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import CaPE
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] > 0).long()
        >>> net = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> done = CaPE().fit(net, optimizer, (x[:150], y[:150]), (x[150:], y[150:]), epochs=4, progress=False)
        >>> done.validation[done.best_epoch] == min(done.validation)
        True
    """

    def __init__(
        self,
        mode: str = "bin",
        *,
        bins: int = 5,
        sigma: float = 0.05,
        window: int = 100,
        discrimination_epochs: int = 2,
        head: str = "softmax",
    ) -> None:
        checks.one_of("CaPE", "mode", mode, TARGETS)
        checks.integer("CaPE", "bins", bins)
        checks.positive("CaPE", "sigma", sigma, finite=False)
        checks.integer("CaPE", "window", window)
        checks.integer("CaPE", "discrimination_epochs", discrimination_epochs, least=0)
        checks.one_of("CaPE", "head", head, _heads.HEADS)
        self.mode, self.bins, self.sigma, self.window = mode, bins, sigma, window
        self.discrimination_epochs, self.head = discrimination_epochs, head

    def __repr__(self) -> str:
        """The call that makes an equal object."""
        options = f"bins={self.bins}" if self.mode == "bin" else f"sigma={self.sigma}, window={self.window}"
        rest = f"discrimination_epochs={self.discrimination_epochs}, head={self.head!r}"
        return f"CaPE({self.mode!r}, {options}, {rest})"

    def is_calibration_epoch(self, epoch: int) -> bool:
        """Whether epoch 0, 1, ... learns from frequencies."""
        return epoch % (self.discrimination_epochs + 1) == 0

    def targets(self, probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Targets of a calibration epoch: those of :func:`bin_targets` or :func:`kernel_targets`. For (N, C) and a
        softmax head their rows are divided by their sums."""
        if self.mode == "bin":
            found = bin_targets(probs, labels, sample_weight, bins=self.bins)
        else:
            found = kernel_targets(probs, labels, sample_weight, sigma=self.sigma, window=self.window)
        if found.ndim == 1 or self.head == "sigmoid":
            return found
        total = found.sum(1, keepdim=True)
        return torch.where(total > 0, found / total.where(total > 0, 1), probs.detach().to(found))

    def fit(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Any,
        validation: Any,
        *,
        epochs: int = 100,
        batch_size: int = 256,
        sample_weight: Tensor | None = None,
        scheduler: Any = "plateau",
        patience: int | None = None,
        seed: int = 0,
        workers: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = True,
    ) -> CaPEFit:
        """Trains a network in place and leaves it in the state of the lowest validation loss, in evaluation mode.

        The network as given is a candidate too, so that the result is never worse on the validation set. Targets are
        computed in evaluation mode over all training samples before each calibration epoch. Batches of an epoch depend
        only on ``seed`` and its number; a resumed training equals one that was not stopped, unless the network itself
        draws numbers.

        Args:
            model: network from a batch of inputs to logits, best at its lowest validation loss.
            optimizer: optimizer of its parameters, a new one with its own learning rate.
            train: (inputs, labels), tensors of N samples on any device; or a dataset of such pairs with a length.
            validation: the same, of other samples. They choose the state that is kept.
            epochs: total number of epochs, including epochs before the checkpoint.
            batch_size: samples of a batch.
            sample_weight: (N,) weights of the training samples.
            scheduler: scheduler of the learning rate, stepped after each epoch; None for none. "plateau" halves the
                rate after five epochs without a better validation loss, down to 1e-6.
            patience: epochs without a better validation loss after which training ends; None to never end early.
            seed: seed of the order of samples.
            workers: processes that read a dataset, see ``torch.utils.data.DataLoader``.
            checkpoint: a file to write after each epoch, atomically. If it exists, training resumes from it.
            progress: whether to show a progress bar.

        Raises:
            TypeError, ValueError: an argument is wrong, or logits or the loss of an epoch are not finite.
            CorruptStreamError: the checkpoint is damaged, or the file is not a checkpoint.
            ModelMismatchError: the checkpoint belongs to another model, other settings or other data.
        """
        return fit(self, Settings(
            model, optimizer, train, validation, epochs, batch_size, sample_weight, scheduler, patience, seed, workers,
            checkpoint, progress,
        ))  # fmt: skip
