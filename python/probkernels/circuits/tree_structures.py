"""Circuits that are trees over the variables: fully factorized, Chow-Liu, and hidden Chow-Liu tree (HCLT)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .circuit import Circuit
from .families import Categorical, Family, Indicator
from .graph import Graph, Input, Node, Product, Sum
from .information import check_columns, mutual_information, rooted_at_center, spanning_tree

MAX_STRUCTURE_ROWS = 5000  # rows that the tree is learned from
STRUCTURE_LEVELS = 16  # that values are binned to for it


def tree_parents(
    x: Tensor, categories: int | Sequence[int], pseudocount: float = 0.1, *, op: str = "tree_parents"
) -> list[int]:
    """The Chow-Liu tree of discrete data as a list of parents, -1 for the root. The root is the center of the tree.

    Args:
        x: (N, D) integers. Only the first 5,000 rows are used. Alphabets of 32 or more values are binned to about 16
            levels.
        categories: number of categories of each variable, or one number for all.
        pseudocount: virtual observations, spread evenly over the cells of each joint histogram.
        op: function name for error messages.

    Raises:
        TypeError, ValueError: as :func:`mutual_information`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import tree_parents
        >>> x = torch.tensor([[0, 0, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]])
        >>> tree_parents(x, 2)
        [-1, 0, 0]
    """
    checks.integer_tensor(op, "x", x)
    some = x[:MAX_STRUCTURE_ROWS]
    sizes = check_columns(some, categories, op=op)  # before binning, which would hide values just outside the alphabet
    widths = [max(size // STRUCTURE_LEVELS, 1) for size in sizes]
    some = some.long() // torch.tensor(widths, device=x.device)
    sizes = [-(-size // width) for size, width in zip(sizes, widths, strict=True)]
    return rooted_at_center(spanning_tree(mutual_information(some, sizes, pseudocount)), x.shape[1])


def _children(parents: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """The children of each variable, and the variables in an order with children first."""
    children: list[list[int]] = [[] for _ in parents]
    for variable, parent in enumerate(parents):
        if not -1 <= parent < len(parents):
            got = f"{parent} for variable {variable}"
            raise ValueError(message("hclt_graph", "parents", f"variables below {len(parents)} or -1", got))
        if parent >= 0:
            children[parent].append(variable)
    order = [variable for variable, parent in enumerate(parents) if parent < 0]
    if len(order) != 1:
        raise ValueError(message("hclt_graph", "parents", "one root, marked -1", f"{len(order)}"))
    for variable in order:
        order += children[variable]
    if len(order) != len(parents):
        raise ValueError(message("hclt_graph", "parents", "a tree", "a cycle"))
    return children, order[::-1]


def factorized_graph(families: Sequence[Family]) -> Graph:
    """A product of independent variables with one input each. ``families`` holds the family of each variable's input.

    Example:
        >>> from probkernels.circuits import Categorical, factorized_graph
        >>> factorized_graph([Categorical(4)] * 3)
        Graph(5 nodes, 3 variables, 1 edges)
    """
    inputs: list[Node] = [Input(variable, 1, family) for variable, family in enumerate(families)]
    return Graph([*inputs, Product(tuple(range(len(inputs)))), Sum((len(inputs),), units=1)])


def hclt_graph(parents: Sequence[int], families: Sequence[Family], latents: int | Sequence[int]) -> Graph:
    """A hidden Chow-Liu tree (HCLT). Every variable with children gets a latent variable, and the latents form the
    tree.

    A variable without children depends on its parent's latent.

    Args:
        parents: parent of each variable, -1 for the root.
        families: family of each variable's inputs.
        latents: number of states of each latent, or one number for all.

    Raises:
        ValueError: the parents do not form a tree, or a list has the wrong length.

    Example:
        >>> from probkernels.circuits import Categorical, hclt_graph
        >>> hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, latents=2).num_edges  # latents at 1 and 2
        6
    """
    sizes = [latents] * len(parents) if isinstance(latents, int) else list(latents)
    if not len(parents) == len(families) == len(sizes):
        got = f"{len(families)} families, {len(sizes)} latents"
        raise ValueError(message("hclt_graph", "parents", "as many as families and latents", f"{len(parents)}; {got}"))
    children, order = _children(parents)
    nodes: list[Node] = []
    top: dict[int, int] = {}  # the node to hang below the parent's product
    for variable in order:
        states = sizes[variable if children[variable] or parents[variable] < 0 else parents[variable]]
        nodes.append(Input(variable, states, families[variable]))
        top[variable] = len(nodes) - 1
        if children[variable]:
            nodes.append(Product((len(nodes) - 1, *(top[child] for child in children[variable]))))
        if children[variable] or parents[variable] < 0:
            units = sizes[parents[variable]] if parents[variable] >= 0 else 1
            nodes.append(Sum((len(nodes) - 1,), units))
            top[variable] = len(nodes) - 1
    return Graph(nodes)


def hclt(
    x: Tensor, latents: int, *, categories: int | Sequence[int] | None = None, pseudocount: float = 0.1, seed: int = 0
) -> Circuit:
    """A hidden Chow-Liu tree (:func:`hclt_graph`) over the Chow-Liu tree of x, with random parameters. Train it with
    :class:`EM`.

    Args:
        x: (N, D) integers. The tree is learned from the first 5,000 rows.
        latents: M, number of states of each latent.
        categories: number of categories of each variable, or one number for all. The default is the largest value of x
            plus one.
        pseudocount: virtual observations in the joint histograms that the tree comes from.
        seed: seed of the parameters.

    Raises:
        TypeError, ValueError: as :func:`mutual_information`.

    Reference:
        Liu and Van den Broeck, Tractable Regularization of Probabilistic Circuits, NeurIPS 2021.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt
        >>> x = torch.randint(0, 4, (100, 6), generator=torch.Generator().manual_seed(0))
        >>> hclt(x, latents=3).log_prob(x[:2]).shape
        torch.Size([2])
    """
    sizes = _categories("hclt", x, categories)
    families = [Categorical(size) for size in sizes]
    return Circuit(hclt_graph(tree_parents(x, sizes, pseudocount, op="hclt"), families, latents), seed=seed)


def factorized(x: Tensor, *, categories: int | Sequence[int] | None = None, pseudocount: float = 0.1) -> Circuit:
    """A circuit of independent variables, each with its frequencies in x (N, D).

    ``categories`` is the number of categories of each variable, or one number for all; the default is the largest value
    of x plus one. ``pseudocount`` adds virtual observations, spread evenly over the categories. Raises the errors of
    :func:`mutual_information`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized
        >>> factorized(torch.tensor([[0, 1], [1, 1]]), pseudocount=0.0).log_prob(torch.tensor([[0, 1]])).exp()
        tensor([0.5000], grad_fn=<ExpBackward0>)
    """
    sizes = _categories("factorized", x, categories)
    circuit = Circuit(factorized_graph([Categorical(size) for size in sizes]))
    _fit_once(circuit, x, pseudocount)
    return circuit


def chow_liu(x: Tensor, *, categories: int | Sequence[int] | None = None, pseudocount: float = 0.1) -> Circuit:
    """The Chow-Liu tree of x (N, D) with the frequencies of x: each variable depends on one other variable.

    The circuit is deterministic, so its parameters are the maximum likelihood and :meth:`Circuit.mpe` is exact.
    ``categories`` and ``pseudocount`` are as in :func:`factorized`. Raises the errors of :func:`mutual_information`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import chow_liu
        >>> x = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 0]])
        >>> chow_liu(x, pseudocount=0.0).log_prob(x[:1]).exp()
        tensor([0.5000], grad_fn=<ExpBackward0>)
    """
    sizes = _categories("chow_liu", x, categories)
    children, order = _children(parents := tree_parents(x, sizes, pseudocount, op="chow_liu"))
    nodes: list[Node] = []
    top: dict[int, int] = {}
    for variable in order:
        nodes.append(Input(variable, sizes[variable], Indicator(sizes[variable])))
        if children[variable]:
            nodes.append(Product((len(nodes) - 1, *(top[child] for child in children[variable]))))
        nodes.append(Sum((len(nodes) - 1,), units=sizes[parents[variable]] if parents[variable] >= 0 else 1))
        top[variable] = len(nodes) - 1
    circuit = Circuit(Graph(nodes))
    _fit_once(circuit, x, pseudocount)
    return circuit


def _fit_once(circuit: Circuit, x: Tensor, pseudocount: float) -> None:
    """Maximum likelihood for a deterministic circuit. One step of EM is exact."""
    at = circuit.probabilities()
    batches = x.split(4096)
    flows = circuit.flows(batches[0], at=at)
    for batch in batches[1:]:
        flows += circuit.flows(batch, at=at)
    circuit.em_update_(flows, at, step=1.0, pseudocount=pseudocount)
    circuit.load_probabilities_(at)


def _categories(op: str, x: Tensor, categories: int | Sequence[int] | None) -> list[int]:
    checks.integer_tensor(op, "x", x)
    if categories is None:
        categories = int(x.max()) + 1 if x.numel() and not x.is_floating_point() else 1
    return [categories] * x.shape[-1] if isinstance(categories, int) else list(categories)
