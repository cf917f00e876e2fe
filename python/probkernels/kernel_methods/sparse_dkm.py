"""The deep kernel machine with inducing points: linear in the data, for regression and classification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message
from .gram_kernels import GramKernel, GramState, as_gram_kernel
from .gram_layers import FORMS, LEAST_NOISE, NORMS, GramBatchNorm, GramLayer, InducingOutput, above_least, check_nu


class GaussianLikelihood(nn.Module):
    """Targets (B, C) are function values plus noise of a learned variance.

    Args:
        noise: variance of the noise at first, above ``least_noise``.
        least_noise: what the learned variance stays above. Without a floor, the likelihood of targets that the inducing
            points fit exactly rises without end as the noise vanishes. 0: none.

    Raises:
        TypeError, ValueError: an argument is no number, not positive, or not above the floor.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GaussianLikelihood
        >>> one = torch.zeros(1, 1)
        >>> tuple(GaussianLikelihood()(one, torch.ones(1), one).shape)
        (1,)
    """

    def __init__(self, noise: float = 0.1, *, least_noise: float = LEAST_NOISE) -> None:
        super().__init__()
        self.least_noise = least_noise
        start = above_least("GaussianLikelihood", noise, least_noise, "lower least_noise")
        self.log_noise = nn.Parameter(torch.tensor(start, dtype=torch.float64).log())

    @property
    def noise(self) -> Tensor:
        """(): the variance of the noise."""
        return self.least_noise + self.log_noise.exp()

    def forward(self, mean: Tensor, variance: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The expected log likelihood (B,) of targets under the posterior of the function values; closed form."""
        noise = self.noise.to(mean)
        each = (y - mean).square() + variance[:, None]
        return -(each / noise + noise.log() + math.log(2 * math.pi)).sum(1) / 2


