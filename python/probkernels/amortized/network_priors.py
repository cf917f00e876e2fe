"""Networks of random weights as priors: classes of small Bayesian networks, and tables of random architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._draws import beta, gamma, standardize, take_points
from .task_priors import TaskPrior

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class BNNPrior(TaskPrior):
    """Classes drawn by a network of two layers: x ~ N(0, I), weights and biases ~ N(0, 1), y ~ Categorical(softmax).

    Each data set has a network of its own. Afterwards x gets mean 0 and standard deviation 1 over the data set.

    Args:
        features: width F of x.
        hidden: width of the hidden layer. The paper takes (features, hidden) = (3, 5) and (8, 64).
        classes: number of classes, at least 2.
        activation: function between the layers, such as ``torch.tanh``; None for none, as in the released code.
        dtype: of x; labels are int64.
        device: of the draws.

    Example:
        >>> import torch
        >>> from probkernels.amortized import BNNPrior
        >>> x, y = BNNPrior(features=8, hidden=64, activation=torch.tanh).sample(16, 100)
        >>> x.shape, y.shape, int(y.max())
        (torch.Size([16, 100, 8]), torch.Size([16, 100]), 1)
    """

    features: int = 3
    hidden: int = 5
    classes: int = 2
    activation: Activation | None = None

    def _check(self) -> None:
        checks.integer("BNNPrior", "features", self.features)
        checks.integer("BNNPrior", "hidden", self.hidden)
        checks.integer("BNNPrior", "classes", self.classes, 2)
        _check_activation("BNNPrior", self.activation, or_none=True)

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": self.at}
        x = torch.randn(batch, n, self.features, **options)
        first, second = (
            (torch.randn(batch, i, o, **options), torch.randn(batch, 1, o, **options))
            for i, o in ((self.features, self.hidden), (self.hidden, self.classes))
        )
        h = x @ first[0] + first[1]
        logits = (self.activation(h) if self.activation else h) @ second[0] + second[1]
        # the largest of logit + Gumbel is a draw from the softmax; exponentials never give 0
        y = (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(-1)
        return standardize(x).to(self.dtype), y


@dataclass(frozen=True, eq=False)
class TabularBNNPrior(TaskPrior):
    """Tables made by networks of random architectures: each data set draws its own network.

    A network draws its width, its number of features, the standard deviation s of its weights and that of its noise.
    Weights and biases are N(0, s / (1 - dropout)) and then dropped; the first weight matrix is exempt from dropout.
    x ~ N(0, I); each layer after the first is activation, linear map, noise. x and y get mean 0 and standard deviation
    1 over the data set, and the class is y > median(y). The defaults are those of the paper's final configuration.

    Args:
        features: most features, the width of x; unused columns, at the end, are 0. Data sets use 2 to ``features``.
        feature_beta: (a, b) of Beta: 2 + floor((features - 1) * Beta(a, b)) are used.
        layers: linear layers, at least 3: a number, or (fewest, most).
        most_width: hidden layers have 2 to ``most_width`` units.
        width_beta: (a, b): 2 + floor((most_width - 1) * Beta(a, b)) units.
        noise_gamma: (shape, SCALE) of the noise's standard deviation.
        weight_gamma: (shape, SCALE) of the weights' standard deviation.
        dropout: share of weights that are 0, in [0, 1).
        activation: function of the hidden layers.
        classes: True for labels 0 and 1; False for y as a number.
        order_y: whether points are ordered so that classes alternate. The class that comes first is random, or the
            larger one.
        scale_by_used: whether x is divided by the share of features in use.
        dtype: of x and of y as a number; labels are int64.
        device: of the draws.

    Example:
        >>> import torch
        >>> from probkernels.amortized import TabularBNNPrior
        >>> x, y = TabularBNNPrior(features=10).sample(16, 30, torch.Generator().manual_seed(0))
        >>> x.shape, y.float().mean()
        (torch.Size([16, 30, 10]), tensor(0.5000))
    """

    features: int = 60
    feature_beta: tuple[float, float] = (1.0, 1.6)
    layers: int | tuple[int, int] = 3
    most_width: int = 150
    width_beta: tuple[float, float] = (2.0, 4.0)
    noise_gamma: tuple[float, float] = (1.866, 0.05275)
    weight_gamma: tuple[float, float] = (3.619, 0.06774)
    dropout: float = 0.0
    activation: Activation = torch.tanh
    classes: bool = True
    order_y: bool = False
    scale_by_used: bool = False

    def _check(self) -> None:
        op = "TabularBNNPrior"
        checks.integer(op, "features", self.features, 2)
        checks.integer(op, "most_width", self.most_width, 2)
        for name in ("feature_beta", "width_beta", "noise_gamma", "weight_gamma"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != 2:
                raise TypeError(message(op, name, "two positive numbers", checks.describe(value)))
            for number in value:
                checks.positive(op, name, number)
        fewest, most = self._layers
        checks.integer(op, "layers", fewest, 3)
        checks.integer(op, "layers", most, fewest)
        checks.fraction(op, "dropout", self.dropout)
        _check_activation(op, self.activation)
        if self.order_y and not self.classes:
            raise ValueError(message(op, "order_y", "False with classes=False", "True"))

    @property
    def _layers(self) -> tuple[int, int]:
        if isinstance(self.layers, tuple) and len(self.layers) == 2:
            return self.layers
        return self.layers, self.layers

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        used = self._units(self.features, self.feature_beta, batch, generator)
        in_use = torch.arange(self.features, device=self.at) < used[:, None]  # (B, F)
        options: dict[str, Any] = {"generator": generator, "dtype": self.dtype, "device": self.at}
        x = torch.randn(batch, n, self.features, **options) * in_use[:, None]
        y = standardize(self._outputs(x, in_use, generator)[..., None])[..., 0]
        x = standardize(x)
        if self.scale_by_used:
            x = x / (used[:, None, None] / self.features)
        if not self.classes:
            return x.to(self.dtype), y.to(self.dtype)
        labels = (y > y.median(1, keepdim=True).values).long() if n else y.long()
        if self.order_y:
            x, labels = _alternate(x, labels, generator)
        return x.to(self.dtype), labels

    def _units(self, most: int, ab: tuple[float, float], batch: int, generator: torch.Generator | None) -> Tensor:
        share = beta(*ab, batch, generator, self.at)
        return (2 + ((most - 1) * share).floor().long()).clamp(max=most)

    def _outputs(self, x: Tensor, in_use: Tensor, generator: torch.Generator | None) -> Tensor:
        """The networks' outputs (B, n). All are as wide and deep as the largest; what a network lacks is masked."""
        batch = len(x)
        options: dict[str, Any] = {"generator": generator, "dtype": self.dtype, "device": self.at}
        width = self._units(self.most_width, self.width_beta, batch, generator)
        fewest, most = self._layers
        depth = torch.randint(fewest, most + 1, (batch,), generator=generator, device=self.at)
        noise, spread = (gamma(g, batch, generator, self.at) for g in (self.noise_gamma, self.weight_gamma))
        widest = int(width.max())
        units = (torch.arange(widest, device=self.at) < width[:, None])[:, None]  # (B, 1, H)

        def drawn(rows: int, columns: int, keep: float) -> Tensor:
            found = torch.randn(batch, rows, columns, **options) * (spread / keep).to(self.dtype)[:, None, None]
            if keep == 1:
                return found
            return found * (torch.rand(batch, rows, columns, **options) < keep)

        keep = 1 - self.dropout
        h = (x @ (drawn(x.shape[2], widest, 1.0) * in_use[..., None]) + drawn(1, widest, keep)) * units
        y = x.new_zeros(x.shape[:2])
        for layer in range(2, most + 1):
            h = self.activation(h) * units
            if layer >= fewest:  # the last layer of some
                out = h @ drawn(widest, 1, keep) + drawn(1, 1, keep)
                out = out + noise.to(self.dtype)[:, None, None] * torch.randn(out.shape, **options)
                y = torch.where((depth == layer)[:, None], out[..., 0], y)
            if layer < most:
                h = h @ drawn(widest, widest, keep) + drawn(1, widest, keep)
                h = h + noise.to(self.dtype)[:, None, None] * torch.randn(h.shape, **options)
        return y


def _alternate(x: Tensor, labels: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Points (B, n, F) and labels (B, n) in the order in which classes alternate."""
    batch, n = labels.shape
    first = torch.randint(2, (batch, 1), generator=generator, device=x.device)
    ones = labels.sum(1, keepdim=True)
    first = torch.where(2 * ones == n, first, (2 * ones > n).long())
    ranks = torch.where(labels == 1, labels.cumsum(1), (1 - labels).cumsum(1))
    order = (2 * ranks + (labels != first)).argsort(dim=1, stable=True)
    return take_points(x, order), labels.gather(1, order)


def _check_activation(op: str, value: object, or_none: bool = False) -> None:
    if not callable(value) and not (or_none and value is None):
        expected = "a function of tensors" + (" or None" if or_none else "")
        raise TypeError(message(op, "activation", expected, checks.describe(value)))
