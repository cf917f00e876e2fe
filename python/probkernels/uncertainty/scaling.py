"""Temperature, vector and Platt scaling: the classic ways to calibrate logits, fitted by likelihood."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._fitted import FittedMap
from ._inputs import class_labels, widened

STEPS = 200  # of L-BFGS; it stops earlier where the gradient is 0


def check_logits(op: str, logits: object, width: int | None = None, name: str = "logits") -> Tensor:
    """Checks finite logits (N, C), C >= 2, or C equal to ``width``, and returns them as float32 or float64."""
    checks.float_tensor(op, name, logits, checks.AS_TENSOR)
    assert isinstance(logits, Tensor)
    if logits.ndim != 2 or logits.shape[1] < 2 or (width is not None and logits.shape[1] != width):
        wanted = "(N, C) with C >= 2" if width is None else f"(N, {width})"
        hint = "for two classes stack zeros and the logit of class 1" if logits.ndim == 1 else ""
        raise ValueError(message(op, name, f"shape {wanted}", f"shape {tuple(logits.shape)}", hint))
    checks.finite(op, name, logits.detach(), "clamp logits of probability 0, such as -inf of a mask")
    return widened(logits)


def check_calibration_set(op: str, logits: object, labels: object, name: str = "logits") -> tuple[Tensor, Tensor]:
    """Checks logits and labels to fit a map to, and returns them without a graph: copies, which autograd may keep even
    if they come from inference mode."""
    given = check_logits(op, logits, name=name).detach().clone()
    classes = class_labels(op, labels, given, name)
    if not len(given):
        raise ValueError(message(op, name, "at least one sample", f"shape {tuple(given.shape)}"))
    return given, classes.clone()


def _minimize(loss: Any, *parameters: Tensor) -> None:
    """Minimizes a convex loss of float64 parameters in place."""
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=STEPS, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def _standardized(wide: Tensor, dim: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of mean 0 and variance 1, which make a fit independent of their unit; the mean; and the standard
    deviation, 1 if all are equal."""
    mean, std = wide.mean(dim), wide.std(dim, correction=0)
    std = std.where(std > 0, 1)
    return (wide - mean) / std, mean, std


class TemperatureScaling(FittedMap):
    """Divides logits by the temperature of the largest likelihood. The predicted class stays the same.

    From Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, https://arxiv.org/abs/1706.04599.

    Attributes:
        temperature: the fitted temperature, a scalar; None before :meth:`fit`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import TemperatureScaling
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> scaling = TemperatureScaling().fit(logits, torch.tensor([0, 0, 1, 1]))  # three of four are right
        >>> scaling(logits)[0].exp()
        tensor([0.7500, 0.2500])
    """

    temperature: Tensor | None

    def __init__(self) -> None:
        super().__init__("temperature")

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, logits: Tensor, labels: Tensor) -> TemperatureScaling:
        """Fits the temperature to logits (N, C) and labels (N,) of a calibration set; returns itself."""
        given, classes = check_calibration_set("TemperatureScaling.fit", logits, labels)
        wide, log_a = given.double(), torch.zeros((), dtype=torch.float64, device=given.device)
        unit, _, std = _standardized(wide - wide.mean(1, keepdim=True), None)
        _minimize(lambda: nn.functional.cross_entropy(log_a.exp() * unit, classes), log_a)
        self._keep(given, temperature=std * (-log_a).exp())
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C) -> calibrated log-probabilities (N, C)."""
        self._check_fitted()
        assert self.temperature is not None
        return (check_logits("TemperatureScaling", logits) / self.temperature).log_softmax(1)


class VectorScaling(FittedMap):
    """A factor and an offset for the logit of each class, of the largest likelihood. The predicted class may change.

    From Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, https://arxiv.org/abs/1706.04599.

    Attributes:
        scale: the fitted factors (C,); None before :meth:`fit`.
        bias: the fitted offsets (C,).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import VectorScaling
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> scaling = VectorScaling().fit(logits, torch.tensor([0, 0, 1, 1, 0]))
        >>> scaling(logits)[[0, 3]].exp()
        tensor([[0.6667, 0.3333],
                [0.5000, 0.5000]])
    """

    scale: Tensor | None
    bias: Tensor | None

    def __init__(self) -> None:
        super().__init__("scale", "bias")

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, logits: Tensor, labels: Tensor) -> VectorScaling:
        """Fits factors and offsets to logits (N, C) and labels (N,) of a calibration set; returns itself."""
        given, classes = check_calibration_set("VectorScaling.fit", logits, labels)
        absent = (classes.bincount(minlength=given.shape[1]) == 0).nonzero()[:, 0].tolist()
        if absent:
            hint = "its best offset is -infinity; TemperatureScaling needs no sample of every class"
            raise ValueError(message("VectorScaling.fit", "labels", "every class", f"none of class {absent[0]}", hint))
        unit, mean, std = _standardized(given.double(), 0)
        scale, bias = torch.ones_like(mean), torch.zeros_like(mean)
        _minimize(lambda: nn.functional.cross_entropy(scale * unit + bias, classes), scale, bias)
        scale = scale.detach() / std
        bias = bias.detach() - scale * mean
        self._keep(given, scale=scale, bias=bias - bias.mean())  # a common offset has no effect
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C) -> calibrated log-probabilities (N, C)."""
        self._check_fitted()
        assert self.scale is not None and self.bias is not None
        return (self.scale * check_logits("VectorScaling", logits, len(self.scale)) + self.bias).log_softmax(1)


