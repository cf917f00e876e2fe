"""Bootstrapping neural processes: functional uncertainty from resampled contexts."""

from __future__ import annotations

import torch
from torch import Tensor

from ._np_inputs import Points
from .neural_process import Gaussians, NeuralProcess, log_density, mean_over_points
from .np_predictive import log_mean_exp


class BNP(NeuralProcess):
    """The bootstrapping neural process: a function for each residual bootstrap of the contexts.

    Contexts are resampled with replacement; the model predicts the original ones from them; its standardized
    residuals, resampled and centered, give new values at the contexts. Their representation is a second input of the
    decoder. No gradient flows through the new values. The loss is that of the model without bootstrap, plus the
    negative log-mean density of each point over the bootstraps. Arguments are those of :class:`NeuralProcess`.

    Reference: Lee et al., "Bootstrapping Neural Processes", NeurIPS 2020.

    Example:
        >>> import torch
        >>> from probkernels.amortized import BNP
        >>> model = BNP(x_dim=1, width=32)
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> model(x, y, torch.rand(8, 20, 1), n_samples=7).functions.shape
        torch.Size([7, 8, 20])
    """

    train_samples = 4

    def _decoded(self) -> tuple[int, int]:
        return self.encoder.outputs, self.encoder.outputs

    @torch.no_grad()
    def bootstrap(self, known: Points, n: int, generator: torch.Generator | None = None) -> Points:
        """n residual bootstraps of checked contexts (B, n, ...): points (n, B, n, ...), the ones that exist first."""
        x, y, mask = _existing_first(known)
        counts = mask.sum(1)
        picks, more_picks = _draws(counts, n, x.shape[1], generator)
        resampled = Points(_rows(x, picks), _rows(y, picks), mask.expand(n, *mask.shape))
        h = self.encoder.represent(self.encoder(*resampled), resampled.mask, x.expand(n, *x.shape))
        mean, stddev = self.decoder(h, x)
        residuals = (y - mean) / stddev
        picked = residuals.gather(2, more_picks[..., None].expand_as(residuals)).masked_fill(~mask[..., None], 0)
        centered = picked - picked.sum(2, keepdim=True) / counts[:, None, None]
        new = (mean + stddev * centered).masked_fill(~mask[..., None], 0)
        return Points(x.expand(n, *x.shape), new, resampled.mask)

    def _bootstrapped(self, known: Points, x: Tensor, n: int, generator: torch.Generator | None) -> Gaussians:
        drawn = self.bootstrap(known, n, generator)
        h = self.encoder.represent(self.encoder(*known), known.mask, x)
        extra = self.encoder.represent(self.encoder(*drawn), drawn.mask, x.expand(n, *x.shape))
        found: Gaussians = self.decoder(h.expand(n, *h.shape), x, extra)
        return found

    def _predict(self, known: Points, x: Tensor, n: int, generator: torch.Generator | None) -> Gaussians:
        return self._bootstrapped(known, x, n, generator)

    def _loss(self, known: Points, every: Points, n: int, generator: torch.Generator | None) -> Tensor:
        base = log_density(every, self._base(known, every.x))[0]
        mixed = log_mean_exp(log_density(every, self._bootstrapped(known, every.x, n, generator)))
        return -mean_over_points(base + mixed, every.mask).mean()


class BANP(BNP):
    """The bootstrapping neural process with attention. Arguments are those of :class:`NeuralProcess`.

    Reference: Lee et al., "Bootstrapping Neural Processes", NeurIPS 2020.

    Example:
        >>> import torch
        >>> from probkernels.amortized import BANP
        >>> model = BANP(x_dim=1, width=32)
        >>> x, y = torch.rand(8, 5, 1), torch.rand(8, 5)
        >>> model(x, y, x, n_samples=7).mean.shape
        torch.Size([8, 5])
    """

    attentive = True


def _existing_first(points: Points) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and mask with padding moved to the end of each row."""
    x, y, mask = points
    if mask is None:
        return x, y, x.new_ones(x.shape[:2], dtype=torch.bool)
    order = mask.to(torch.uint8).argsort(stable=True, dim=1, descending=True)
    return *(t.gather(1, order[..., None].expand_as(t)) for t in (x, y)), mask.gather(1, order)  # type: ignore[return-value]


def _draws(counts: Tensor, n: int, points: int, generator: torch.Generator | None) -> Tensor:
    """Two sets of indices (2, n, B, points), below the counts (B,) of the rows. Padding at the end adds draws and
    leaves the others as they are."""
    uniform = torch.rand(points, 2, n, len(counts), generator=generator, device=counts.device).permute(1, 2, 3, 0)
    most = counts[:, None]
    return (uniform * most).long().clamp(max=most - 1)


def _rows(values: Tensor, picks: Tensor) -> Tensor:
    """values (B, n, C) at picks (K, B, n): (K, B, n, C)."""
    return values.expand(len(picks), *values.shape).gather(2, picks[..., None].expand(*picks.shape, values.shape[-1]))
