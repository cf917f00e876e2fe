"""ProtoCL: classes as Gaussian prototypes of embeddings, with a posterior that every batch updates exactly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

CONCENTRATION = math.exp(0.78)  # of the authors' code
HALF = (torch.float16, torch.bfloat16)
Labeled = tuple[Tensor, Tensor]


class ProtoHead(nn.Module):
    """Classifies embeddings by the posterior over one prototype for each class.

    y ~ Cat(p) with p ~ Dirichlet(concentration); the prototype of class j ~ N(prior_mean, I / prior_precision); and an
    embedding z of class j ~ N(prototype, noise I). All posteriors are in closed form. The state is the number of
    embeddings of each class and their sum, so that updates batch by batch in any order are one update with all data.

    :meth:`accumulate` adds a batch. An encoder that still learns leaves old embeddings behind: :meth:`refresh` replaces
    the statistics by those of embeddings that the current encoder makes of a memory. Predictions change nothing.

    Args:
        dim: the width of embeddings.
        classes: the number of classes; None lets the head grow with the labels that :meth:`accumulate` sees.
        noise: variance of an embedding around its prototype.
        prior_mean: a number or (dim,), the prior mean of all prototypes.
        prior_precision: the inverse of the prior variance.
        concentration: of each class, before any data.
        learn_concentration: whether the concentration is a parameter, which :meth:`loss` trains.
        device: of the state.
        dtype: float32 or float64, of the state. Half-precision embeddings are widened to it.

    Attributes:
        counts: (J,) int64, embeddings seen of each class.
        sums: (J, dim), their sums.

    Raises:
        TypeError, ValueError: an argument is of another kind or out of range.

    Reference: Kessler, Cobb, Rudner, Zohren, Roberts, "On Sequential Bayesian Inference for Continual Learning",
    Entropy 2023.

    Example:
        >>> import torch
        >>> from probkernels.bnn import ProtoHead
        >>> head = ProtoHead(2)
        >>> head.accumulate(torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
        >>> head.predictive(torch.tensor([[0.6, 0.5]]))
        tensor([[0.8616, 0.1384]])
    """

    counts: Tensor
    sums: Tensor
    noise: Tensor
    prior_precision: Tensor
    prior_mean: Tensor
    log_concentration: Tensor

    def __init__(
        self, dim: int, classes: int | None = None, *, noise: float = 0.05, prior_mean: float | Tensor = 0.0,
        prior_precision: float = 1.0, concentration: float = CONCENTRATION, learn_concentration: bool = False,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim = checks.integer("ProtoHead", "dim", dim)
        self.growing = classes is None
        count = 0 if classes is None else checks.integer("ProtoHead", "classes", classes)
        options = {"noise": noise, "prior_precision": prior_precision, "concentration": concentration}
        for name, value in options.items():
            checks.positive("ProtoHead", name, value)
        if dtype not in (None, torch.float32, torch.float64):
            raise TypeError(message("ProtoHead", "dtype", "torch.float32 or torch.float64", checks.describe(dtype)))
        mean = torch.as_tensor(prior_mean, dtype=dtype or torch.get_default_dtype(), device=device)
        if mean.ndim:
            checks.shape("ProtoHead", "prior_mean", mean, (self.dim,), "(an entry for each entry of an embedding)")
        checks.finite("ProtoHead", "prior_mean", mean)
        self.register_buffer("prior_mean", mean.detach().expand(self.dim).clone())
        self.register_buffer("noise", mean.new_tensor(noise))
        self.register_buffer("prior_precision", mean.new_tensor(prior_precision))
        start = mean.new_tensor(concentration).log()
        if learn_concentration:
            self.log_concentration = nn.Parameter(start)
        else:
            self.register_buffer("log_concentration", start)
        self.register_buffer("counts", torch.zeros(count, dtype=torch.int64, device=mean.device))
        self.register_buffer("sums", mean.new_zeros(count, self.dim))

    @property
    def classes(self) -> int:
        """The number of classes J, seen or not."""
        return len(self.counts)

    @property
    def concentrations(self) -> Tensor:
        """(J,) posterior concentrations of the Dirichlet law."""
        return self.log_concentration.exp() + self.counts

    @property
    def precisions(self) -> Tensor:
        """(J,) posterior precisions of the prototypes."""
        return self.prior_precision + self.counts / self.noise

    @property
    def means(self) -> Tensor:
        """(J, dim) posterior means of the prototypes."""
        return self._means(self.counts, self.sums)

    def extra_repr(self) -> str:
        """Options, as ``repr`` shows them."""
        more = ", growing" if self.growing else ""
        return f"{self.dim}, classes={self.classes}{more}, noise={self.noise.item():.4g}"

    def forward(self, z: Tensor, *, seen: bool = False) -> Tensor:
        """Logits: log p(z, y = j) of each class, under the posterior of now. Differentiable in ``z``.

        Args:
            z: (B, dim) embeddings. A row with NaN has NaN logits.
            seen: whether classes without data get -inf. Otherwise they keep their prior.

        Returns:
            (B, J) logarithms of joint densities.

        Raises:
            TypeError, ValueError: another dtype or width; ``seen`` while no class has data.
        """
        self._check("ProtoHead.forward", "z", z)
        return self._joint("ProtoHead.forward", z, self.counts, self.sums, seen)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """(B, J) log p(z | y = j): the density of embeddings (B, dim) under the posterior predictive of each class."""
        self._check("ProtoHead.log_likelihood", "z", z)
        return self._log_likelihood(z.to(self.sums.dtype), self.counts, self.sums)

    def predictive(self, z: Tensor, *, seen: bool = False) -> Tensor:
        """(B, J) probabilities p(y = j | z) of embeddings (B, dim); of classes with data alone if ``seen``."""
        self._check("ProtoHead.predictive", "z", z)
        return self._joint("ProtoHead.predictive", z, self.counts, self.sums, seen).softmax(1)

    def loss(self, z: Tensor, y: Tensor, *, support: Labeled | None = None, seen: bool = False) -> Tensor:
        """Mean of -log p(y | z), to train the encoder. The head's state counts as constant.

        Args:
            z: (B, dim) embeddings, B > 0.
            y: (B,) classes, integers below ``classes``.
            support: embeddings (N, dim) and classes (N,) from which the posterior is computed in place of the state.
                Their gradient flows too.
            seen: whether classes without data are left out, as in :meth:`forward`.

        Returns:
            A 0-d tensor.

        Raises:
            TypeError, ValueError: another dtype or shape, an empty batch, a class out of range; or, with ``seen``, a
                class without data.
        """
        op = "ProtoHead.loss"
        self._check(op, "z", z, y)
        if not len(z):
            raise ValueError(message(op, "z", "at least one embedding", f"shape {tuple(z.shape)}"))
        counts, sums = self.counts, self.sums
        if support is not None:
            if not isinstance(support, tuple) or len(support) != 2:
                raise TypeError(message(op, "support", "a tuple of embeddings and classes", checks.describe(support)))
            self._check(op, "support", *support)
            counts, sums = self._statistics(*support)
        if seen:
            unseen = counts[y.long()] == 0
            if unseen.any():
                got = checks.offender(y, unseen)
                raise ValueError(message(op, "y", "classes with data", got, "seen=False keeps the prior of others"))
        joint = self._joint(op, z, counts, sums, seen)
        return nn.functional.cross_entropy(joint, y.long())

    def accumulate(self, z: Tensor, y: Tensor) -> None:
        """Adds labeled embeddings to the statistics: the exact posterior given these too. An empty batch adds nothing.

        Args:
            z: (B, dim) embeddings; gradients are cut.
            y: (B,) classes. A class beyond the last one makes a growing head grow up to it.

        Raises:
            TypeError, ValueError: another dtype or shape, embeddings that are not finite, a negative class, or one
                beyond the last of a head that does not grow. The state is then as before.
        """
        self._check_data("ProtoHead.accumulate", z, y)
        self._add(z, y)

    def refresh(self, z: Tensor, y: Tensor) -> None:
        """Replaces the statistics by those of labeled embeddings; :meth:`accumulate` adds further batches.

        Use data that represent the classes alike, as a memory does: the posterior favors classes with many embeddings.

        Args:
            z: (B, dim) embeddings of the current encoder. Without any the posterior is the prior again.
            y: (B,) classes.

        Raises:
            TypeError, ValueError: as :meth:`accumulate`.
        """
        self._check_data("ProtoHead.refresh", z, y)
        self.reset()
        self._add(z, y)

    def reset(self) -> None:
        """Forgets all data. Classes stay."""
        with torch.inference_mode(False), torch.no_grad():
            self.counts.zero_()
            self.sums.zero_()

    def grow(self, classes: int) -> None:
        """Adds classes without data until there are ``classes``. Raises ValueError if there are more already."""
        checks.integer("ProtoHead.grow", "classes", classes, self.classes)
        more = classes - self.classes
        with torch.inference_mode(False), torch.no_grad():
            self.counts = torch.cat([self.counts, self.counts.new_zeros(more)])
            self.sums = torch.cat([self.sums, self.sums.new_zeros(more, self.dim)])

    def _means(self, counts: Tensor, sums: Tensor) -> Tensor:
        precision = self.prior_precision + counts / self.noise
        return (self.prior_precision * self.prior_mean + sums / self.noise) / precision[:, None]

    def _log_likelihood(self, z: Tensor, counts: Tensor, sums: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            mean = self._means(counts, sums)
            variance = 1 / (self.prior_precision + counts / self.noise) + self.noise
            center = mean.detach().mean(0)  # small numbers lose less in the expanded square
            a, b = z - center, mean - center
            square = a.square().sum(1, keepdim=True) - 2 * (a @ b.mT) + b.square().sum(1)
            return -(square.clamp_min(0) / variance + self.dim * (2 * math.pi * variance).log()) / 2

    def _joint(self, op: str, z: Tensor, counts: Tensor, sums: Tensor, seen: bool) -> Tensor:
        concentration = self.log_concentration.exp() + counts
        prior = (concentration / concentration.sum()).log()
        found = self._log_likelihood(z.to(self.sums.dtype), counts, sums) + prior
        if not seen:
            return found
        if not bool(counts.any()):
            raise ValueError(message(op, "seen", "False while no class has data", "True", "call accumulate first"))
        return found.masked_fill(counts == 0, -math.inf)

    def _statistics(self, z: Tensor, y: Tensor) -> Labeled:
        """Counts and sums of each class."""
        y = y.long()
        counts = torch.zeros_like(self.counts).index_add(0, y, torch.ones_like(y))
        return counts, torch.zeros_like(self.sums).index_add(0, y, z.to(self.sums.dtype))

    def _add(self, z: Tensor, y: Tensor) -> None:
        if len(y) and int(y.max()) >= self.classes:
            self.grow(int(y.max()) + 1)
        with torch.inference_mode(False), torch.no_grad():
            counts, sums = self._statistics(z.detach(), y)
            self.counts += counts
            self.sums += sums

    def _check(self, op: str, name: str, z: Tensor, y: Tensor | None = None, most: int | None = None) -> None:
        """Checks embeddings and, if given, their classes: below ``most``, or below ``classes``."""
        if self.sums.dtype in HALF:
            raise TypeError(f"{op}: the state of the head is {self.sums.dtype}, which cannot hold sums. "
                            "Hint: head.float(); embeddings may be in half precision")  # fmt: skip
        checks.float_tensor(op, name, z)
        if z.ndim != 2 or z.shape[1] != self.dim:
            wanted = f"embeddings of shape (B, {self.dim})"
            raise ValueError(message(op, name, wanted, f"shape {tuple(z.shape)}", "flatten other dimensions"))
        if z.dtype not in (self.sums.dtype, *HALF):
            hint = f"convert the head or the embeddings: head.to({z.dtype})"
            raise TypeError(message(op, name, f"dtype {self.sums.dtype}, as the head", str(z.dtype), hint))
        checks.same_device(op, name, z, self.sums, "head")
        if y is None:
            return
        checks.integer_tensor(op, "y", y, "y.long() if all are whole numbers")
        checks.shape(op, "y", y, (len(z),), "(a class for each embedding)")
        checks.same_device(op, "y", y, z, name)
        most = self.classes if most is None else most
        wrong = (y < 0) | (y >= most)
        if wrong.any():
            hint = "head.accumulate or head.grow adds a class" if self.growing else "head.grow adds classes"
            wanted = f"classes 0 to {most - 1}" if most else "no labels: the head has no class yet"
            raise ValueError(message(op, "y", wanted, checks.offender(y, wrong), hint))

    def _check_data(self, op: str, z: Tensor, y: Tensor) -> None:
        self._check(op, "z", z, y, torch.iinfo(torch.int64).max if self.growing else None)
        checks.finite(op, "z", z, "did the encoder diverge?")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}counts")
        if self.growing and isinstance(saved, Tensor) and saved.ndim == 1:
            self.counts = self.counts.new_zeros(len(saved))
            self.sums = self.sums.new_zeros(len(saved), self.dim)
        super()._load_from_state_dict(state_dict, prefix, *rest)