class CategoricalLikelihood(nn.Module):
    """Targets (B,) are classes of a softmax of the function values; expectations are means over samples.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import CategoricalLikelihood
        >>> tuple(CategoricalLikelihood(5).log_probs(torch.zeros(2, 3), torch.ones(2)).shape)
        (5, 2, 3)
    """

    def __init__(self, samples: int = 100) -> None:
        super().__init__()
        self.samples = checks.integer("CategoricalLikelihood", "samples", samples)

    def log_probs(self, mean: Tensor, variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log probabilities (samples, B, C) of classes, for function values drawn from the posterior."""
        shape = (self.samples, *mean.shape)
        noise = torch.randn(shape, dtype=mean.dtype, device=mean.device, generator=generator)
        spread = variance.clamp_min(torch.finfo(mean.dtype).eps).sqrt()[:, None]
        return (mean + spread * noise).log_softmax(-1)

    def forward(self, mean: Tensor, variance: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The expected log likelihood (B,) of classes under the posterior of the function values."""
        found = self.log_probs(mean, variance, generator)
        return -F.cross_entropy(found.permute(1, 2, 0), y[:, None].expand(-1, self.samples), reduction="none").mean(1)


class DKMOutput(NamedTuple):
    """What a sparse deep kernel machine says of a batch.

    Attributes:
        mean: (B, C), means of the function values.
        variance: (B,), their variances, which all outputs share.
        kl: (), nu times the divergences of all layers, plus that of the output.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import DKMOutput
        >>> DKMOutput(torch.zeros(2, 1), torch.ones(2), torch.zeros(())).variance
        tensor([1., 1.])
    """

    mean: Tensor
    variance: Tensor
    kl: Tensor


class SparseDKM(nn.Module):
    """A deep kernel machine with inducing points.

    The state is the Gram matrix of n inducing points and what follows from it for a batch: O(n^3 + B n^2) for each
    layer and step. L Gram layers lie between L + 1 kernels; the output is a sparse variational Gaussian process. With
    all training points as inducing points, the Gram layers are those of :class:`DeepKernelMachine`.

    Args:
        inducing: (n, D) inputs of the inducing points, float32 or float64, which becomes the dtype of the model.
        outputs: number of outputs, or of classes.
        depth: number of Gram layers L; 0 gives a sparse variational Gaussian process.
        nu: relative width, a positive number for all layers or one for each. May be infinite.
        kernel: a name or a :class:`GramKernel`, as in :class:`DeepKernelMachine`.
        likelihood: "gaussian", "categorical", or a module with their ``forward``.
        kl: "exact" or "taylor" (for Gram layers and the output), see :func:`gram_kl`.
        batch_norm: None, or the kind of a :class:`GramBatchNorm` after each Gram layer.
        stochastic: whether training draws Gram matrices, see :class:`GramLayer`.
        temper: whether the divergence of the output is divided by ``outputs``.
        learn_inducing: whether the inputs of the inducing points are parameters.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import SparseDKM
        >>> x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
        >>> model = SparseDKM(x[::2], outputs=1, depth=1, likelihood="gaussian")
        >>> found = model(x)
        >>> tuple(found.mean.shape), tuple(found.variance.shape), model.elbo(x, x.sin(), count=9).ndim
        ((9, 1), (9,), 0)
    """

    def __init__(
        self,
        inducing: Tensor,
        outputs: int,
        *,
        depth: int = 2,
        nu: float | Sequence[float] = 1.0,
        kernel: str | GramKernel = "relu",
        likelihood: str | nn.Module = "categorical",
        kl: str = "exact",
        batch_norm: str | None = None,
        stochastic: bool = False,
        temper: bool = False,
        learn_inducing: bool = True,
    ) -> None:
        op = "SparseDKM"
        super().__init__()
        checks.wide_float_tensor(op, "inducing", inducing, checks.AS_TENSOR)
        if inducing.ndim != 2 or 0 in inducing.shape:
            raise ValueError(message(op, "inducing", "shape (n, D)", f"shape {tuple(inducing.shape)}"))
        checks.finite(op, "inducing", inducing.detach())
        checks.integer(op, "outputs", outputs)
        checks.integer(op, "depth", depth, least=0)
        checks.one_of(op, "kl", kl, FORMS)
        checks.one_of(op, "batch_norm", batch_norm, (None, *NORMS))
        n = len(inducing)
        widths = check_nu(op, nu, depth)
        self.inducing = nn.Parameter(inducing.detach().clone(), requires_grad=learn_inducing)
        self.kernels = nn.ModuleList(as_gram_kernel(op, kernel) for _ in range(depth + 1))
        self.layers = nn.ModuleList(GramLayer(n, width, kl=kl, stochastic=stochastic) for width in widths)
        norms = (nn.Identity() if batch_norm is None else GramBatchNorm(batch_norm) for _ in widths)
        self.norms = nn.ModuleList(norms)
        self.output = InducingOutput(n, outputs, kl)
        self.temper = temper
        self.likelihood = _likelihood(op, likelihood)
        self.to(inducing)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> DKMOutput:
        """Posterior of the function values at x (B, D), and the divergence. ``generator`` is for stochastic layers."""
        kernel, total = self.last_kernel(x, generator)
        mean, variance, kl = self.output(kernel)
        return DKMOutput(mean, variance, total + (kl / mean.shape[1] if self.temper else kl))

    def last_kernel(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[GramState, Tensor]:
        """Kernel matrices below the output for x (B, D), and the sum of nu times the divergences of Gram layers."""
        checks.wide_float_tensor("SparseDKM", "x", x, checks.AS_TENSOR)
        inputs = self.inducing.shape[1]
        if x.ndim != 2 or x.shape[1] != inputs:
            raise ValueError(message("SparseDKM", "x", f"shape (B, {inputs})", f"shape {tuple(x.shape)}"))
        state = inner_products(self.inducing, x)
        total = state.ii.new_zeros(())
        state = self.kernels[0].of_state(state)  # type: ignore[operator]
        for layer, norm, kernel in zip(self.layers, self.norms, self.kernels[1:], strict=True):
            state, kl = layer(state, generator)
            state, total = kernel.of_state(norm(state)), total + kl  # type: ignore[operator]
        return state, total

    def kl(self) -> Tensor:
        """The divergence of all layers and of the output, ()."""
        return self(self.inducing[:0]).kl

    def elbo(self, x: Tensor, y: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """The objective of a batch, (): its mean expected log likelihood minus the divergence over ``count``.

        Args:
            x: (B, D) inputs.
            y: (B, C) targets, or (B,) classes.
            count: number of training points, of which the batch is a part.
            generator: for samples of the likelihood and of stochastic layers.
        """
        found = self(x, generator)
        return self.likelihood(found.mean, found.variance, y, generator).mean() - found.kl / count

    @torch.no_grad()
    def start_from(self, targets: Tensor) -> None:
        """Sets the mean of the output by targets (n, C) at the inducing points; the Gram layers start as the NNGP."""
        training = self.training
        kernel, _ = self.eval().last_kernel(self.inducing[:0])
        self.train(training)
        self.output.start_from(kernel.ii, targets.to(kernel.ii))


def inner_products(inducing: Tensor, x: Tensor) -> GramState:
    """Inner products of inputs (n, D) and (B, D), divided by D."""
    inputs = inducing.shape[1]
    return GramState(inducing @ inducing.mT / inputs, x @ inducing.mT / inputs, x.square().sum(1) / inputs)


def _likelihood(op: str, likelihood: str | nn.Module) -> nn.Module:
    if isinstance(likelihood, nn.Module):
        return likelihood
    checks.one_of(op, "likelihood", likelihood, ("gaussian", "categorical"))
    return GaussianLikelihood() if likelihood == "gaussian" else CategoricalLikelihood()
