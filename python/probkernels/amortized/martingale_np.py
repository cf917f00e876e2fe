"""Martingale posterior neural processes: functional uncertainty from generated data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._np_encoders import AttentionBlock
from ._np_inputs import Points
from .neural_process import Gaussians, NeuralProcess, log_density, mean_over_points
from .np_predictive import log_mean_exp


class ISABGenerator(nn.Module):
    """Generates features of pseudo contexts: a set of noise attends to the contexts and they to it.

    H = MAB(contexts, noise), then MAB(noise, H) and a linear layer. Noise that is permuted gives features that are
    permuted alike, so the features are exchangeable; the order of the contexts has no influence.

    Args:
        width: size of a feature vector.
        heads: number of heads, which divides the width.
        scale: what the scores are divided by the square root of: the "model"'s width, or that of a "head".

    Reference: Lee et al., "Martingale Posterior Neural Processes", ICLR 2023.

    Example:
        >>> import torch
        >>> from probkernels.amortized import ISABGenerator
        >>> generate = ISABGenerator(16, heads=4)
        >>> generate(torch.randn(2, 5, 16), torch.randn(10, 2, 3, 16)).shape
        torch.Size([10, 2, 3, 16])
    """

    def __init__(self, width: int, heads: int = 8, scale: str = "model") -> None:
        super().__init__()
        self.to_contexts = AttentionBlock(width, heads, scale)
        self.to_noise = AttentionBlock(width, heads, scale)
        self.last = nn.Linear(width, width)

    def forward(self, contexts: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of pseudo contexts.

        Args:
            contexts: (B, n, width) features.
            noise: (K, B, N, width), standard normal.
            mask: (B, n) bool, True for contexts that exist.

        Returns:
            (K, B, N, width).
        """
        h = self.to_contexts(contexts, noise)  # the queries are projected once for all K
        found: Tensor = self.last(self.to_noise(noise, h, mask=mask))
        return found


class MPNPLosses(NamedTuple):
    """The three terms of :class:`MPNP`'s loss, in nats a point, means over tasks: 0-d tensors.

    Example:
        >>> import torch
        >>> from probkernels.amortized import MPNP
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> MPNP(x_dim=1, width=32).losses(x, y, x, y)._fields
        ('marginal', 'amortization', 'pseudo')
    """

    marginal: Tensor
    """-log of the mean over functions of the joint density, with contexts and pseudo contexts."""
    amortization: Tensor
    """-log density with contexts alone."""
    pseudo: Tensor
    """-log density with pseudo contexts alone, the mean over functions. 0 if there are none."""


