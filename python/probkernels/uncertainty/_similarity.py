"""Similarity matrices: their checks, and how embeddings make them."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known

KINDS = ("cos01", "abscos")
ASYMMETRY = {torch.float64: 1e-4, torch.float32: 1e-4}  # of the largest entry; what rounding and gradcheck make


def similarities(op: str, name: str, value: object, least: int = 2) -> Tensor:
    """Checks similarities (..., N, N) and returns them in float64."""
    checks.float_tensor(op, name, value, checks.AS_TENSOR)
    assert isinstance(value, Tensor)
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < least:
        wanted = f"square matrices (..., N, N) with N >= {least}"
        hint = "one row for each text; paraphrases are needed, as the original alone scores 0" if least > 1 else ""
        raise ValueError(message(op, name, wanted, f"shape {tuple(value.shape)}", hint))
    if numbers_known(value):
        _check_entries(op, name, value.detach())
    return value.double()


def _check_entries(op: str, name: str, value: Tensor) -> None:
    checks.finite(op, name, value, "an embedding of zeros or infinities has no similarity")
    if (value < 0).any():
        hint = "(1 + cos) / 2 or |cos| makes cosines non-negative"
        raise ValueError(message(op, name, "similarities >= 0", checks.offender(value, value < 0), hint))
    largest = value.flatten(-2).amax(-1)[..., None, None] if value.numel() else value
    wrong = (value - value.mT).abs() > ASYMMETRY.get(value.dtype, 1e-2) * largest
    if wrong.any():
        hint = "the mean of both directions is symmetric: (s + s.mT) / 2"
        raise ValueError(message(op, name, "symmetric matrices", checks.offender(value, wrong), hint))
    own = value.diagonal(dim1=-2, dim2=-1)
    if (own <= 0).any():
        got = checks.offender(own, own <= 0, "a diagonal with ")
        raise ValueError(message(op, name, "a positive similarity of each text to itself", got))


def similarity_matrix(embeddings: Tensor, kind: str = "cos01") -> Tensor:
    """Similarities of all pairs of embeddings, by their cosine.

    Args:
        embeddings: (..., N, D) vectors in any floating-point dtype. Differentiable.
        kind: "cos01" is (1 + cos) / 2, "abscos" is |cos|.

    Returns:
        (..., N, N) numbers in [0, 1], 1 on the diagonal. float32, or float64 for float64 embeddings.

    Raises:
        TypeError: ``embeddings`` is no floating-point tensor.
        ValueError: entries that are not finite, a vector of zeros, a wrong shape or an unknown ``kind``.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import similarity_matrix
        >>> similarity_matrix(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    op = "similarity_matrix"
    checks.float_tensor(op, "embeddings", embeddings, checks.AS_TENSOR)
    checks.one_of(op, "kind", kind, KINDS)
    if embeddings.ndim < 2 or 0 in embeddings.shape[-2:]:
        got = f"shape {tuple(embeddings.shape)}"
        raise ValueError(message(op, "embeddings", "shape (..., N, D), one row for each text", got))
    wide = embeddings.double()
    if numbers_known(embeddings):
        checks.finite(op, "embeddings", embeddings.detach())
    # Divided by the largest entry first, whose square could overflow.
    largest = wide.detach().abs().amax(-1, keepdim=True)
    if numbers_known(embeddings) and (largest < torch.finfo(wide.dtype).tiny).any():
        got = f"zeros in row {checks.offender(largest[..., 0], largest[..., 0] == 0)}"
        raise ValueError(message(op, "embeddings", "vectors with a direction", got, "is a text empty?"))
    unit = torch.nn.functional.normalize(wide / largest, dim=-1)
    cosine = (unit @ unit.mT).clamp(-1, 1)
    result = (1 + cosine) / 2 if kind == "cos01" else cosine.abs()
    same = torch.eye(result.shape[-1], dtype=torch.bool, device=result.device)
    result = torch.where(same, torch.ones_like(result), result)
    return result if embeddings.dtype is torch.float64 else result.float()
