"""Baselines that see a black box's answers only, all from one similarity matrix of the answers."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from ._similarity import similarities

MEASURES = ("degmat", "eigv", "kle", "dispersion", "semantic_entropy")


def _degmat(s: Tensor) -> Tensor:
    return 1 - s.mean((-2, -1))


def _eigv(s: Tensor) -> Tensor:
    root = s.sum(-1).rsqrt()
    return torch.linalg.eigvalsh(root[..., :, None] * s * root[..., None, :]).clamp(min=0).sum(-1)


def _kle(s: Tensor, time: float) -> Tensor:
    laplacian = torch.diag_embed(s.sum(-1)) - s
    kernel = torch.linalg.matrix_exp(-time * laplacian)
    root = kernel.diagonal(dim1=-2, dim2=-1).rsqrt()
    density = root[..., :, None] * kernel * root[..., None, :] / s.shape[-1]
    return torch.special.entr(torch.linalg.eigvalsh(density).clamp(min=1e-300)).sum(-1)


def _dispersion(s: Tensor) -> Tensor:
    count = s.shape[-1]
    return 1 - (s.sum((-2, -1)) - s.diagonal(dim1=-2, dim2=-1).sum(-1)) / (count * (count - 1))


def _semantic_entropy(s: Tensor, threshold: float) -> Tensor:
    linked, count = (s >= threshold).double(), s.shape[-1]
    linked = torch.maximum(linked, torch.eye(count, dtype=linked.dtype, device=linked.device))
    for _ in range(count.bit_length()):  # each step doubles the length of the paths that are followed
        linked = (linked @ linked > 0).double()
    return (count / linked.sum(-1)).log().mean(-1)  # the mean over answers of -log of their cluster's share


def blackbox_uncertainty(
    similarity: Tensor, measure: str = "degmat", *, time: float = 0.4, threshold: float = 0.9
) -> Tensor:
    """How much the answers to one question differ, by measures that need no logits.

    | measure | value | range |
    |---|---|---|
    | "degmat" | 1 - mean similarity of all pairs, those of an answer with itself included | 0 to 1 - 1/N |
    | "dispersion" | the same without them | 0 to 1 |
    | "eigv" | sum of ``max(0, 1 - lambda)`` over eigenvalues of the normalized graph Laplacian | 1 to N |
    | "kle" | von Neumann entropy of the heat kernel ``exp(-time L)``, scaled to a diagonal of 1/N | 0 to log N |
    | "semantic_entropy" | entropy of clusters: answers linked by similarities >= ``threshold`` | 0 to log N |

    "degmat" and "eigv" are of Lin et al. (https://arxiv.org/abs/2305.19187), "kle" of Nikitin et al.
    (https://arxiv.org/abs/2405.20003). Ranges hold for similarities in [0, 1] with 1 on the diagonal.

    Args:
        similarity: (..., N, N) similarities of N >= 2 answers: symmetric, >= 0, positive on the diagonal.
        measure: a name of the table.
        time: of "kle", > 0. Published values: 0.3 and 0.4, for weights of about 1.
        threshold: of "semantic_entropy", in the units of ``similarity``.

    Returns:
        (...) numbers, higher is more uncertain; float32, or float64 for float64. Differentiable, except for
        "semantic_entropy".

    Raises:
        TypeError: an argument of another kind.
        ValueError: an unknown ``measure``; a matrix that is not as above; a ``time`` that is not positive.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import blackbox_uncertainty
        >>> two_meanings = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))
        >>> blackbox_uncertainty(two_meanings, "eigv").round(decimals=3)
        tensor(2.)
        >>> blackbox_uncertainty(two_meanings, "semantic_entropy")  # log 2
        tensor(0.6931)
    """
    op = "blackbox_uncertainty"
    checks.one_of(op, "measure", measure, MEASURES)
    checks.positive(op, "time", time)
    checks.number(op, "threshold", threshold)
    s = similarities(op, "similarity", similarity)
    if measure == "kle":
        found = _kle(s, time)
    elif measure == "semantic_entropy":
        found = _semantic_entropy(s, threshold)
    else:
        found = {"degmat": _degmat, "eigv": _eigv, "dispersion": _dispersion}[measure](s)
    return found if similarity.dtype is torch.float64 else found.float()
