"""Prototypes from labeled codes: clusters of each class, their means and Cholesky factors."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

ROUNDS = 25  # of Lloyd's algorithm; it stops earlier where nothing changes


def clusters(points: Tensor, count: int) -> Tensor:
    """The cluster (N,) of each point. Lloyd's algorithm starts at points far from each other, without random numbers.
    With fewer than ``count`` different points some clusters are empty."""
    first = (points - points.mean(0)).square().sum(1).argmax()
    centers = points[first][None]
    for _ in range(count - 1):
        centers = torch.cat([centers, points[torch.cdist(points, centers).amin(1).argmax()][None]])
    cluster = torch.cdist(points, centers).argmin(1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centers).index_add_(0, cluster, points)
        sizes = torch.bincount(cluster, minlength=count)
        centers = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centers)
        new = torch.cdist(points, centers).argmin(1)
        if torch.equal(new, cluster) or bool((torch.bincount(new, minlength=count) == 0).any()):
            break
        cluster = new
    return cluster


def statistics(
    op: str, codes: Tensor, labels: Tensor, shape: tuple[int, ...], jitter: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Means, Cholesky factors and shares of clusters: a share is the part of a prototype's points that a component has.
    ``shape`` is (classes, prototypes[, components]), also that of the shares."""
    classes, parts = shape[0], torch.Size(shape[1:])
    means, covariances, sizes = [], [], []
    unit = torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device)
    for c in range(classes):
        groups = _split(codes[labels == c], parts)
        if not all(len(group) for group in groups):
            hint = "take fewer prototypes or components of a class"
            got = f"{int((labels == c).sum())} of class {c}, too many of them equal or alone"
            raise ValueError(message(op, "labels", f"codes of each class for {parts.numel()} groups", got, hint))
        for group in groups:
            means.append(group.mean(0))
            off = group - means[-1]
            covariances.append(off.mT @ off / len(group) + jitter * unit)
            sizes.append(len(group))
    factors, failed = torch.linalg.cholesky_ex(torch.stack(covariances))
    if failed.any():
        hint = "codes of a class with fewer samples than dimensions need a larger one"
        raise ValueError(message(op, "jitter", "one that makes covariances positive definite", repr(jitter), hint))
    count = codes.new_tensor(sizes).view(shape)
    return torch.stack(means), factors, count / count.sum(-1, keepdim=True)


def _split(points: Tensor, parts: torch.Size) -> list[Tensor]:
    """Points by prototype, and then by component. A group is empty where there are too few different points."""
    if not parts or not len(points):
        return [points]
    cluster = clusters(points, parts[0])
    groups = [points[cluster == part] for part in range(parts[0])]
    return [part for group in groups for part in _split(group, parts[1:])]


def check_codes(op: str, codes: object, dim: int, name: str = "codes") -> Tensor:
    """Checks codes (N, dim)."""
    checks.float_tensor(op, name, codes, checks.AS_TENSOR)
    assert isinstance(codes, Tensor)
    if codes.ndim != 2 or codes.shape[1] != dim:
        hint = "an encoder of images may end in nn.Flatten()"
        raise ValueError(message(op, name, f"shape (N, {dim})", f"shape {tuple(codes.shape)}", hint))
    return codes
