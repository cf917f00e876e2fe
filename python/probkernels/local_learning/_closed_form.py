"""The gradients of all local losses without autograd, for networks of linear layers and activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from ._blocks import KNOWN, Dense, slope
from ._local_losses import Rule, local_gradients


def output(part: Dense, x: Tensor) -> Tensor:
    """The output of a block."""
    x = functional.linear(x, part.layer.weight, part.layer.bias)
    return x if part.activation is None else KNOWN[type(part.activation)].apply(part.activation, x)


def set_gradients(part: Dense, grad: Tensor, before: Tensor) -> None:
    """Sets the gradients of a layer, from that of its output before the activation and its input."""
    weight, bias = part.layer.weight, part.layer.bias
    if not weight.requires_grad:
        weight.grad = None  # one from before it was frozen
    elif weight.grad is None:
        weight.grad = grad.mT @ before
    else:  # new memory for large gradients in every step takes time
        torch.mm(grad.mT, before, out=weight.grad)
    if bias is not None:
        bias.grad = grad.sum(0) if bias.requires_grad else None


@torch.no_grad()
def gradients(
    front: Sequence[Dense], back: Sequence[Dense], x: Tensor, code: Tensor, target: Tensor, rule: Rule,
    keep: Callable[[Tensor], Tensor | None] | None, batched: bool,
) -> list[Tensor]:  # fmt: skip
    """Sets the gradients of both networks and returns all losses, the cross entropy last.

    Args:
        front: block k makes state k + 1 from state k.
        back: block k makes state k of the feedback network from its state k + 1.
        x, code: the inputs of both networks.
        target: (N, K), one-hot.
        rule: the local losses.
        keep: the samples that take part, from the logits; None for all.
        batched: whether to update neighboring layers of equal width at once, for which all states are kept.
    """
    depth = len(front)
    b = [code] * (depth + 1)
    for k in reversed(range(depth)):
        b[k] = output(back[k], b[k + 1])
    kept = keep(_last(front, x)) if keep is not None else None
    first, _, db = local_gradients(x, b[0], target, kept, rule, both=False)
    set_gradients(back[0], slope(back[0].activation, db, b[0]), b[1])
    losses = [first]
    groups = _groups(front, back) if batched else [[k] for k in range(1, depth)]
    before = x
    for group in groups:
        before = _update(group, front, back, before, b, target, kept, rule, losses)
    logits = output(front[-1], before)
    losses.append(functional.cross_entropy(logits, target))
    top = slope(front[-1].activation, (logits.softmax(1) - target) / len(x), logits)
    set_gradients(front[-1], top, before)
    return losses


def _last(front: Sequence[Dense], x: Tensor) -> Tensor:
    for part in front:
        x = output(part, x)
    return x


def _groups(front: Sequence[Dense], back: Sequence[Dense]) -> list[list[int]]:
    """Neighboring hidden layers of one width and kind, which :func:`_update` takes at once."""

    def kind(k: int) -> tuple[object, ...]:
        layers = front[k - 1], back[k]
        return front[k - 1].layer.out_features, *(_kind(part) for part in layers)

    groups = [[1]]
    for one, other in pairwise(range(1, len(front))):
        if kind(one) == kind(other):
            groups[-1].append(other)
        else:
            groups.append([other])
    return groups


def _kind(part: Dense) -> tuple[object, ...]:
    """What must agree for layers to be updated at once. Biases and frozen layers are updated one by one."""
    alone = part.layer.bias is not None or not part.layer.weight.requires_grad
    return (id(part),) if alone else (repr(part.activation),)


def _update(
    group: Sequence[int], front: Sequence[Dense], back: Sequence[Dense], before: Tensor, b: Sequence[Tensor],
    target: Tensor, keep: Tensor | None, rule: Rule, losses: list[Tensor],
) -> Tensor:  # fmt: skip
    """Sets the gradients that the local losses of a group of depths decide. Returns its last forward state."""
    if len(group) == 1:
        k = group[0]
        a = output(front[k - 1], before)
        value, da, db = local_gradients(a, b[k], target, keep, rule)
        assert da is not None
        set_gradients(front[k - 1], slope(front[k - 1].activation, da, a), before)
        set_gradients(back[k], slope(back[k].activation, db, b[k]), b[k + 1])
        losses.append(value)
        return a
    start, stop = group[0], group[-1]
    states = [before]
    for k in group:
        states.append(output(front[k - 1], states[-1]))
    a, feedback = torch.stack(states[1:]), torch.stack([b[k] for k in group])
    values, da, db = local_gradients(a, feedback, target, keep, rule)
    assert da is not None
    da, db = slope(front[start - 1].activation, da, a), slope(back[start].activation, db, feedback)
    set_gradients(front[start - 1], da[0], before)
    set_gradients(back[stop], db[-1], b[stop + 1])
    inner = zip(da[1:].mT @ a[:-1], db[:-1].mT @ feedback[1:], strict=True)
    for k, (of_front, of_back) in zip(group, inner, strict=False):
        front[k].layer.weight.grad, back[k].layer.weight.grad = of_front, of_back
    losses.extend(values)
    return states[-1]
