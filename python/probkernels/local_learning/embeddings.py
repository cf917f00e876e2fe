"""Vectors that stand for classes: fixed, learned or prototypes; and read-outs that compare with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

MOST_PAIRS = 4_000_000  # distances that are in memory at once


class LabelEmbedding(nn.Module):
    """One vector for each class, the rows of ``weight`` (K, d).

    Args:
        num_classes: number K of classes.
        embed: "onehot" for the fixed identity matrix; a whole number d for learned vectors of that length, which start
            orthogonal; or a tensor (K, *S), for instance of :func:`prototypes`, whose flat rows are where learning
            starts.
        normalize: whether rows are divided by their L2 norm at every use. It keeps learned vectors from shrinking.
        generator: source of the random start.

    Raises:
        TypeError, ValueError: an argument of another type, shape or range, or a tensor that is not finite.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import LabelEmbedding
        >>> LabelEmbedding(3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    def __init__(
        self,
        num_classes: int,
        embed: str | int | Tensor = "onehot",
        *,
        normalize: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        checks.integer("LabelEmbedding", "num_classes", num_classes, least=2)
        self.num_classes, self.normalize = num_classes, normalize
        if isinstance(embed, Tensor):
            checks.wide_float_tensor("LabelEmbedding", "embed", embed, "images.float()")
            if embed.ndim < 2 or len(embed) != num_classes:
                wanted = f"shape ({num_classes}, *S): a row a class"
                raise ValueError(message("LabelEmbedding", "embed", wanted, f"shape {tuple(embed.shape)}"))
            checks.finite("LabelEmbedding", "embed", embed)
            self.weight = nn.Parameter(embed.detach().flatten(1).clone())
        elif isinstance(embed, str):
            checks.one_of("LabelEmbedding", "embed", embed, ("onehot",))
            self.weight = nn.Parameter(torch.eye(num_classes), requires_grad=False)
        else:
            wanted = "'onehot', a whole number >= 1 or a tensor"
            checks.integer("LabelEmbedding", "embed", embed, wanted=wanted)
            self.weight = nn.Parameter(torch.empty(num_classes, embed))
            nn.init.orthogonal_(self.weight, generator=generator)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.weight.shape[1]

    @property
    def learned(self) -> bool:
        """Whether the vectors are trained."""
        return self.weight.requires_grad

    def table(self) -> Tensor:
        """The vectors of all classes (K, d)."""
        return F.normalize(self.weight, dim=1) if self.normalize else self.weight

    def forward(self, labels: Tensor) -> Tensor:
        """The vectors (..., d) of classes (...)."""
        return self.table()[labels]

    def nearest(self, z: Tensor) -> Tensor:
        """The classes (b,) whose vectors are nearest to z (b, d)."""
        table = self.table()
        return (z @ table.T - 0.5 * table.square().sum(1)).argmax(1)

    def extra_repr(self) -> str:
        """For ``repr``."""
        return f"{self.num_classes}, dim={self.dim}, learned={self.learned}, normalize={self.normalize}"


class RadialHead(nn.Module):
    """A read-out by distance: log p(k) = -||softmax(net(z)) W - u_k||^2 / (2 sigma^2), up to a constant.

    Args:
        net: network from z (b, d) to (b, K).
        embedding: the vectors u_k, the rows of W. Give the model's own, so that they are trained once.
        sigma: width.

    Raises:
        TypeError, ValueError: ``sigma`` is not positive.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import LabelEmbedding, RadialHead
        >>> head = RadialHead(torch.nn.Identity(), LabelEmbedding(2), sigma=0.5)
        >>> head(torch.tensor([[20.0, -20.0]])).round()  # logits
        tensor([[-0., -4.]])
    """

    def __init__(self, net: nn.Module, embedding: LabelEmbedding, sigma: float = 1.0) -> None:
        super().__init__()
        checks.positive("RadialHead", "sigma", sigma)
        self.net, self.embedding, self.sigma = net, embedding, sigma

    def forward(self, z: Tensor) -> Tensor:
        """Logits (b, K) of z (b, d)."""
        table = self.embedding.table()
        guess = self.net(z).softmax(-1) @ table
        return -(guess[:, None] - table).square().sum(-1) / (2 * self.sigma**2)


def prototypes(x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """The most central sample of every class: that of the smallest median distance to the others of its class.

    The median of an even number of distances is the lower of the two in the middle.

    Args:
        x: (N, *S) samples, float32 or float64.
        y: (N,) classes, integers.
        num_classes: number K of classes; each must have a sample.

    Returns:
        (K, *S), copies of samples.

    Raises:
        TypeError, ValueError: an argument of another dtype or shape, labels out of range, or a class without samples.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import prototypes
        >>> prototypes(torch.tensor([[0.0], [1.0], [1.5], [7.0]]), torch.tensor([0, 0, 0, 1]), 2)
        tensor([[1.],
                [7.]])
    """
    checks.wide_float_tensor("prototypes", "x", x, "x.float()")
    checks.integer("prototypes", "num_classes", num_classes)
    if x.ndim < 2:
        raise ValueError(message("prototypes", "x", "shape (N, *S)", f"shape {tuple(x.shape)}"))
    checks.finite("prototypes", "x", x)
    check_labels("prototypes", y, len(x), num_classes)
    found = []
    for k in range(num_classes):
        rows = (y == k).nonzero()[:, 0]
        if not len(rows):
            raise ValueError(message("prototypes", "y", "a sample of every class", f"none of class {k}"))
        found.append(rows[_most_central(x[rows].flatten(1).double())])
    return x[torch.stack(found)].clone()


def _most_central(points: Tensor) -> Tensor:
    """Index of the point of the smallest median distance to the others."""
    n = len(points)
    if n < 2:
        return torch.zeros((), dtype=torch.long, device=points.device)
    # Each row has the distance 0 to itself, the smallest: the median of the others is one rank higher.
    rank = (n - 2) // 2 + 2
    parts = points.split(max(1, MOST_PAIRS // n))
    return torch.cat([torch.cdist(part, points).kthvalue(rank, 1).values for part in parts]).argmin()


def check_labels(op: str, y: object, count: int, num_classes: int) -> None:
    """Checks that ``y`` is (count,) integers in 0 .. num_classes - 1."""
    checks.integer_tensor(op, "y", y, "one class a sample, y.long()")
    assert isinstance(y, Tensor)
    checks.shape(op, "y", y, (count,), "(one class a sample of 'x')")
    wrong = (y < 0) | (y >= num_classes)
    if wrong.any():
        raise ValueError(message(op, "y", f"classes 0 to {num_classes - 1}", checks.offender(y, wrong)))
