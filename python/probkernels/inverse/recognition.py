"""Segmentation with a spread, a classifier from a conditional diffusion model, and a check for copies."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..diffusion import Denoiser, draw_times, dsm_loss, sample
from ._tasks import check_input, normal, same_rows


class Concatenated(nn.Module):
    """A network that gets its condition as more channels: ``net(cat([x, cond], 1), t)``.

    Args:
        net: maps (B, C + C', ...) and times (B,) to (B, C, ...).

    Example:
        >>> import torch
        >>> from probkernels.inverse import Concatenated
        >>> class First(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return x[:, :1]
        >>> Concatenated(First())(torch.ones(2, 1, 4), torch.zeros(2), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 4])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See the class."""
        return self.net(torch.cat([x, cond.to(x.dtype)], 1), t)


def segment(
    model: Denoiser,
    image: Tensor,
    n: int = 16,
    *,
    shape: tuple[int, ...] | None = None,
    steps: int = 20,
    solver: str | None = None,
    generator: torch.Generator | None = None,
    **how: Any,
) -> tuple[Tensor, Tensor]:
    """Draws masks of an image, as one batch, and returns their mean and spread.

    The model diffuses masks with values -1 and 1, and takes the image as its condition: :class:`Concatenated`.

    Args:
        model: a denoiser of masks, called with ``cond=image``.
        image: (B, *I) float.
        n: masks of each image.
        shape: *S, the shape of one mask; *I by default.
        steps: sampling steps.
        solver: by default "ddim" with ``eta=1``.
        generator: draws all noise.
        how: other arguments of :func:`~probkernels.diffusion.sample`.

    Returns:
        mean (B, *S) in 0 .. 1, how often an entry belongs to the object, and the standard deviation (B, *S).

    Raises:
        TypeError, ValueError: the image is not a finite float tensor, or as for :func:`~probkernels.diffusion.sample`.

    Reference:
        Wolleb et al., Diffusion Models for Implicit Image Segmentation Ensembles, MIDL 2022.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import segment
        >>> class Sign(torch.nn.Module):  # the mask is where the image is positive
        ...     def forward(self, x, t, image):
        ...         return image.sign()
        >>> mean, std = segment(Denoiser(Sign(), VP(), pred="x0"), torch.tensor([[2.0, -1.0]]), n=4)
        >>> mean.round(), bool(std.max() < 0.1)
        (tensor([[1., 0.]]), True)
    """
    check_input("segment", model, "image", image)
    checks.integer("segment", "n", n)
    rows, shape = len(image), tuple(image.shape[1:]) if shape is None else tuple(shape)
    if solver is None:
        solver, how = "ddim", {"eta": 1.0, **how}
    start = model.process.prior_std * normal(image.new_empty(n * rows, *shape), generator)
    cond = image.repeat(n, *[1] * (image.ndim - 1))
    x = sample(model, start, solver=solver, steps=steps, cond=cond, generator=generator, **how)
    masks = ((x + 1) / 2).clamp(0, 1).unflatten(0, (n, rows))
    return masks.mean(0), masks.std(0, correction=0)


class Classified(NamedTuple):
    """``label`` (B,): the place in ``classes`` of the least loss; ``losses`` (B, C): the mean loss of each class.

    Example:
        >>> from probkernels.inverse import Classified
        >>> Classified._fields
        ('label', 'losses')
    """

    label: Tensor
    losses: Tensor


def diffusion_classifier(
    model: Denoiser,
    x: Tensor,
    classes: Tensor,
    *,
    n: int = 32,
    weight: str = "eps",
    rows: int = 8192,
    generator: torch.Generator | None = None,
) -> Classified:
    """The class whose condition denoises x best. All classes see the same times and noises.

    Args:
        model: a conditional denoiser.
        x: (B, *S) float.
        classes: (C, ...) conditions, one a class.
        n: times and noises of each row of x.
        weight: weight of the squared error, see :func:`~probkernels.diffusion.loss_weight`.
        rows: most rows in one call of the network.
        generator: CPU generator of times and noises.

    Raises:
        TypeError, ValueError: x is not a finite float tensor, ``classes`` is not a tensor of two rows or more, or the
            weight is unknown.

    Reference:
        Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, ICCV 2023.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> from probkernels.inverse import diffusion_classifier
        >>> class Known(torch.nn.Module):  # all data of a class are equal: its condition
        ...     def forward(self, x, t, c):
        ...         return c
        >>> model = Denoiser(Known(), VP(), pred="x0")
        >>> diffusion_classifier(model, torch.tensor([[0.9], [-0.4]]), torch.tensor([[-1.0], [1.0]])).label
        tensor([1, 0])
    """
    check_input("diffusion_classifier", model, "x", x)
    checks.integer("diffusion_classifier", "n", n)
    checks.integer("diffusion_classifier", "rows", rows)
    if not isinstance(classes, Tensor) or classes.ndim < 1:
        expected = "a tensor (C, ...) of conditions"
        raise TypeError(message("diffusion_classifier", "classes", expected, checks.describe(classes)))
    if len(classes) < 2:
        raise ValueError(message("diffusion_classifier", "classes", "two rows or more", f"{len(classes)}"))
    count, size = len(classes), len(x) * n
    t = draw_times(model.process, size, kind="stratified", generator=generator)
    t = t.view(n, len(x)).mT.flatten()  # each row of x gets times from everywhere
    noise = normal(x.repeat_interleave(n, 0), generator)
    found = []
    with torch.no_grad():
        for part in torch.arange(size * count).split(rows):
            row, label = part // count, part % count
            data, cond = x[row.to(x.device) // n], classes[label.to(classes.device)]
            z = noise[row.to(x.device)]
            found.append(dsm_loss(model, data, cond, weight=weight, t=t[row], noise=z, reduce=False))
    losses = torch.cat(found).view(len(x), n, count).mean(1)
    return Classified(losses.argmin(1), losses)


class Memorized(NamedTuple):
    """``nearest`` (N,): each sample's nearest neighbor in the training data; ``distance`` (N,) to it; ``ratio`` (N,) of
    this distance to that of the second neighbor; ``copied`` (N,) bool: the ratio is below the threshold.

    Example:
        >>> from probkernels.inverse import Memorized
        >>> Memorized._fields
        ('nearest', 'distance', 'ratio', 'copied')
    """

    nearest: Tensor
    distance: Tensor
    ratio: Tensor
    copied: Tensor


def memorization_check(samples: Tensor, train: Tensor, *, threshold: float = 1 / 3, rows: int = 1024) -> Memorized:
    """Looks for samples that copy a training point: much nearer to one than to the next.

    A sample equal to a training point has ratio 0, also where that point occurs twice.

    Args:
        samples: (N, *S) float.
        train: (M, *S) float, M >= 2.
        threshold: ratio of distances below which a sample counts as a copy.
        rows: samples compared at a time.

    Raises:
        TypeError, ValueError: the tensors are not finite floats of one shape, or ``train`` has fewer than two rows.

    Reference:
        Yoon et al., Diffusion Probabilistic Models Generalize when They Fail to Memorize, ICML workshops 2023.

    Example:
        >>> import torch
        >>> from probkernels.inverse import memorization_check
        >>> memorization_check(torch.tensor([[0.1], [2.0]]), torch.tensor([[0.0], [4.0]])).copied
        tensor([ True, False])
    """
    for name, value in (("samples", samples), ("train", train)):
        checks.float_tensor("memorization_check", name, value)
        if value.ndim < 1:
            raise ValueError(message("memorization_check", name, "shape (N, *S)", "shape ()"))
        checks.finite("memorization_check", name, value)
    if len(train) < 2:
        raise ValueError(message("memorization_check", "train", "two rows or more", f"{len(train)}"))
    same_rows("memorization_check", "samples", samples, train, "train")
    checks.positive("memorization_check", "threshold", threshold)
    checks.integer("memorization_check", "rows", rows)
    known = train.reshape(len(train), -1).to(torch.promote_types(train.dtype, torch.float32))
    mode = "donot_use_mm_for_euclid_dist"  # no differences of squares: copies are near 0
    near, at = [], []
    for part in samples.reshape(len(samples), -1).to(known).split(rows):
        found = torch.cdist(part, known, compute_mode=mode).topk(2, largest=False)
        near.append(found.values)
        at.append(found.indices[:, 0])
    if not near:
        near, at = [known.new_empty(0, 2)], [torch.empty(0, dtype=torch.long, device=known.device)]
    first, second = torch.cat(near).unbind(1)
    ratio = torch.where(first > 0, first / torch.where(first > 0, second, 1.0), 0.0)
    return Memorized(torch.cat(at), first, ratio, ratio < threshold)
