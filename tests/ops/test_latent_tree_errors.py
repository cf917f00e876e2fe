"""What latent trees refuse: wrong arguments by name, and trees and codes that would lead a kernel out of bounds."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops.latent_tree import FLOWS, LATENT_TREE
from probkernels.reference import latent_tree as reference
from torch import Tensor

from tests.ops.latent_trees import NONE, TOY_DATA, each_kernel, toy

TREE = toy().tree
GOOD = {"codes": TOY_DATA, "weights": toy().weights, "log_leaves": toy().leaves.log(), "tree": TREE}


def changed(node: int, column: int, value: int) -> Tensor:
    tree = TREE.clone()
    tree[node, column] = value
    return tree


BAD_TREES = [
    (changed(0, 0, 0), "the root, with parent -1"),
    (changed(2, 0, 3), "each other node after its parent, got .* for node 2"),
    (changed(3, 0, 1), "parents with a latent variable"),
    (changed(2, 0, -1), "each other node after its parent"),
    (changed(0, 1, 0), "1 to 2\\^31 - 1 states"),
    (changed(1, 1, 3), "those of the parent without a latent variable"),
    (changed(3, 2, -1), "without a latent variable"),
    (changed(1, 2, 4), "variables below 4"),
    (changed(1, 5, 0), "at least one category"),
    (changed(2, 3, 3), "weights within 6"),
    (changed(2, 3, 2**62), "weights within 6"),
    (changed(3, 4, 19), "leaves within 24"),
    (changed(3, 4, -1), "leaves within 24"),
    (changed(3, 5, 4), "leaves within 24"),
    (changed(0, 6, 1), "number of children"),
    (changed(1, 2, 2), "every variable once"),
    (changed(2, 3, 1), "weights of its own"),
    (changed(3, 4, 13), "leaves of its own"),
    (TREE[:, :6], "shape \\(nodes, 7\\)"),
    (TREE[:0], "at least one node"),
]


@pytest.mark.parametrize(("tree", "text"), BAD_TREES, ids=lambda v: None)
def test_bad_trees(tree: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=f"latent_tree: argument 'tree': expected .*{text}"):
        pk.ops.latent_tree(**{**GOOD, "tree": tree})


@each_kernel
@pytest.mark.parametrize(
    "tree", [t for t, _ in BAD_TREES if t.shape == TREE.shape and t[1, 2] != 2], ids=lambda v: None
)
def test_kernels_refuse_bad_trees_too(tree: Tensor, kind: str) -> None:
    """Whoever calls the op itself skips the checks above."""
    weights, leaves = toy().weights, toy().leaves
    with pk.use_backend(kind), pytest.raises(ValueError, match="latent_tree"):
        LATENT_TREE.call(weights, leaves.log(), TOY_DATA, tree.flatten().tolist())
    with pk.use_backend(kind), pytest.raises(ValueError, match="latent_tree_flows"):
        FLOWS.call(weights, leaves, TOY_DATA, tree.flatten().tolist(), None, 8)


@each_kernel
def test_kernels_take_codes_of_no_category_for_missing(kind: str) -> None:
    wild, missing = TOY_DATA.clone(), TOY_DATA.clone()
    wild[0, 0], wild[3, 1], missing[0, 0], missing[3, 1] = 3, -(2**31), NONE, NONE
    model, tree = toy(), TREE.flatten().tolist()
    expected = reference.latent_tree_flows(model.weights, model.leaves, missing, tree, None, 8)
    with pk.use_backend(kind):
        got = FLOWS.call(model.weights, model.leaves, wild, tree, None, 8)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)


BAD = [
    ({"codes": TOY_DATA.long()}, TypeError, "argument 'codes': expected an int32 tensor.*codes.int"),
    ({"codes": TOY_DATA[0]}, ValueError, "argument 'codes': expected shape \\(variables, batch\\)"),
    ({"codes": TOY_DATA + 1}, ValueError, "argument 'codes': expected categories 0 to 2 of variable 1, or -1"),
    ({"codes": TOY_DATA - 2}, ValueError, "argument 'codes'.*values from -2"),
    ({"weights": toy().weights.half()}, TypeError, "argument 'weights': expected a float32 or float64 tensor"),
    ({"weights": toy().weights.view(3, 2)}, ValueError, "argument 'weights': expected one dimension"),
    ({"log_leaves": toy().leaves.float()}, TypeError, "argument 'log_leaves': expected the dtype of 'weights'"),
    ({"log_leaves": toy().leaves.to("meta")}, ValueError, "argument 'log_leaves': expected the device of 'codes'"),
    ({"tree": TREE.int()}, TypeError, "argument 'tree': expected an int64 tensor on the CPU"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"latent_tree: {text}"):
        pk.ops.latent_tree(**{**GOOD, **change})


@pytest.mark.parametrize(("grad", "error"), [(torch.ones(3), TypeError), (torch.ones(4).double(), ValueError)], ids=str)
def test_bad_weights_of_samples(grad: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match="latent_tree_flows: argument 'grad'"):
        pk.ops.latent_tree_flows(TOY_DATA, toy().weights, toy().leaves, TREE, grad)