class MPNP(NeuralProcess):
    """The martingale posterior neural process: a function for each set of generated pseudo contexts.

    A network generates features of pseudo contexts, given the contexts. The encoder takes the mean of both: its spread
    over draws is a martingale posterior, without a prior or a family of posteriors to choose. Arguments are those of
    :class:`NeuralProcess`, and:

    Args:
        n_pseudo: pseudo contexts of a function. With many of them, their average hides the noise until the network has
            learned to correlate them; start with few. 0 makes the model a :class:`CNP`.
        weights: of the three terms of the loss, see :class:`MPNPLosses`.

    Attributes:
        generate: the network, an :class:`ISABGenerator`. Another module of its signature may replace it.

    Reference: Lee et al., "Martingale Posterior Neural Processes", ICLR 2023.

    Example:
        >>> import torch
        >>> from probkernels.amortized import MPNP
        >>> model = MPNP(x_dim=1, width=32)
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> prediction = model(x, y, torch.rand(8, 20, 1), n_samples=7)
        >>> prediction.functions.shape, prediction.joint_log_prob(torch.rand(8, 20)).shape
        (torch.Size([7, 8, 20]), torch.Size([8]))
    """

    train_samples = 8

    def __init__(
        self,
        x_dim: int,
        y_dim: int = 1,
        *,
        n_pseudo: int = 1,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        **options: object,
    ) -> None:
        super().__init__(x_dim, y_dim, **options)  # type: ignore[arg-type]
        self.n_pseudo = checks.integer(self.name, "n_pseudo", n_pseudo, 0)
        self.weights = tuple(checks.number(self.name, "weights", weight) for weight in weights)
        if len(self.weights) != 3 or min(self.weights) < 0:
            expected = "three numbers >= 0: of marginal, amortization, pseudo"
            raise ValueError(message(self.name, "weights", expected, checks.shown(weights)))
        self.generate: nn.Module = ISABGenerator(self.encoder.features, self.heads, self.attention_scale)

    def pseudo_contexts(
        self, features: Tensor, mask: Tensor | None, n: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws n sets of features (n, B, n_pseudo, d), given those of the contexts (B, contexts, d)."""
        shape = (n, len(features), self.n_pseudo, features.shape[-1])
        noise = torch.randn(shape, generator=generator, dtype=features.dtype, device=features.device)
        found: Tensor = self.generate(features, noise, mask) if self.n_pseudo else noise
        return found

    def losses(
        self,
        x_ctx: Tensor,
        y_ctx: Tensor,
        x_tar: Tensor,
        y_tar: Tensor,
        mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        *,
        n_samples: int = 8,
        generator: torch.Generator | None = None,
    ) -> MPNPLosses:
        """The three terms of :meth:`loss`, which adds them with their weights. The arguments are the same."""
        known, every = self._task(x_ctx, y_ctx, x_tar, y_tar, mask, target_mask)
        checks.integer(self.name, "n_samples", n_samples)
        return self._losses(known, every, n_samples, generator)

    def _losses(self, known: Points, every: Points, n: int, generator: torch.Generator | None) -> MPNPLosses:
        features = self.encoder(*known)
        pseudo = self.pseudo_contexts(features, known.mask, n, generator)
        both = log_density(every, self._with(features, pseudo, known.mask, every.x))
        points = every.x.shape[1] if every.mask is None else every.mask.sum(1)
        marginal = -(log_mean_exp(both.sum(-1)) / points).mean()
        alone = self._with(features, pseudo[:1, :, :0], known.mask, every.x)
        amortization = -mean_over_points(log_density(every, alone), every.mask).mean()
        if not self.n_pseudo:
            return MPNPLosses(marginal, amortization, torch.zeros_like(marginal))
        generated = self.decoder(self.encoder.represent(pseudo, None, every.x.expand(n, *every.x.shape)), every.x)
        return MPNPLosses(marginal, amortization, -mean_over_points(log_density(every, generated), every.mask).mean())

    def _loss(self, known: Points, every: Points, n: int, generator: torch.Generator | None) -> Tensor:
        terms = self._losses(known, every, n, generator)
        return torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()

    def _predict(self, known: Points, x: Tensor, n: int, generator: torch.Generator | None) -> Gaussians:
        features = self.encoder(*known)
        return self._with(features, self.pseudo_contexts(features, known.mask, n, generator), known.mask, x)

    def _with(self, features: Tensor, pseudo: Tensor, mask: Tensor | None, x: Tensor) -> Gaussians:
        """Predictions from contexts (B, n, d) and pseudo contexts (K, B, N, d) together."""
        both = torch.cat([features.expand(len(pseudo), *features.shape), pseudo], 2)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), pseudo.shape[2])], 1)
        found: Gaussians = self.decoder(self.encoder.represent(both, mask, x.expand(len(pseudo), *x.shape)), x)
        return found


class MPANP(MPNP):
    """The martingale posterior neural process with attention. Arguments are those of :class:`MPNP`.

    A pseudo context has a key and a value of its own, to which targets attend, beside what is pooled. How the paper
    generates keys could not be recovered: this is our definition.

    Reference: Lee et al., "Martingale Posterior Neural Processes", ICLR 2023.

    Example:
        >>> import torch
        >>> from probkernels.amortized import MPANP
        >>> model = MPANP(x_dim=1, width=32, n_pseudo=4)
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> model(x, y, x, n_samples=7).mean.shape
        torch.Size([8, 5])
    """

    attentive = True
