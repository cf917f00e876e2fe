"""The graphs, and the bytes that a training step keeps."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ... import local_learning as ll
from ..harness import data_files
from .records import BLOCKS, CORA, CORA_ML

FILES = {CORA_ML: "graph_cora_ml", CORA: "graph_cora"}
HIDDEN = 128


@dataclass(frozen=True)
class Data:
    """A graph and one split of its nodes."""

    x: Tensor  # dense or CSR
    edges: Tensor
    y: Tensor
    train: Tensor
    val: Tensor
    test: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1


def load(name: str, split: int, folder: str) -> Data:
    """A data set and a split."""
    if name == BLOCKS:
        return blocks(split)
    arrays = data_files.load(Path(folder), FILES[name])
    parts = torch.from_numpy((arrays["splits"][split] if name == CORA_ML else arrays["split"]).astype(np.int64))
    y, edges = (torch.from_numpy(arrays[key].astype(np.int64)) for key in ("y", "edge_index"))
    rows, columns = (torch.from_numpy(arrays[key].astype(np.int64)) for key in ("x_indptr", "x_indices"))
    values = torch.from_numpy(arrays["x_data"]) if "x_data" in arrays else torch.ones(len(columns))
    count = rows.diff()
    sums = torch.zeros(len(y)).index_add_(0, torch.arange(len(y)).repeat_interleave(count), values)
    values = values / sums.clamp(min=1e-12).repeat_interleave(count)  # every row sums to 1
    width = int(arrays["n_features"]) if "n_features" in arrays else int(columns.max()) + 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks)")
        x = torch.sparse_csr_tensor(rows, columns, values, (len(y), width))
    return Data(x, edges, y, parts == 0, parts == 1, parts == 2)


def blocks(seed: int, nodes: int = 400, classes: int = 4, width: int = 16) -> Data:
    """A stochastic block model: edges with probability 0.05 inside a class, 0.005 between two; Gaussian features."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(nodes) % classes
    chance = torch.where(y[:, None] == y, 0.05, 0.005)
    upper = (torch.rand(nodes, nodes, generator=generator) < chance).triu(1)
    centers = 0.35 * torch.randn(classes, width, generator=generator)
    x = centers[y] + torch.randn(nodes, width, generator=generator)
    place = torch.randperm(nodes, generator=generator) / nodes
    return Data(x, (upper | upper.t()).nonzero().t(), y, place < 0.64, (place >= 0.64) & (place < 0.8), place >= 0.8)


def gcn(inputs: int, depth: int, outputs: int = HIDDEN) -> list[nn.Module]:
    """Graph convolutions, the last of which has ``outputs``."""
    sizes = [inputs, *[HIDDEN] * (depth - 1), outputs]
    return [ll.GCN(one, other) for one, other in itertools.pairwise(sizes)]


class Kept:
    """Counts the bytes of tensors kept for backward passes; a tensor that is kept twice counts once."""

    def __init__(self) -> None:
        self.most, self._now = 0, 0
        self._held: dict[int, int] = {}

    def of(self, step: Callable[[], object]) -> int:
        """The most bytes kept at any time during ``step()``."""
        with torch.autograd.graph.saved_tensors_hooks(lambda t: _Held(self, t), lambda held: held.tensor):
            step()
        return self.most

    def add(self, tensor: Tensor, count: int) -> None:
        """Counts a tensor in, or out with ``count`` -1."""
        key = tensor.data_ptr()
        before = self._held.get(key, 0)
        self._held[key] = before + count
        if 0 in (before, before + count):
            self._now += count * tensor.nbytes
            self.most = max(self.most, self._now)


class _Held:
    def __init__(self, counter: Kept, tensor: Tensor) -> None:
        self.counter, self.tensor = counter, tensor
        counter.add(tensor, 1)

    def __del__(self) -> None:
        self.counter.add(self.tensor, -1)
