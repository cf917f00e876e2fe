"""The kernel estimate of the Bayes error, its bandwidth, and images that are moved to raise it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known
from ..ops import pairwise_softmax
from ..training import Loop

REDUCTIONS = ("mean", "sum", "none")
RULES = ("neighbors", "median")
ROWS, SAMPLE = 256, 2000  # points whose distances are held at a time; points of which all distances are
Features = Callable[[Tensor], Tensor]


def _points(op: str, features: object) -> Tensor:
    checks.float_tensor(op, "features", features, checks.AS_TENSOR)
    assert isinstance(features, Tensor)
    if features.dim() != 2 or features.shape[0] < 2 or features.shape[1] == 0:
        expected = "shape (points, features) with at least two points and one feature"
        raise ValueError(
            message(op, "features", expected, f"shape {tuple(features.shape)}", "flatten(1) flattens images")
        )
    if numbers_known(features):
        checks.finite(op, "features", features.detach())
    return features


def _classes(op: str, labels: Tensor, classes: int | None) -> int:
    if classes is not None:
        return checks.integer(op, "classes", classes)
    return max(int(labels.amax()) + 1, 1)


def _over_largest(features: Tensor) -> Tensor:
    """Features over their largest absolute value, which is a constant."""
    largest = features.detach().abs().amax()
    return features / torch.where(largest > 0, largest, 1.0).to(features.dtype)


def kernel_bayes_error(
    features: Tensor,
    labels: Tensor,
    sigma: float = 0.3,
    reduction: str = "mean",
    *,
    normalize: bool = False,
    classes: int | None = None,
    tile: int | None = None,
) -> Tensor:
    """Estimates the Bayes error of labeled points: the error of the best possible classifier.

    A Gaussian kernel of width sigma estimates the class probabilities at each point from all other points; the estimate
    is 1 minus the largest of them. A point's own label does not count for itself. The estimate is consistent as sigma
    goes to 0 and ``N sigma^D`` to infinity. A wide kernel, or few points for their dimension, bias it upwards, and a
    kernel that is too narrow downwards: compare values of one sigma, one N and one feature space only.

    Args:
        features: (N, D) points, N >= 2, in any floating-point dtype; half precision is computed in float32.
        labels: (N) integers >= 0.
        sigma: width of the kernel, > 0, in the units of the features. :func:`kernel_bandwidth` proposes one.
        reduction: "mean" over the points, "sum", or "none".
        normalize: whether to divide the features by their largest absolute value first, a constant for the gradient.
            sigma is then a share of that value.
        classes: number of classes. None takes the largest label plus 1.
        tile: as for :func:`probkernels.ops.pairwise_softmax`.

    Returns:
        A number, or (N) numbers with "none", between 0 and 1 - 1/classes. float32, or float64 for float64 features.
        Differentiable in the features. Memory is O(N (D + classes)).

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape, device, label or number is wrong, or a feature is not finite.

    Reference: Zhang, Sun, Lim, Zhang, "Towards Provably Unlearnable Examples via Bayes Error Optimisation", AAAI 2026.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import kernel_bayes_error
        >>> x, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
        >>> kernel_bayes_error(x, labels, sigma=1.0, reduction="none")
        tensor([0.0180, 0.1824, 0.0000])
    """
    op = "kernel_bayes_error"
    points = _points(op, features)
    checks.integer_tensor(op, "labels", labels)
    checks.shape(op, "labels", labels, points.shape[:1], "(one label for each row of 'features')")
    checks.one_of(op, "reduction", reduction, REDUCTIONS)
    checks.positive(op, "sigma", sigma, finite=False)
    points = _over_largest(points) if normalize else points
    shares, _ = pairwise_softmax(points, labels, _classes(op, labels, classes), sigma, tile=tile)
    errors = 1 - shares.amax(1)
    return errors.mean() if reduction == "mean" else errors.sum() if reduction == "sum" else errors


def kernel_bandwidth(features: Tensor, rule: str = "neighbors", *, neighbors: int = 5) -> float:
    """Proposes the width of a Gaussian kernel for points.

    Args:
        features: (N, D) points, N >= 2.
        rule: "neighbors": the median, over all points, of the distance to the nearest neighbor number ``neighbors``.
            It adapts to the density and suits estimates of local class probabilities. "median": the median distance of
            all pairs, of at most 2000 evenly chosen points. It is much wider and shows the coarse layout of classes.
        neighbors: which neighbor; N - 1 if there are fewer. With more neighbors the estimate varies less and is biased
            more.

    Returns:
        The width. If it would be 0, because most points are equal, the smallest distance above 0.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape or number is wrong, a feature is not finite, or all points are equal.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import kernel_bandwidth
        >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> kernel_bandwidth(x, neighbors=1), kernel_bandwidth(x, "median")
        (1.0, 3.0)
    """
    op = "kernel_bandwidth"
    points = _points(op, features).detach().double()
    checks.one_of(op, "rule", rule, RULES)
    rank = min(checks.integer(op, "neighbors", neighbors), len(points) - 1)
    if rule == "median" and len(points) > SAMPLE:
        points = points[torch.linspace(0, len(points) - 1, SAMPLE, device=points.device).round().long()]
    points = points - points.mean(0)
    found, least = [], float("inf")
    for start in range(0, len(points), ROWS):
        distance = torch.cdist(points[start : start + ROWS], points)
        positive = distance[distance > 1e-7 * points.abs().amax()]  # a double product rounds a distance of 0 to less
        least = min(least, float(positive.amin()) if positive.numel() else least)
        distance.diagonal(start).fill_(float("inf"))
        found.append(distance.kthvalue(rank, 1).values if rule == "neighbors" else distance[distance.isfinite()])
    if least == float("inf"):
        raise ValueError(message(op, "features", "at least two different points", "equal points"))
    return max(float(torch.cat(found).median()), least)


def mix(
    clean: Tensor, protected: Tensor, ratio: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Takes some samples from the protected copy of a data set and the rest from the clean one: what a scraper gets.

    Args:
        clean: (N, ...) samples.
        protected: their protected copies, of the same shape, dtype and device.
        ratio: share of protected samples, in [0, 1]; ``round(ratio * N)`` of them are chosen.
        generator: CPU generator that chooses them.

    Returns:
        The mixture (N, ...), and a bool tensor (N) that is True where a sample is protected.

    Raises:
        TypeError: an argument is no tensor or number, or dtypes differ.
        ValueError: shapes or devices differ, or the ratio is out of range.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import mix
        >>> mixed, chosen = mix(torch.zeros(4, 2), torch.ones(4, 2), 0.5, torch.Generator().manual_seed(0))
        >>> int(chosen.sum()), torch.equal(mixed[:, 0], chosen.float())
        (2, True)
    """
    for name, value in (("clean", clean), ("protected", protected)):
        if not isinstance(value, Tensor):
            raise TypeError(message("mix", name, "a tensor", checks.describe(value), checks.AS_TENSOR))
    checks.shape("mix", "protected", protected, clean.shape, "(that of 'clean')")
    checks.same_device("mix", "protected", protected, clean, "clean")
    if protected.dtype is not clean.dtype:
        raise TypeError(message("mix", "protected", f"the dtype of 'clean' ({clean.dtype})", str(protected.dtype)))
    checks.unit_interval("mix", "ratio", ratio)
    count = len(clean)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=generator)[: round(ratio * count)]] = True
    chosen = chosen.to(clean.device)
    return torch.where(chosen.view(-1, *(1,) * (clean.dim() - 1)), protected, clean), chosen


