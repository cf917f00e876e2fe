"""Conditional and latent neural processes, with and without attention, under one signature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._core import checks
from . import _np_inputs
from ._np_encoders import ContextEncoder, Decoder, PointEncoder, masked_mean, mlp
from ._np_inputs import Points
from .np_predictive import FunctionMixture, gaussian_log_density, log_mean_exp

Gaussians = tuple[Tensor, Tensor]  # means and standard deviations, (K, B, m, y_dim)


def mean_over_points(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of (..., B, n) over the points of a row that exist: (..., B)."""
    return masked_mean(values[..., None], mask)[..., 0]


def log_density(points: Points, found: Gaussians) -> Tensor:
    """log N(y) at all points: (K, B, n); 0 where the mask is False."""
    density = gaussian_log_density(points.y, *found)
    return density if points.mask is None else density.masked_fill(~points.mask, 0)


class NeuralProcess(nn.Module):
    """The base of all neural processes: a network that maps a context set to predictions at targets.

    ``model(x_ctx, y_ctx, x_tar, mask=None)`` predicts; ``model.loss(...)`` is what training minimizes. Both are the
    same for all models; so are the first arguments of the constructors.

    Args:
        x_dim: columns of x.
        y_dim: columns of y.
        width: size of all hidden layers and features.
        heads: of attention, and of the network that generates pseudo contexts.
        encoders: encoders of the context whose results are concatenated. In attentive models the first one attends
            and the others pool. None for the number of the authors of the bootstrapping neural process: two, one in
            latent models.
        attention_scale: what attention scores are divided by the square root of: the "model"'s width or a "head"'s.
        least_stddev: bound below on standard deviations of the noise, in (0, 1).

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> from probkernels.amortized import BNP, CANP, NeuralProcess
        >>> all(isinstance(kind(x_dim=1, width=32), NeuralProcess) for kind in (BNP, CANP))
        True
    """

    attentive = False
    default_encoders = 2
    train_samples = 1  # functions in a training step unless the call says otherwise

    def __init__(
        self,
        x_dim: int,
        y_dim: int = 1,
        *,
        width: int = 128,
        heads: int = 8,
        encoders: int | None = None,
        attention_scale: str = "model",
        least_stddev: float = 0.1,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        for argument, value in (("x_dim", x_dim), ("y_dim", y_dim), ("width", width), ("heads", heads)):
            checks.integer(self.name, argument, value)
        count = self.default_encoders if encoders is None else checks.integer(self.name, "encoders", encoders)
        checks.one_of(self.name, "attention_scale", attention_scale, ("model", "head"))
        checks.positive_fraction(self.name, "least_stddev", least_stddev)
        self.x_dim, self.y_dim, self.width, self.heads = x_dim, y_dim, width, heads
        self.attention_scale = attention_scale
        self.encoder = ContextEncoder(x_dim, y_dim, width, heads, attention_scale, self.attentive, count)
        self.decoder = Decoder(*self._decoded(), x_dim, y_dim, width, least_stddev)

    def _decoded(self) -> tuple[int, int]:
        """Sizes of what the decoder takes: the representation, and an extra input."""
        return self.encoder.outputs, 0

    def forward(
        self,
        x_ctx: Tensor,
        y_ctx: Tensor,
        x_tar: Tensor,
        mask: Tensor | None = None,
        *,
        n_samples: int = 50,
        generator: torch.Generator | None = None,
    ) -> FunctionMixture:
        """Predicts y at targets, given contexts.

        Args:
            x_ctx: (B, n, x_dim) inputs of the contexts, in the dtype of the model.
            y_ctx: (B, n, y_dim) their values, or (B, n) if y_dim is 1; predictions then have no last dimension either.
            x_tar: (B, m, x_dim) inputs of the targets. Predictions do not depend on each other's.
            mask: (B, n) bool, True for contexts that exist; None if all do. Each row needs one. Others may be NaN.
            n_samples: number of functions K. Models without uncertainty about the function have one.
            generator: of all draws, on the model's device. The same seed gives the same functions at any targets.

        Returns:
            The predictive distribution, see :class:`FunctionMixture`.

        Raises:
            TypeError, ValueError: a dtype, shape or device is wrong, a context is not finite, or a row has none.
        """
        known = self._context(x_ctx, y_ctx, mask)
        x = _np_inputs.targets(self.name, x_tar, self.x_dim, len(x_ctx), self._like)
        checks.integer(self.name, "n_samples", n_samples)
        means, stddevs = self._predict(known, x, n_samples, generator)
        if y_ctx.ndim == 2:
            means, stddevs = means[..., 0], stddevs[..., 0]
        return FunctionMixture(means, stddevs)

    def loss(
        self,
        x_ctx: Tensor,
        y_ctx: Tensor,
        x_tar: Tensor,
        y_tar: Tensor,
        mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        *,
        n_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The training loss of a batch of tasks. It scores all points, contexts and targets, in nats a point.

        Args:
            x_ctx: inputs of the contexts, as in the call of the model.
            y_ctx: their values.
            x_tar: inputs of the targets.
            y_tar: their values.
            mask: (B, n) bool, True for contexts that exist.
            target_mask: (B, m) bool, True for targets that exist.
            n_samples: functions in a step; None for 1 in latent models, 4 in bootstrapping and 8 in martingale ones.
            generator: of all draws.

        Returns:
            The mean over tasks, a 0-d tensor.

        Raises:
            TypeError, ValueError: as in the call of the model; also for targets.
        """
        known, every = self._task(x_ctx, y_ctx, x_tar, y_tar, mask, target_mask)
        n = self.train_samples if n_samples is None else checks.integer(self.name, "n_samples", n_samples)
        return self._loss(known, every, n, generator)

    def _predict(self, known: Points, x: Tensor, n: int, generator: torch.Generator | None) -> Gaussians:
        raise NotImplementedError

    def _loss(self, known: Points, every: Points, n: int, generator: torch.Generator | None) -> Tensor:
        raise NotImplementedError

    @property
    def _like(self) -> Tensor:
        return self.decoder.first.weight

    def _context(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Points:
        return _np_inputs.context(self.name, x, y, mask, (self.x_dim, self.y_dim), self._like)

    def _task(
        self, x: Tensor, y: Tensor, x_tar: Tensor, y_tar: Tensor, mask: Tensor | None, target_mask: Tensor | None
    ) -> tuple[Points, Points]:
        """The contexts, and all points of the tasks."""
        known = self._context(x, y, mask)
        _np_inputs.targets(self.name, x_tar, self.x_dim, len(x), self._like)
        sizes = self.x_dim, self.y_dim
        return known, known.and_more(_np_inputs.given(self.name, "tar", x_tar, y_tar, target_mask, sizes, self._like))

    def _base(self, known: Points, x: Tensor) -> Gaussians:
        """Of contexts alone, with one function: (1, B, m, y_dim)."""
        h = self.encoder.represent(self.encoder(*known), known.mask, x)
        found: Gaussians = self.decoder(h[None], x)
        return found


class CNP(NeuralProcess):
    """The conditional neural process: encodes each context, takes the mean, decodes at each target.

    It has no uncertainty about the function: joint and marginal densities agree. Arguments are those of
    :class:`NeuralProcess`.

    Reference: Garnelo et al., "Conditional Neural Processes", ICML 2018.

    Example:
        >>> import torch
        >>> from probkernels.amortized import CNP
        >>> model = CNP(x_dim=1, width=32)
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> prediction = model(x, y, torch.rand(8, 20, 1))
        >>> prediction.mean.shape, prediction.stddev.shape
        (torch.Size([8, 20]), torch.Size([8, 20]))
    """

    def _predict(self, known: Points, x: Tensor, n: int, generator: torch.Generator | None) -> Gaussians:
        return self._base(known, x)

    def _loss(self, known: Points, every: Points, n: int, generator: torch.Generator | None) -> Tensor:
        return -mean_over_points(log_density(every, self._base(known, every.x)), every.mask).mean()


class CANP(CNP):
    """The conditional neural process with attention: targets attend to contexts. Arguments: :class:`NeuralProcess`.

    Reference: Kim et al., "Attentive Neural Processes", ICLR 2019.

    Example:
        >>> import torch
        >>> from probkernels.amortized import CANP
        >>> model = CANP(x_dim=2, y_dim=3, width=32)
        >>> model(torch.rand(8, 5, 2), torch.rand(8, 5, 3), torch.rand(8, 20, 2)).mean.shape
        torch.Size([8, 20, 3])
    """

    attentive = True


class NP(NeuralProcess):
    """The latent neural process: a Gaussian latent variable z says which function it is.

    The prior of z is q(z | contexts). The loss is the negative ELBO with q(z | all points), divided by the points; for
    ``n_samples`` above 1 the importance-weighted bound. Arguments are those of :class:`NeuralProcess`, and:

    Args:
        latent_dim: size of z; None for ``width``.

    Reference: Garnelo et al., "Neural Processes", 2018.

    Example:
        >>> import torch
        >>> from probkernels.amortized import NP
        >>> model = NP(x_dim=1, width=32)
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> model(x, y, torch.rand(8, 20, 1), n_samples=7).functions.shape
        torch.Size([7, 8, 20])
    """

    default_encoders = 1

    def __init__(
        self, x_dim: int, y_dim: int = 1, *, latent_dim: int | None = None, width: int = 128, **options: object
    ):
        self.latent_dim = width if latent_dim is None else latent_dim
        checks.integer(type(self).__name__, "latent_dim", self.latent_dim)
        super().__init__(x_dim, y_dim, width=width, **options)  # type: ignore[arg-type]
        inputs = self.x_dim + self.y_dim
        self.latent_points = PointEncoder(inputs, width, 4, self.heads, self.attention_scale, self.attentive)
        self.latent_pool = mlp(width, width, 2 * self.latent_dim, 2)

    def _decoded(self) -> tuple[int, int]:
        return self.encoder.outputs + self.latent_dim, 0

    def latent(self, points: Points) -> Gaussians:
        """Mean and standard deviation of q(z | points): (B, latent_dim)."""
        h = self.latent_points(torch.cat([points.x, points.y], -1), points.mask)
        mean, raw = self.latent_pool(masked_mean(h, points.mask)).chunk(2, -1)
        return mean, 0.1 + 0.9 * raw.sigmoid()

    def _decode(self, known: Points, x: Tensor, z: Tensor) -> Gaussians:
        """Of latent variables (K, B, latent_dim)."""
        h = self.encoder.represent(self.encoder(*known), known.mask, x)
        both = [h.expand(len(z), *h.shape), z[:, :, None].expand(-1, -1, h.shape[1], -1)]
        found: Gaussians = self.decoder(torch.cat(both, -1), x)
        return found

    def _predict(self, known: Points, x: Tensor, n: int, generator: torch.Generator | None) -> Gaussians:
        return self._decode(known, x, _drawn(*self.latent(known), n, generator))

    def _loss(self, known: Points, every: Points, n: int, generator: torch.Generator | None) -> Tensor:
        prior, posterior = self.latent(known), self.latent(every)
        z = _drawn(*posterior, n, generator)
        fit = log_density(every, self._decode(known, every.x, z)).sum(-1)
        points = every.x.shape[1] if every.mask is None else every.mask.sum(1)
        if n == 1:
            bound = fit[0] - _divergence(posterior, prior)
        else:
            bound = log_mean_exp(fit + gaussian_log_density(z, *prior) - gaussian_log_density(z, *posterior))
        return -(bound / points).mean()


class ANP(NP):
    """The latent neural process with attention. Arguments are those of :class:`NP`.

    Reference: Kim et al., "Attentive Neural Processes", ICLR 2019.

    Example:
        >>> import torch
        >>> from probkernels.amortized import ANP
        >>> model = ANP(x_dim=1, width=32)
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> model.loss(x, y, x, y).shape
        torch.Size([])
    """

    attentive = True


def _drawn(mean: Tensor, stddev: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """n draws (n, B, d)."""
    noise = torch.randn(n, *mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + stddev * noise


def _divergence(q: Gaussians, p: Gaussians) -> Tensor:
    """KL(q || p) of independent Gaussians, summed over the last dimension."""
    ratio = (q[1] / p[1]).square()
    return ((ratio + ((q[0] - p[0]) / p[1]).square() - 1 - ratio.log()) / 2).sum(-1)
