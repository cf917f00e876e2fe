"""Prob-PSENN: a classifier that compares an input with prototypes, which are distributions and can be shown."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message
from ._inputs import class_labels
from ._prototype_fit import check_codes
from .overlap import overlap_index
from .prototypes import GaussianPrototypes, squared_distances

LEAST, MOST = -1.0, 1e4  # of the loss of a code under its class


class PrototypeOutput(NamedTuple):
    """What :class:`ProbPSENN` returns for a batch of B inputs and S draws of K prototypes.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import PrototypeOutput
        >>> out = PrototypeOutput(torch.zeros(3, 10, 2), torch.zeros(3, 10, 4), torch.zeros(3, 8), None)
        >>> out.probs.shape, out.mean_probs[0]
        (torch.Size([3, 10, 2]), tensor([0.5000, 0.5000]))
    """

    logits: Tensor  # (B, S, C)
    distances: Tensor  # (B, S, K), squared
    codes: Tensor  # (B, D)
    recon: Tensor | None  # of the inputs, None without a decoder

    @property
    def probs(self) -> Tensor:
        """(B, S, C) class probabilities of each draw."""
        return self.logits.softmax(2)

    @property
    def mean_probs(self) -> Tensor:
        """(B, C) predicted probabilities: means over draws."""
        return self.probs.mean(1)


class PrototypeExplanation(NamedTuple):
    """What :meth:`ProbPSENN.explain` returns for B inputs and S draws. Without a decoder, codes are shown.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import GaussianPrototypes, ProbPSENN
        >>> model = ProbPSENN(torch.nn.Identity(), GaussianPrototypes(2, 3), torch.nn.Linear(3, 64))
        >>> shown = model.explain(torch.zeros(5, 3), samples=8)
        >>> shown.center.shape, shown.gallery.shape
        (torch.Size([5, 64]), torch.Size([5, 8, 64]))
    """

    classes: Tensor  # (B,) explained classes
    prototypes: Tensor  # (B,) the prototype of the class that is nearest on average
    distances: Tensor  # (B, S) squared distances of input and draws
    center: Tensor  # (B, ...) decoded center of the prototype
    gallery: Tensor  # (B, S, ...) decoded draws of the prototype


class ProbPSENN(nn.Module):
    """Classifies codes by their squared distances to prototypes that are drawn from distributions.

    One input so has many predictions and explanations: their spread tells how sure the network is, and how sure its
    explanation. From Vadillo et al., *Uncertainty-Aware Explanations Through Probabilistic Self-Explainable Neural
    Networks*, https://arxiv.org/abs/2403.13740.

    Args:
        encoder: network from inputs to codes (B, D).
        prototypes: their distributions.
        decoder: network from codes to inputs; without one, explanations are codes.

    Attributes:
        weight: (K, C) parameter that turns distances into logits; -1/2 for the prototype's own class at first.

    Raises:
        TypeError: an argument is no module.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import GaussianPrototypes, ProbPSENN
        >>> x, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> model = ProbPSENN(torch.nn.Identity(), GaussianPrototypes(2, 4).fit_(x, labels, jitter=0.1))
        >>> generator = torch.Generator().manual_seed(0)
        >>> out = model(x, samples=50, generator=generator)
        >>> model.loss(out, x, labels).backward()
        >>> (out.mean_probs.argmax(1) == labels).all().item(), out.distances.shape
        (True, torch.Size([4, 50, 2]))
        >>> found = model.remember_(x, labels).uncertainty(x, generator=generator)
        >>> sorted(found)
        ['aleatoric', 'epistemic', 'expl_aleatoric', 'expl_epistemic', 'total']
    """

    references: Tensor | None

    def __init__(self, encoder: nn.Module, prototypes: GaussianPrototypes, decoder: nn.Module | None = None) -> None:
        super().__init__()
        for name, value in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(value, nn.Module) and (name == "encoder" or value is not None):
                raise TypeError(message("ProbPSENN", name, "a torch.nn.Module", checks.describe(value)))
        if not isinstance(prototypes, GaussianPrototypes):
            raise TypeError(message("ProbPSENN", "prototypes", "GaussianPrototypes", checks.describe(prototypes)))
        self.encoder, self.prototypes, self.decoder = encoder, prototypes, decoder
        own = torch.eye(prototypes.num_classes).repeat_interleave(prototypes.per_class, 0).to(prototypes.mean)
        self.weight = nn.Parameter(torch.empty_like(own).uniform_(-1e-8, 1e-8) - own / 2)
        self.register_buffer("references", None)

    def encode(self, x: Any) -> Tensor:
        """Codes (B, D) of inputs."""
        return check_codes("ProbPSENN", self.encoder(x), self.prototypes.dim, "encoder(x)").to(self.weight.dtype)

    def classify(self, codes: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S, C) and squared distances (B, S, K) of codes, for sets (S, K, D) of drawn prototypes."""
        distances = squared_distances(codes, drawn.flatten(0, 1)).view(len(codes), *drawn.shape[:2])
        return distances @ self.weight, distances

    def forward(self, x: Any, samples: int | None = 10, *, generator: torch.Generator | None = None) -> PrototypeOutput:
        """Predicts with ``samples`` sets of prototypes, shared by all inputs; None takes the centers, undrawn."""
        codes = self.encode(x)
        logits, distances = self.classify(codes, self._drawn(samples, generator))
        return PrototypeOutput(logits, distances, codes, None if self.decoder is None else self.decoder(codes))

    def _drawn(self, samples: int | None, generator: torch.Generator | None) -> Tensor:
        return self.prototypes.centers()[None] if samples is None else self.prototypes.rsample(samples, generator)

    def loss(
        self,
        out: PrototypeOutput,
        x: Tensor,
        labels: Tensor,
        *,
        likelihood: float = 1.0,
        reconstruction: float = 10.0,
        coverage: float = 0.0,
        density: float = 0.05,
    ) -> Tensor:
        """Weighted sum of four losses: the mean over inputs and draws of -log p(label); the mean square of input minus
        reconstruction, 0 without a decoder; the mean over prototypes of the least -log density of a code; and the mean
        of -log density of codes under their own class, clipped to [-1, 10000].

        Args:
            out: what the model returned for ``x``.
            x: inputs.
            labels: (B,) classes, integer or bool.
            likelihood: weight >= 0 of the first loss.
            reconstruction: that of the second one.
            coverage: that of the third one.
            density: that of the fourth one.

        Raises:
            TypeError, ValueError: labels out of range, a negative weight, or a reconstruction of another shape.
        """
        op = "ProbPSENN.loss"
        weights = {"likelihood": likelihood, "reconstruction": reconstruction, "coverage": coverage, "density": density}
        for name, weight in weights.items():
            checks.non_negative(op, name, weight)
        labels = class_labels(op, labels, out.logits[:, 0], "out")
        chosen = out.logits.log_softmax(2).gather(2, labels[:, None, None].expand(-1, out.logits.shape[1], 1))
        total = -likelihood * chosen.mean()
        if reconstruction and out.recon is not None:
            checks.shape(op, "x", x, out.recon.shape, "(that of the reconstruction)", "the decoder gives another shape")
            total = total + reconstruction * F.mse_loss(out.recon, x)
        if coverage:
            total = total - coverage * self.prototypes.log_prob(out.codes).amax(0).mean()
        if density:
            own = self.prototypes.class_log_prob(out.codes).gather(1, labels[:, None])
            total = total + density * (-own).clamp(LEAST, MOST).mean()
        return total

    @torch.no_grad()
    def remember_(self, x: Tensor, labels: Tensor, *, batch_size: int = 1024) -> ProbPSENN:
        """Keeps the mean distances of training inputs from their class, with which :meth:`uncertainty` compares others.

        Call it after the training. ``state_dict`` has the distances. Returns the object itself.

        Args:
            x: (N, ...) training inputs; at least one of each class.
            labels: (N,) their classes.
            batch_size: inputs that the encoder gets at once.

        Raises:
            TypeError, ValueError: labels out of range, or a class without inputs.
        """
        op, classes = "ProbPSENN.remember_", self.prototypes.num_classes
        parts = _batches(op, x, batch_size)
        labels = class_labels(op, labels, x.new_empty(len(x), classes), "x")
        with _evaluating(self):
            near = torch.cat([self._class_means(self.encode(part)) for part in parts])
        own = [near[labels == c, c].sort().values for c in range(classes)]
        empty = [c for c in range(classes) if not len(own[c])]
        if empty:
            raise ValueError(message(op, "labels", "inputs of every class", f"none of class {empty[0]}"))
        self.references = nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=torch.inf)
        return self

    def _class_means(self, codes: Tensor) -> Tensor:
        """(B, C) mean distances from the nearest prototype of each class."""
        return self._nearest(self.prototypes.mean_distances(codes)).amin(-1)

    def _nearest(self, values: Tensor) -> Tensor:
        """Values (..., K) of prototypes as (..., C, prototypes of the class)."""
        return values.unflatten(-1, (self.prototypes.num_classes, self.prototypes.per_class))

    @torch.no_grad()
    def uncertainty(
        self,
        x: Tensor,
        samples: int = 100,
        *,
        explanation: bool = True,
        batch_size: int = 1024,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """How unsure predictions and explanations are, in evaluation mode and without a gradient.

        Args:
            x: (B, ...) inputs.
            samples: sets of prototypes, which all inputs share; 2 or more.
            explanation: whether to compute the last two entries. They need :meth:`remember_`.
            batch_size: inputs that are computed at once.
            generator: source of random numbers, on the device of the parameters.

        Returns:
            Tensors (B,) by name. In nats: "total", the entropy of the mean prediction; "aleatoric", the mean entropy of
            a draw's prediction; "epistemic", their difference, which is the information that the draw and the label
            share. In [0, 1]: "expl_epistemic", the share of training inputs of the nearest class that are nearer to it
            than the input, by mean distance; "expl_aleatoric", the largest overlap of the distances from the predicted
            class with those from another one, over draws. Of several prototypes of a class the nearest one counts.

        Raises:
            RuntimeError: ``explanation`` without :meth:`remember_`.
            TypeError, ValueError: an argument is out of range.
        """
        op = "ProbPSENN.uncertainty"
        checks.integer(op, "samples", samples, least=2)
        parts = _batches(op, x, batch_size)
        if explanation and self.references is None:
            hint = "call remember_(x, labels) with the training set first, or pass explanation=False"
            raise RuntimeError(f"{op}: no distances of training inputs yet. Hint: {hint}")
        with _evaluating(self):
            drawn = self.prototypes.rsample(samples, generator)
            found = [self._uncertain(self.encode(part), drawn, explanation) for part in parts]
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def _uncertain(self, codes: Tensor, drawn: Tensor, explanation: bool) -> dict[str, Tensor]:
        logits, distances = self.classify(codes, drawn)
        probs = logits.softmax(2)
        mean = probs.mean(1)
        total, aleatoric = torch.special.entr(mean).sum(1), torch.special.entr(probs).sum(2).mean(1)
        found = {"total": total, "aleatoric": aleatoric, "epistemic": (total - aleatoric).clamp_min(0)}
        if explanation:
            assert self.references is not None
            least, nearest = self._class_means(codes).min(1)
            own = self.references[nearest]
            found["expl_epistemic"] = (own < least[:, None]).sum(1) / own.isfinite().sum(1).to(least)
            of_class = self._nearest(distances).amin(3).mT
            rows, predicted = torch.arange(len(codes), device=codes.device), mean.argmax(1)
            others = torch.ones_like(mean, dtype=torch.bool)
            others[rows, predicted] = False
            rest = of_class[others].view(len(codes), -1, drawn.shape[0])
            found["expl_aleatoric"] = overlap_index(of_class[rows, predicted][:, None], rest).amax(1)
        return found

    @torch.no_grad()
    def explain(
        self, x: Any, samples: int = 8, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> PrototypeExplanation:
        """Shows the prototypes with which inputs are compared, in evaluation mode and without a gradient.

        Args:
            x: (B, ...) inputs.
            samples: draws of each prototype, in the gallery and for the prediction.
            labels: (B,) classes to explain; None takes the predicted ones.
            generator: source of random numbers, on the device of the parameters.

        Raises:
            TypeError, ValueError: an argument is out of range.
        """
        with _evaluating(self):
            codes, drawn = self.encode(x), self.prototypes.rsample(samples, generator)
            logits, distances = self.classify(codes, drawn)
            mean = logits.softmax(2).mean(1)
            chosen = mean.argmax(1) if labels is None else class_labels("ProbPSENN.explain", labels, mean, "x")
            rows = torch.arange(len(codes), device=codes.device)
            within = self._nearest(self.prototypes.mean_distances(codes))[rows, chosen].argmin(1)
            prototypes = chosen * self.prototypes.per_class + within
            used, place = prototypes.unique(return_inverse=True)
            center = self._decoded(self.prototypes.centers()[None, used])[place, 0]
            gallery = self._decoded(drawn[:, used])[place]
        return PrototypeExplanation(chosen, prototypes, distances[rows, :, prototypes], center, gallery)

    @torch.no_grad()
    def gallery(self, samples: int = 8, *, generator: torch.Generator | None = None) -> Tensor:
        """Decoded draws (K, samples, ...) of all prototypes: codes without a decoder. In evaluation mode."""
        with _evaluating(self):
            return self._decoded(self.prototypes.rsample(samples, generator))

    def _decoded(self, points: Tensor) -> Tensor:
        """Points (S, U, D) as what the decoder shows of them, (U, S, ...)."""
        points = points.movedim(0, 1)
        return points if self.decoder is None else self.decoder(points.flatten(0, 1)).unflatten(0, points.shape[:2])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        found = state_dict.get(prefix + "references")
        if isinstance(found, Tensor):  # of another training set perhaps, and of another shape
            self.references = self.weight.detach().new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _batches(op: str, x: object, batch_size: int) -> tuple[Tensor, ...]:
    checks.integer(op, "batch_size", batch_size)
    if not isinstance(x, Tensor) or x.ndim < 1:
        raise TypeError(message(op, "x", "a tensor (B, ...) of inputs", checks.describe(x), checks.AS_TENSOR))
    return x.split(batch_size)


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Sets evaluation mode, and restores the mode of every part."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
