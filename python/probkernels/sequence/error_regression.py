"""Error regression: a trained PV-RNN recognizes and predicts data online, by fitting the vectors A of a window."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .posterior_bank import adam_change
from .pvrnn import PVRNN

NAME = "ErrorRegression"
BETAS, EPS = (0.9, 0.999), 1e-8


class PVPrediction(NamedTuple):
    """``values`` (S, ahead, O): predictions. ``code``: the mean over samples that they are decoded from. ``loss`` (S,):
    that of the window after the last iteration."""

    values: Tensor
    code: Tensor
    loss: Tensor


class ErrorRegression:
    """Online recognition and prediction of S parallel streams by a PV-RNN with frozen weights.

    Each :meth:`step` takes the next observation of every stream, fits the vectors A of the last ``window`` steps by
    Adam and predicts from the end of the window with the prior. When a step leaves the window, the state before it
    moves on by one posterior step. A new step starts with A = 0; Adam's moments start anew in each step.

    Args:
        model: the network. Its weights get no gradient.
        streams: S.
        window: steps W whose A are fitted; the window grows until it has W.
        iterations: steps of Adam for each observation.
        lr: Adam's learning rate.
        w: weight of the KL in place of the layers' own; None keeps these.
        ahead: steps that are predicted.
        samples: runs of the prior whose mean is the prediction.
        generator: of all noise.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a number is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ErrorRegression, GaussianOutput, PVLayer, PVRNN
        >>> model = PVRNN([PVLayer(8, 1)], GaussianOutput(2))
        >>> online = ErrorRegression(model, streams=3, window=5, iterations=4)
        >>> for x in torch.zeros(7, 3, 2):
        ...     prediction = online.step(x)
        >>> prediction.values.shape, online.adapt.shape
        (torch.Size([3, 1, 2]), torch.Size([3, 5, 2]))
    """

    def __init__(
        self,
        model: PVRNN,
        streams: int,
        window: int,
        iterations: int = 50,
        lr: float = 0.05,
        *,
        w: float | None = None,
        ahead: int = 1,
        samples: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(model, PVRNN):
            raise TypeError(message(NAME, "model", "a PVRNN", checks.describe(model)))
        self.streams = checks.integer(NAME, "streams", streams)
        self.window = checks.integer(NAME, "window", window)
        self.iterations = checks.integer(NAME, "iterations", iterations)
        self.ahead, self.samples = checks.integer(NAME, "ahead", ahead), checks.integer(NAME, "samples", samples)
        checks.positive(NAME, "lr", lr)
        if w is not None:
            checks.non_negative(NAME, "w", w)
        self.model, self.lr, self.generator = model, lr, generator
        self.weights = model.weights if w is None else torch.full_like(model.weights, w)
        self.before: Tensor | None = None  # potentials before the window; None at the start of the streams
        self.adapt = model.weight.new_zeros(streams, 0, 2 * model.latents)
        self.seen: Tensor | None = None  # the targets of the window

    def step(self, x: Tensor) -> PVPrediction:
        """Takes observations x (S, O), or codes (S, O, bins), and predicts the next ones."""
        self._append(x)
        loss = self._fit()
        with torch.no_grad():
            end = self.model(self.adapt, h0=self.before, generator=self.generator).scan.last
            many = end.repeat_interleave(self.samples, 0)
            ahead = self.model.generate(self.ahead, h0=many, generator=self.generator)
            code = ahead.code.unflatten(0, (self.streams, self.samples)).mean(1)
        return PVPrediction(self.model.output.decode(code), code, loss)

    def _append(self, x: Tensor) -> None:
        checks.float_tensor(NAME, "x", x)
        if x.dim() < 2 or x.shape[0] != self.streams:
            wanted = f"shape ({self.streams}, outputs), a row for each stream"
            raise ValueError(message(NAME, "x", wanted, f"shape {tuple(x.shape)}"))
        target = self.model.targets(x.unsqueeze(1)).to(self.model.weight)
        if self.adapt.shape[1] == self.window:
            self._slide()
        self.adapt = torch.cat([self.adapt, self.adapt.new_zeros(self.streams, 1, self.adapt.shape[2])], 1)
        seen = [] if self.seen is None else [self.seen]
        self.seen = torch.cat([*seen, target], 1)  # a copy: the caller may fill a buffer of observations again

    @torch.no_grad()
    def _slide(self) -> None:
        """Moves the state on by the step that leaves, and drops its A."""
        assert self.seen is not None
        leaving = self.adapt[:, :1]
        self.before = self.model(leaving, h0=self.before, generator=self.generator).scan.last
        self.adapt, self.seen = self.adapt[:, 1:], self.seen[:, 1:]

    def _fit(self) -> Tensor:
        """Adam on the A of the window. A copy of the weights that wants no gradient spares their products."""
        adapt = self.adapt.clone().requires_grad_()
        mean, square = torch.zeros_like(self.adapt), torch.zeros_like(self.adapt)
        loss = adapt.new_zeros(self.streams)
        frozen = {name: p.detach() for name, p in self.model.named_parameters()}
        for i in range(self.iterations):
            noise = self.model.noise(adapt.shape[0], adapt.shape[1], self.generator)
            with torch.enable_grad():
                loss = self._loss(frozen, adapt, noise)
                (grad,) = torch.autograd.grad(loss.sum(), adapt)
            with torch.no_grad():
                adapt -= self.lr * adam_change(grad, mean, square, i + 1, BETAS, EPS)
        self.adapt = adapt.detach()
        return loss.detach()

    def _loss(self, frozen: dict[str, Tensor], adapt: Tensor, noise: Tensor) -> Tensor:
        assert self.seen is not None
        run = torch.func.functional_call(self.model, frozen, (adapt, noise), {"h0": self.before})
        return (run.scan.kl * self.weights.to(run.scan.kl)).sum((1, 2)) - self.model.log_prob(run.raw, self.seen).sum(1)
