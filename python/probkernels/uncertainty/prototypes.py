"""Distributions of prototypes: Gaussians with full or diagonal covariances, and mixtures of Gaussians."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as dist
from torch.nn import functional as F

from .._core import checks
from ._inputs import class_labels
from ._prototype_fit import check_codes, statistics

COVARIANCES = ("full", "diag", "mixture")
FLOOR = 1e-5  # of standard deviations and of diagonals of Cholesky factors
DIRECT = 16  # dimensions up to which differences are squared one by one, which has no cancellation


def squared_distances(codes: Tensor, points: Tensor) -> Tensor:
    """Squared distances (B, P) of codes (B, D) and points (P, D). Never below 0."""
    if codes.shape[1] <= DIRECT:
        return (codes[:, None] - points).square().sum(-1)
    center = points.detach().mean(0)  # near the points, so that little cancels
    codes, points = codes - center, points - center
    return (codes.square().sum(1)[:, None] + points.square().sum(1) - 2 * codes @ points.mT).clamp_min(0)


class GaussianPrototypes(nn.Module):
    """Distributions of prototypes in the space of codes. Prototype k belongs to class ``k // per_class``.

    Args:
        num_classes: number C of classes, 2 or more.
        dim: dimension D of codes.
        covariance: "full", "diag", or "mixture" of Gaussians with full covariances.
        per_class: prototypes of a class; there are ``K = num_classes * per_class``.
        components: Gaussians of a mixture.
        device: of the parameters.
        dtype: of the parameters, float32 or float64.

    Attributes:
        mean: (K, D), or (K, components, D) of a mixture: parameter, standard normal at first.
        raw_scale: of the shape of ``mean``, or with one more D: parameter. Softplus and 1e-5 make its diagonal
            positive; :meth:`scale` has the result. The first covariances are unit matrices.
        mixture_logits: (K, components) of a mixture, otherwise None: parameter, 0 at first.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import GaussianPrototypes
        >>> labels = torch.arange(100) % 2
        >>> codes = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) + 4.0 * labels[:, None]
        >>> prototypes = GaussianPrototypes(2, 3).fit_(codes, labels)
        >>> prototypes.rsample(5).shape
        torch.Size([5, 2, 3])
        >>> bool((prototypes.log_prob(codes).argmax(1) == labels).all())
        True
    """

    mixture_logits: nn.Parameter | None

    def __init__(
        self,
        num_classes: int,
        dim: int,
        covariance: str = "full",
        *,
        per_class: int = 1,
        components: int = 2,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        op = "GaussianPrototypes"
        checks.one_of(op, "covariance", covariance, COVARIANCES)
        self.num_classes = checks.integer(op, "num_classes", num_classes, least=2)
        self.dim, self.covariance = checks.integer(op, "dim", dim), covariance
        self.per_class = checks.integer(op, "per_class", per_class)
        self.components = checks.integer(op, "components", components) if covariance == "mixture" else 1
        checks.one_of(op, "dtype", dtype, (None, torch.float32, torch.float64))
        shape = (num_classes * per_class, *([components] if covariance == "mixture" else []), dim)
        self.mean = nn.Parameter(torch.randn(shape, device=device, dtype=dtype))
        std = torch.full_like(self.mean.detach(), _raw(torch.ones(1, dtype=torch.float64)).item())
        self.raw_scale = nn.Parameter(std if covariance == "diag" else torch.diag_embed(std))
        logits = nn.Parameter(self.mean.detach().new_zeros(shape[:2])) if covariance == "mixture" else None
        self.register_parameter("mixture_logits", logits)

    def extra_repr(self) -> str:
        """Options, as ``repr`` shows them."""
        more = f", components={self.components}" if self.covariance == "mixture" else ""
        return f"{self.num_classes}, {self.dim}, {self.covariance!r}, per_class={self.per_class}{more}"

    def scale(self) -> Tensor:
        """Standard deviations of "diag", of the shape of ``mean``; otherwise Cholesky factors, lower triangles."""
        raw = self.raw_scale
        if self.covariance == "diag":
            return F.softplus(raw) + FLOOR
        return raw.tril(-1) + torch.diag_embed(F.softplus(raw.diagonal(dim1=-2, dim2=-1)) + FLOOR)

    def distribution(self) -> dist.Distribution:
        """The K prototypes as one object of torch.distributions, of batch shape (K,) and event shape (D,)."""
        if self.covariance == "diag":
            return dist.Independent(dist.Normal(self.mean, self.scale(), validate_args=False), 1, validate_args=False)
        normal = dist.MultivariateNormal(self.mean, scale_tril=self.scale(), validate_args=False)
        if self.mixture_logits is None:
            return normal
        weights = dist.Categorical(logits=self.mixture_logits, validate_args=False)
        return dist.MixtureSameFamily(weights, normal, validate_args=False)

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (samples, K, D) sets of prototypes, with a gradient to means and scales.

        Which component of a mixture a draw comes from has no gradient: its weights learn from :meth:`log_prob` alone.
        """
        checks.integer("GaussianPrototypes.rsample", "samples", samples)
        mean, scale = self.mean, self.scale()
        noise = torch.randn(samples, *mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        if self.covariance == "diag":
            return mean + noise * scale
        drawn = mean + (noise.movedim(0, -2) @ scale.mT).movedim(-2, 0)
        if self.mixture_logits is None:
            return drawn
        weights = self.mixture_logits.detach().softmax(1)
        chosen = torch.multinomial(weights, samples, replacement=True, generator=generator).mT[..., None, None]
        return drawn.gather(2, chosen.expand(-1, -1, 1, self.dim))[:, :, 0]

    def centers(self) -> Tensor:
        """(K, D) means; of a mixture the means of the components with the largest weights."""
        if self.mixture_logits is None:
            return self.mean
        chosen = self.mixture_logits.argmax(1)[:, None, None]
        return self.mean.gather(1, chosen.expand(-1, 1, self.dim))[:, 0]

    def mean_distances(self, codes: Tensor) -> Tensor:
        """(B, K) expected squared distances of codes (B, D) from the prototypes, in closed form: no draws."""
        check_codes("GaussianPrototypes.mean_distances", codes, self.dim)
        scale = self.scale().flatten(self.mean.ndim - 1).square().sum(-1)
        found = squared_distances(codes, self.mean.reshape(-1, self.dim)).view(-1, *scale.shape) + scale
        return found if self.mixture_logits is None else (found * self.mixture_logits.softmax(1)).sum(-1)

    def log_prob(self, codes: Tensor) -> Tensor:
        """(B, K) log-densities of codes (B, D) under each prototype."""
        check_codes("GaussianPrototypes.log_prob", codes, self.dim)
        return self.distribution().log_prob(codes[:, None])

    def class_log_prob(self, codes: Tensor) -> Tensor:
        """(B, C) log-densities of codes under each class, whose prototypes count alike."""
        found = self.log_prob(codes).unflatten(1, (self.num_classes, self.per_class))
        return found.logsumexp(2) - math.log(self.per_class)

    @torch.no_grad()
    def fit_(self, codes: Tensor, labels: Tensor, *, jitter: float = 1e-4) -> GaussianPrototypes:
        """Sets the prototypes to mean and covariance of the codes of their class.

        For several prototypes of a class, or components of a prototype, k-means splits its codes first.

        Args:
            codes: (N, D) codes.
            labels: (N,) classes, integer or bool.
            jitter: what is added to all variances.

        Returns:
            The object itself.

        Raises:
            TypeError, ValueError: another shape or dtype, labels out of range, a class with too few codes, or
                covariances that are not positive definite.
        """
        op = "GaussianPrototypes.fit_"
        check_codes(op, codes, self.dim)
        checks.finite(op, "codes", codes)
        checks.non_negative(op, "jitter", jitter)
        labels = class_labels(op, labels, codes[:, :1].expand(-1, self.num_classes), "codes")
        parts = (self.per_class, self.components) if self.covariance == "mixture" else (self.per_class,)
        means, factors, shares = statistics(op, codes.double(), labels, (self.num_classes, *parts), jitter)
        self.mean.copy_(means.view_as(self.mean))
        if self.covariance == "diag":
            self.raw_scale.copy_(_raw(factors.square().sum(-1).sqrt()).view_as(self.raw_scale))
        else:
            raw = factors.tril(-1) + torch.diag_embed(_raw(factors.diagonal(dim1=-2, dim2=-1)))
            self.raw_scale.copy_(raw.view_as(self.raw_scale))
        if self.mixture_logits is not None:
            self.mixture_logits.copy_(shares.log().view_as(self.mixture_logits))
        return self


def _raw(std: Tensor) -> Tensor:
    """What softplus and the floor make ``std`` of. Much below the floor there is no difference."""
    above = (std - FLOOR).clamp_min(1e-12)
    return above + (-torch.expm1(-above)).log()
