"""How alike two networks have become: their states (CKA) and their weights (angles)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centered kernel alignment (CKA) of two representations of the same samples.

    It is ``|a^T b|^2 / (|a^T a| |b^T b|)`` with columns that are centered first, and does not change under rotations
    and scaling of either representation. Kornblith, Norouzi, Lee, Hinton. ICML 2019, arXiv:1905.00414.

    Args:
        a: (N, ...) floating-point tensor; rows are flattened.
        b: (N, ...) tensor of other features of the same N samples.

    Returns:
        0-d tensor in [0, 1]. NaN if one representation is the same for all samples.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: fewer than two samples, or other numbers of samples.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import linear_cka
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
        >>> turned = torch.stack([x[:, 1], -x[:, 0]], 1)
        >>> round(float(linear_cka(x, 5 * turned)), 4)
        1.0
    """
    for name, value in (("a", a), ("b", b)):
        checks.float_tensor("linear_cka", name, value)
        if value.ndim < 2 or len(value) < 2:
            raise ValueError(message("linear_cka", name, "at least two rows", f"shape {tuple(value.shape)}"))
    if len(a) != len(b):
        raise ValueError(message("linear_cka", "b", f"{len(a)} rows, as in 'a'", str(len(b))))
    x, y = (value.flatten(1) - value.flatten(1).mean(0) for value in (a, b))
    # products of N x N Gram matrices: never wider than the number of samples
    of_x, of_y = x @ x.mT, y @ y.mT
    return (of_x * of_y).sum() / (torch.linalg.matrix_norm(of_x) * torch.linalg.matrix_norm(of_y))


def weight_cosine(forward_layer: nn.Module, feedback_layer: nn.Module) -> Tensor:
    """The cosine between a layer's weights and the transposed weights of its feedback layer.

    It is 1 if the feedback is the one that back-propagation uses, and near 0 for unrelated weights. The transposed
    weights of a convolution are flipped in space.

    Args:
        forward_layer: a linear layer or a convolution.
        feedback_layer: the layer in the opposite direction, of the same kind and kernel size.

    Returns:
        0-d tensor in [-1, 1]; its ``acos()`` is the angle.

    Raises:
        ValueError: a module has no matrix of weights, or the shapes do not fit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from probkernels.local_learning import weight_cosine
        >>> one, other = nn.Linear(4, 3), nn.Linear(3, 4)
        >>> other.weight.data = one.weight.data.mT.clone()
        >>> round(float(weight_cosine(one, other)), 4)
        1.0
    """
    found: list[Tensor] = []
    for name, layer in (("forward_layer", forward_layer), ("feedback_layer", feedback_layer)):
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise ValueError(message("weight_cosine", name, "a linear layer or a convolution", type(layer).__name__))
        found.append(weight.detach())
    u, v = found
    turned = v.transpose(0, 1).flip(tuple(range(2, v.ndim)))
    if u.shape != turned.shape:
        wanted = f"weights of shape {tuple(u.transpose(0, 1).shape)}"
        raise ValueError(message("weight_cosine", "feedback_layer", wanted, f"{tuple(v.shape)}"))
    return torch.nn.functional.cosine_similarity(u.flatten(), turned.flatten(), dim=0)