class BayesErrorAscent:
    """Protects images against training without consent: small changes that raise the estimated Bayes error.

    It repeats two parts: ``model_fn`` trains a network on the protected images, and ``inner`` gradient steps on the
    pixels raise the Bayes error of its features. After every step, also the last, the images are projected: each pixel
    stays within ``eps`` of the original and inside ``bounds``.

    This is a tool for owners of data. **It is no guarantee.** A kernel estimate on N points proves nothing about other
    classifiers, other features or more data. On small images, training on protected images alone loses much accuracy,
    but a mixture with half clean images loses few points only. Denoising, compression and stronger augmentation may
    remove the changes.

    Args:
        model_fn: ``model_fn(images, labels)`` trains a network from scratch and returns the function from images to
            features (N, D), usually the network without its last layer. A module is put into eval mode.
        eps: largest change of a pixel.
        sigma: width of the kernel, as a share of the largest feature; None takes :func:`kernel_bandwidth` after each
            training.
        outer: number of trainings.
        inner: gradient steps after each of them.
        optimizer: ``optimizer([images])`` returns the optimizer of the pixels, which minimizes. None takes AdamW with
            learning rate eps / 4 and without weight decay, which would darken the images.
        bounds: smallest and largest value of a pixel.
        batch_size: images that pass through the network at a time. A smaller batch saves memory: activations are
            computed again for the gradient. None passes all of them.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range.

    Reference: Zhang, Sun, Lim, Zhang, "Towards Provably Unlearnable Examples via Bayes Error Optimisation", AAAI 2026.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import BayesErrorAscent, kernel_bayes_error
        >>> images, labels = torch.rand(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> images[:, 0] = 0.4 + 0.2 * labels
        >>> ascent = BayesErrorAscent(lambda images, labels: torch.nn.Flatten(), eps=0.1, outer=1, inner=10)
        >>> protected = ascent.protect(images, labels)
        >>> bool((protected - images).abs().max() <= 0.1 + 1e-6)
        True
        >>> bool(kernel_bayes_error(protected, labels) > kernel_bayes_error(images, labels))
        True
    """

    def __init__(
        self,
        model_fn: Callable[[Tensor, Tensor], Features],
        eps: float = 8 / 255,
        sigma: float | None = 0.3,
        outer: int = 12,
        inner: int = 5,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        batch_size: int | None = None,
    ) -> None:
        op = "BayesErrorAscent"
        for name, value in (("model_fn", model_fn), *((("optimizer", optimizer),) if optimizer is not None else ())):
            if not callable(value):
                raise TypeError(message(op, name, "a function", checks.describe(value)))
        checks.positive(op, "eps", eps)
        if sigma is not None:
            checks.positive(op, "sigma", sigma, finite=False)
        checks.integer(op, "outer", outer)
        checks.integer(op, "inner", inner)
        if batch_size is not None:
            checks.integer(op, "batch_size", batch_size)
        if not bounds[0] < bounds[1]:
            raise ValueError(message(op, "bounds", "(low, high) with low < high", checks.shown(bounds)))
        self.model_fn, self.eps, self.sigma, self.outer, self.inner = model_fn, eps, sigma, outer, inner
        self.optimizer = optimizer or functools.partial(torch.optim.AdamW, lr=eps / 4, weight_decay=0.0)
        self.bounds, self.batch_size = bounds, batch_size

    def protect(
        self,
        images: Tensor,
        labels: Tensor,
        callback: Callable[[int, float, Tensor], object] | None = None,
        *,
        progress: bool = False,
    ) -> Tensor:
        """Returns protected copies of images.

        Args:
            images: (N, ...) inside the bounds, in float32 or float64.
            labels: (N) integers >= 0.
            callback: called as ``callback(step, error, protected)`` after every gradient step, with the estimate before
                the step. Return True to stop, else None or False.
            progress: whether to show a progress bar.

        Returns:
            Images of the same shape and dtype, within eps of the given ones and inside the bounds.

        Raises:
            TypeError: a dtype is wrong.
            ValueError: a shape or label is wrong, a pixel is out of bounds, a feature is not finite, or the optimizer
                maximizes.
        """
        self._check(images, labels)
        original = images.detach()
        moved = original.clone().requires_grad_()
        optimizer = self.optimizer([moved])
        if any(group.get("maximize") for group in optimizer.param_groups):
            hint = "the loss is the negative Bayes error"
            raise ValueError(message("BayesErrorAscent", "optimizer", "one that minimizes", "maximize=True", hint))
        features_of, sigma = None, self.sigma
        with Loop(self.outer * self.inner, progress=progress) as loop, torch.enable_grad():
            for step in loop:
                if step % self.inner == 0 or features_of is None:
                    features_of, sigma = self._train(moved.detach().clone(), labels)
                error = self._error(features_of, moved, labels, sigma)
                (grad,) = torch.autograd.grad(error, moved)
                moved.grad = -grad
                optimizer.step()
                self._project(moved, original)
                value = error.item()
                loop.show(bayes_error=value)
                answer = None if callback is None else callback(step, value, moved.detach().clone())
                if checks.says_stop("BayesErrorAscent.protect", "callback", answer):
                    loop.stop()
        return moved.detach()

    def _check(self, images: Tensor, labels: Tensor) -> None:
        op = "BayesErrorAscent.protect"
        checks.wide_float_tensor(op, "images", images, "images.float() / 255 if they are bytes")
        if images.dim() < 2 or len(images) < 2:
            raise ValueError(message(op, "images", "shape (N, ...) with N >= 2", f"shape {tuple(images.shape)}"))
        low, high = self.bounds
        wrong = ~((images >= low) & (images <= high))
        if bool(wrong.any()):
            raise ValueError(message(op, "images", f"pixels in [{low}, {high}]", checks.offender(images, wrong)))
        checks.integer_tensor(op, "labels", labels)
        checks.shape(op, "labels", labels, images.shape[:1], "(one label for each image)")

    def _train(self, images: Tensor, labels: Tensor) -> tuple[Features, float]:
        features_of = self.model_fn(images, labels)
        if not callable(features_of):
            wanted = "a function that returns a function from images to features"
            raise TypeError(message("BayesErrorAscent", "model_fn", wanted, checks.describe(features_of)))
        if isinstance(features_of, torch.nn.Module):
            features_of.eval()
        if self.sigma is not None:
            return features_of, self.sigma
        with torch.no_grad():
            features = torch.cat([features_of(batch) for batch in images.split(self.batch_size or len(images))])
        return features_of, kernel_bandwidth(_over_largest(features))

    def _error(self, features_of: Features, images: Tensor, labels: Tensor, sigma: float | None) -> Tensor:
        assert sigma is not None
        if self.batch_size is None or self.batch_size >= len(images):
            features = features_of(images)
        else:
            parts = images.split(self.batch_size)
            features = torch.cat([checkpoint(features_of, part, use_reentrant=False) for part in parts])
        return kernel_bayes_error(features, labels, sigma, normalize=True)

    @torch.no_grad()
    def _project(self, moved: Tensor, original: Tensor) -> None:
        moved.copy_(torch.minimum(torch.maximum(moved, original - self.eps), original + self.eps).clamp(*self.bounds))