class PlattScaling(FittedMap):
    """A logistic regression of the label on one score, for two classes.

    From Platt, *Probabilistic Outputs for Support Vector Machines*, 1999. The targets are Platt's, a little inside of
    (0, 1): with m samples of class 1 and n of class 0 they are (m + 1) / (m + 2) and 1 / (n + 2), so that the fit
    exists for separable scores too. scikit-learn's ``method="sigmoid"`` is the same.

    Attributes:
        scale: the fitted factor, a scalar; None before :meth:`fit`.
        bias: the fitted offset.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import PlattScaling
        >>> scaling = PlattScaling().fit(torch.tensor([-3.0, -1.0, 1.0, 3.0]), torch.tensor([0, 0, 1, 1]))
        >>> scaling(torch.tensor([0.0, 1.0, 3.0]))
        tensor([0.5000, 0.6116, 0.7961])
    """

    scale: Tensor | None
    bias: Tensor | None

    def __init__(self) -> None:
        super().__init__("scale", "bias")

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, scores: Tensor, labels: Tensor) -> PlattScaling:
        """Fits the map to scores (N,), such as logits of class 1, and labels (N,) in {0, 1}; returns itself."""
        given = self._scores("PlattScaling.fit", scores).detach().clone()
        hit = class_labels("PlattScaling.fit", labels, given, "scores")
        if not len(given):
            raise ValueError(message("PlattScaling.fit", "scores", "at least one sample", "shape (0,)"))
        ones = int(hit.sum())
        target = torch.where(hit == 1, (ones + 1) / (ones + 2), 1 / (len(hit) - ones + 2)).double()
        unit, mean, std = _standardized(given.double(), None)
        scale, bias = torch.zeros_like(mean), torch.zeros_like(mean)
        loss = nn.functional.binary_cross_entropy_with_logits
        _minimize(lambda: loss(scale * unit + bias, target), scale, bias)
        scale = scale.detach() / std
        self._keep(given, scale=scale, bias=bias.detach() - scale * mean)
        return self

    def forward(self, scores: Tensor) -> Tensor:
        """Scores (N,) -> calibrated probabilities (N,) of class 1."""
        self._check_fitted()
        assert self.scale is not None and self.bias is not None
        return (self.scale * self._scores("PlattScaling", scores) + self.bias).sigmoid()

    def _scores(self, op: str, scores: object) -> Tensor:
        checks.float_tensor(op, "scores", scores, checks.AS_TENSOR)
        assert isinstance(scores, Tensor)
        if scores.ndim != 1:
            hint = "for C classes use TemperatureScaling or VectorScaling"
            raise ValueError(message(op, "scores", "shape (N,)", f"shape {tuple(scores.shape)}", hint))
        checks.finite(op, "scores", scores.detach())
        return widened(scores)
