"""The local loss of two hidden states of one depth, with its value, and with its gradients in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core import checks

KINDS = ("plain", "normalized", "frobenius")
WIDTH = 256  # the plain loss of a layer of this width has weight ``scale``


@dataclass(frozen=True)
class Rule:
    """How two states are compared: see :class:`CounterCurrent`."""

    kind: str
    scale: float
    ssl: float
    flooding: float

    def check(self, op: str) -> None:
        """Checks the options."""
        checks.one_of(op, "loss", self.kind, KINDS)
        checks.positive(op, "scale", self.scale)
        checks.non_negative(op, "ssl", self.ssl)
        checks.fraction(op, "flooding", self.flooding)


def unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, and the lengths (1 for a row of zeros, which stays)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    norm = torch.where(norm > 0, norm, 1.0)
    return x / norm, norm


def local_loss(a: Tensor, b: Tensor, target: Tensor, keep: Tensor | None, rule: Rule) -> Tensor:
    """The local loss of a (N, d) and b (K, d), differentiable by autograd.

    Args:
        a, b: states as matrices.
        target: (N, K), one-hot.
        keep: (N, 1), 0 for samples that flooding leaves out; None for all samples.
        rule: the options.
    """
    width = a.shape[-1]
    if rule.kind != "plain":
        a, b = unit_rows(a)[0], unit_rows(b)[0]
    a = a if keep is None else a * keep

    def distance(product: Tensor, wanted: Tensor) -> Tensor:
        if rule.kind == "frobenius":
            return torch.linalg.vector_norm(product - wanted)
        return (product - wanted).square().mean() * (WIDTH / width if rule.kind == "plain" else 1.0)

    value = rule.scale * distance(a @ b.mT, target)
    if rule.ssl:
        value = value + rule.ssl * sum(distance(m @ m.mT, torch.eye(len(m)).to(m)) for m in (a, b))
    return value


def local_gradients(
    a: Tensor, b: Tensor, target: Tensor, keep: Tensor | None, rule: Rule, *, both: bool = True
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The local loss and its gradients with respect to a and b, without autograd.

    Arguments are those of :func:`local_loss`; a and b may have a leading dimension of layers. ``both`` is False where
    nobody needs the gradient with respect to a, which is then None.
    """
    width, unit = a.shape[-1], rule.kind != "plain"
    a_norm = b_norm = a_unit = a
    if unit:
        (a, a_norm), (b, b_norm) = unit_rows(a), unit_rows(b)
        a_unit = a
    a = a if keep is None else a * keep
    value, g = _distance(a @ b.mT, target, rule, rule.scale, width)
    da = g @ b if both else None
    db = g.mT @ a
    if rule.ssl:
        more, g = _distance(a @ a.mT, torch.eye(a.shape[-2]).to(a), rule, rule.ssl, width)
        da = None if da is None else da + 2 * (g @ a)
        last, g = _distance(b @ b.mT, torch.eye(b.shape[-2]).to(b), rule, rule.ssl, width)
        db = db + 2 * (g @ b)
        value = value + more + last
    if da is not None:
        da = da if keep is None else da * keep
        da = _before_unit(da, a_unit, a_norm) if unit else da
    return value, da, _before_unit(db, b, b_norm) if unit else db


def _distance(product: Tensor, wanted: Tensor, rule: Rule, weight: float, width: int) -> tuple[Tensor, Tensor]:
    """The weighted distance, and its gradient with respect to the product, which is overwritten."""
    rest = product.sub_(wanted)
    norm = torch.linalg.vector_norm(rest, dim=(-2, -1))
    if rule.kind == "frobenius":
        factor = torch.where(norm > 0, weight / norm, 0.0)
        return weight * norm, rest.mul_(factor[..., None, None])
    weight *= (WIDTH / width if rule.kind == "plain" else 1.0) / math.prod(wanted.shape[-2:])
    return weight * norm.square(), rest.mul_(2 * weight)


def _before_unit(grad: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
    """The gradient with respect to rows before they were divided by their lengths."""
    return (grad - unit * (unit * grad).sum(-1, keepdim=True)) / norm
