"""The data of node classification, checked, and the graph with one virtual node for each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .graph import Features, Graph, SparseMatrix, given_features


@dataclass(frozen=True)
class Nodes:
    """Features, edges, labels and masks of n nodes."""

    x: Tensor | SparseMatrix
    edge_index: Tensor
    y: Tensor
    train: Tensor  # mask (n,)
    val: Tensor | None
    num_classes: int

    @property
    def count(self) -> int:
        """n."""
        return len(self.y)

    @property
    def like(self) -> Tensor:
        """A tensor of the features' dtype and device."""
        return self.x if isinstance(self.x, Tensor) else self.x.values


def checked_nodes(
    name: str, x: object, edge_index: Tensor, y: Tensor, train: Tensor, val: Tensor | None, num_classes: int
) -> Nodes:
    """Checks the data of a node task. Labels outside both masks are not read."""
    features = given_features(name, x)
    n = features.shape[0]
    edges = Graph(edge_index, n, name).edge_index
    used = check_mask(name, "train_mask", train, n)
    if not train.any():
        raise ValueError(message(name, "train_mask", "at least one node", "none"))
    if val is not None:
        check_mask(name, "val_mask", val, n)
        if not val.any():
            raise ValueError(message(name, "val_mask", "at least one node", "none", "val_mask=None trains to the end"))
        if (train & val).any():
            got = checks.offender(val, train & val, "a node of both: ")
            raise ValueError(message(name, "val_mask", "nodes outside 'train_mask'", got))
        used = train | val
    check_labels(name, y, used, num_classes)
    like = features if isinstance(features, Tensor) else features.values
    for key, value in (("edge_index", edge_index), ("y", y), ("train_mask", train), ("val_mask", val)):
        if value is not None:
            checks.same_device(name, key, value, like, "x")
    kept = None if val is None else val.clone()  # predictions read them later
    return Nodes(features, edges, y.long().clone(), train.clone(), kept, num_classes)


def check_labels(name: str, y: object, mask: Tensor, num_classes: int) -> None:
    """Checks one class a node. Those outside ``mask`` are not read."""
    checks.integer_tensor(name, "y", y)
    assert isinstance(y, Tensor)
    checks.shape(name, "y", y, tuple(mask.shape), "like the nodes of 'x'")
    wrong = mask & ((y < 0) | (y >= num_classes))
    if wrong.any():
        got = checks.offender(y, wrong)
        raise ValueError(message(name, "y", f"classes 0 to {num_classes - 1} of the masked nodes", got))


def check_judged(name: str, y: object, mask: object, data: Nodes) -> None:
    """Checks labels and the mask of the nodes whose accuracy is wanted."""
    if not check_mask(name, "mask", mask, data.count).any():
        raise ValueError(message(name, "mask", "at least one node", "none"))
    assert isinstance(mask, Tensor)
    check_labels(name, y, mask, data.num_classes)


def check_mask(name: str, key: str, mask: object, n: int) -> Tensor:
    """Checks a bool mask over n nodes."""
    checks.bool_tensor(name, key, mask, "one bool for each node")
    assert isinstance(mask, Tensor)
    checks.shape(name, key, mask, (n,), "like the nodes of 'x'")
    return mask


def joined(data: Nodes, members: Tensor, classes: Tensor, bidirectional: bool) -> Graph:
    """The graph with the classes as nodes n to n + K - 1, and an edge from each of ``members`` to its class."""
    virtual = classes + data.count
    new = torch.stack([members, virtual])
    both = [new, new.flip(0)] if bidirectional else [new]
    return Graph(torch.cat([data.edge_index, *both], 1), data.count + data.num_classes)


def class_features(name: str, data: Nodes, given: Tensor | None, seed: int) -> Tensor:
    """The features of the virtual nodes: as given, or standard normal, drawn once and never trained."""
    wanted = (data.num_classes, data.x.shape[1])
    if given is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(wanted, generator=generator, dtype=torch.float64).to(data.like)
    checks.wide_float_tensor(name, "virtual", given)
    checks.shape(name, "virtual", given, wanted, "of one row a class and the columns of 'x'")
    checks.finite(name, "virtual", given)
    return given.detach().clone().to(data.like)


def augmented(data: Nodes, virtual: Tensor) -> Features:
    """The features of nodes and virtual nodes."""
    return Features(data.x, below=virtual)


def label_features(data: Nodes, known: Tensor, labels: Tensor) -> Tensor:
    """(n, K): one-hot labels of the nodes in the mask ``known``, uniform for the others."""
    found = torch.full((data.count, data.num_classes), 1 / data.num_classes).to(data.like)
    found[known] = F.one_hot(labels[known], data.num_classes).to(found)
    return found


def accuracy(scores: Tensor, y: Tensor) -> float:
    """The share of rows whose largest score is that of their class."""
    return float((scores.argmax(1) == y).double().mean())
