"""What all NoProp models share: embedding, read-out, checks, noise, evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .embeddings import LabelEmbedding, RadialHead, check_labels

HEADS = ("linear", "radial")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def noise_like(z: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the shape, dtype and device of ``z``, drawn where the generator is."""
    place = z.device if generator is None else generator.device
    return torch.randn(z.shape, generator=generator, dtype=z.dtype, device=place).to(z.device)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Sets evaluation mode, and restores the mode of every part."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def check_batch_norm(op: str, module: nn.Module, rows: int) -> None:
    """Refuses batch normalization in training mode of one row, whose variance is 0."""
    for name, part in module.named_modules():
        if rows == 1 and part.training and isinstance(part, NORMS):
            got, hint = f"1, and '{name}' normalizes over the batch", "model.eval(), or a larger batch"
            raise ValueError(message(op, "x", "at least 2 rows in training mode", got, hint))


class Denoising(nn.Module):
    """Base of the NoProp models: the vectors of classes, a read-out ``head``, and losses of both."""

    def __init__(self, num_classes: int, embed: str | int | Tensor | LabelEmbedding, head: str | nn.Module) -> None:
        super().__init__()
        self.op = type(self).__name__
        self.embedding = embed if isinstance(embed, LabelEmbedding) else LabelEmbedding(num_classes, embed)
        if self.embedding.num_classes != checks.integer(self.op, "num_classes", num_classes, least=2):
            got = f"{self.embedding.num_classes} classes"
            raise ValueError(message(self.op, "embed", f"vectors of {num_classes} classes", got))
        self.num_classes = num_classes
        if isinstance(head, str):
            checks.one_of(self.op, "head", head, HEADS)
            linear = nn.Linear(self.embedding.dim, num_classes)
            head = RadialHead(linear, self.embedding) if head == "radial" else linear
        self.head = head

    def _check(self, name: str, x: object, y: object = None, *, norms: nn.Module | None = None) -> None:
        """Checks inputs, and labels unless they are None; ``norms`` is what must not normalize one row."""
        op = f"{self.op}.{name}"
        if not isinstance(x, Tensor):
            raise TypeError(message(op, "x", "a tensor (b, ...) of inputs", checks.describe(x), checks.AS_TENSOR))
        if x.ndim < 1 or not len(x):
            raise ValueError(message(op, "x", "a batch of at least one row", f"shape {tuple(x.shape)}"))
        if x.is_floating_point():
            checks.finite(op, "x", x)
        if y is not None:
            check_labels(op, y, len(x), self.num_classes)
        if norms is not None:
            check_batch_norm(op, norms, len(x))

    def _logits(self, net: nn.Module, name: str, *inputs: Tensor) -> Tensor:
        """The net's output, whose shape is checked."""
        logits = net(*inputs)
        wanted = (len(inputs[0]), self.num_classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else checks.describe(logits)
            raise ValueError(message(self.op, name, f"logits of shape {wanted}", got, "one logit a class"))
        return logits

    def _guess(self, logits: Tensor) -> Tensor:
        """uhat, a mixture of the vectors of all classes."""
        return logits.softmax(-1) @ self.embedding.table()

    def _ends(self, u: Tensor, y: Tensor, first: Tensor | float, last: Tensor | float, noise: Tensor) -> Tensor:
        """Loss of the read-out at z_T, and KL of z_0 to pure noise, which has abar ``first``."""
        z = _root(last, u) * u + _root(1 - last, u) * noise
        return F.cross_entropy(self.head(z), y) + prior_kl(u, first).mean()

    def _start(self, x: Tensor, z0: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """z_0 (b, d): pure noise, or what is given."""
        z = self.embedding.weight.new_empty((len(x), self.embedding.dim))
        if z0 is None:
            return noise_like(z, generator)
        checks.float_tensor(f"{self.op}.sample", "z0", z0)
        checks.shape(f"{self.op}.sample", "z0", z0, z.shape, "(one vector a row of 'x')")
        return z0.to(z)


def _root(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, device=like.device).sqrt().to(like.dtype)


def prior_kl(u: Tensor, abar: Tensor | float) -> Tensor:
    """KL(N(sqrt(abar) u, (1 - abar) I) || N(0, I)) of vectors (..., d), summed over d."""
    abar = torch.as_tensor(abar, dtype=torch.float64, device=u.device)
    d = u.shape[-1]
    return (0.5 * (abar * (u.double().square().sum(-1) - d) - d * torch.log1p(-abar))).to(u.dtype)
