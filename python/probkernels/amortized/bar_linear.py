"""Log-densities of bars fused with the linear layer before them: logits are made in chunks and never stored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from .._core import checks
from .._core.errors import message
from ..ops.bar_log_prob import FWD, bars_of, check_borders, check_targets, log_density_in_bar, wide_dtype

CHUNK_BYTES = 16 << 20  # of logits at a time


def _check(op: str, hidden: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
    checks.float_tensor(op, "hidden", hidden)
    checks.float_tensor(op, "weight", weight)
    if hidden.dim() == 0 or weight.dim() != 2:
        wanted = "shapes (..., features) of 'hidden' and (bars, features)"
        raise ValueError(message(op, "weight", wanted, f"shapes {tuple(hidden.shape)} and {tuple(weight.shape)}"))
    checks.shape(op, "weight", weight, (len(weight), hidden.shape[-1]), "(the features of 'hidden')")
    if bias is not None:
        checks.float_tensor(op, "bias", bias)
        checks.shape(op, "bias", bias, weight.shape[:1], "(one number for each row of 'weight')")
    checks.float_tensor(op, "y", y)
    checks.shape(op, "y", y, hidden.shape[:-1], "(one target for each row of 'hidden')")
    for name, value in (("weight", weight), ("bias", bias), ("y", y)):
        if value is not None:
            checks.same_device(op, name, value, hidden, "hidden")


def _chunk(hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor) -> Tensor:
    return FWD.call(linear(hidden, weight, bias), index)[0]


def bar_log_prob_linear(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    borders: Tensor,
    tails: str = "half_normal",
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """:func:`probkernels.ops.bar_log_prob` of ``linear(hidden, weight, bias)``, whose logits are never stored.

    Rows are taken in chunks; the backward computes the logits of a chunk once more. So logits and their gradient take
    about two chunks of memory instead of 2 N K numbers, at the price of a second product.

    Args:
        hidden: (..., D) what the last linear layer gets.
        weight: (K, D) its weight, and
        bias: (K) its bias or None.
        y: (...) targets.
        borders: (K + 1) rising numbers.
        tails: "half_normal" or "bounded".
        chunk_bytes: bytes of the logits of a chunk, which has one row at least.

    Returns:
        (...) log-densities, differentiable in all arguments as without chunks, up to the order of sums over rows.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape or device is wrong, borders do not rise, y is NaN or outside of bounded support.

    Reference: Muller et al., "Transformers Can Do Bayesian Inference", ICLR 2022; Wijmans et al., "Cut Your Losses in
    Large-Vocabulary Language Models", ICLR 2025.

    Example:
        >>> import torch, probkernels as pk
        >>> hidden, head = torch.zeros(2, 8), torch.nn.Linear(8, 4, bias=False)
        >>> borders = torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0])
        >>> with torch.no_grad():
        ...     pk.amortized.bar_log_prob_linear(hidden, head.weight, None, torch.tensor([0.0, 2.0]), borders)
        tensor([-1.7918, -2.7559])
    """
    op = "bar_log_prob_linear"
    _check(op, hidden, weight, bias, y)
    check_borders(op, borders, weight.t(), tails, "weight")
    check_targets(op, "y", y, borders, tails)
    bars = len(weight)
    rows = max(checks.integer(op, "chunk_bytes", chunk_bytes) // (bars * weight.itemsize), 1)
    dtype = wide_dtype(weight, y, borders)
    y, borders = y.to(dtype), borders.to(dtype)
    index = bars_of(y, borders)
    flat, chosen = hidden.reshape(-1, hidden.shape[-1]), index.reshape(-1)
    found = [
        checkpoint(_chunk, part, weight, bias, at, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else _chunk(part, weight, bias, at)
        for part, at in zip(flat.split(rows), chosen.split(rows), strict=True)
    ]
    return torch.cat(found).view(y.shape) + log_density_in_bar(y, index, borders, tails)
