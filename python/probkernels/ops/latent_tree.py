"""Latent tree models in one pass over the tree: ``latent_tree`` and ``latent_tree_flows``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import latent_tree as reference

__all__ = ["latent_tree", "latent_tree_flows"]

KINDS = ("cpu", "cuda")
DTYPES = (torch.float32, torch.float64)

# --- kernels. The tree goes as a list of ints: what an op does must not depend on the values of a tensor ---


@functools.lru_cache(maxsize=64)
def _placed(tree: tuple[int, ...], device: torch.device) -> Tensor:
    """The nodes in the form that csrc/cuda/latent_tree.cu reads, (N, 12), with the places of their messages."""
    rows = reference.rows_of(tree)
    product = sent = missing = exponents = 0
    table = []
    last = {row.parent: n for n, row in enumerate(rows)}  # products are multiplied from the last child to the first
    for n, row in enumerate(rows):
        above = rows[row.parent].states if n else 1
        several = row.weights >= 0 and row.children + (row.variable >= 0) > 1
        table.append([*row, product, sent, missing, exponents if several else -1, last[row.parent] == n])
        exponents += row.states * several
        product += row.states * (row.weights >= 0)
        sent += above * (row.weights >= 0)
        missing += row.states * (row.variable >= 0)
    return torch.tensor(table, dtype=torch.int64, device=device)


def _kernel(
    run: Backend, op: str, weights: Tensor, leaves: Tensor, codes: Tensor, tree: Sequence[int], outputs: Sequence[Any]
) -> None:
    placed = _placed(tuple(tree), weights.device) if run.kind == "cuda" else None
    tensors = weights.contiguous(), leaves.contiguous(), codes.contiguous()
    sizes = *codes.shape, weights.numel(), leaves.numel()
    run.launch(op, DTYPE_CODE[weights.dtype], *tensors, list(tree), placed, *outputs, *sizes)


_AT_ONCE = 2**22  # of a message's exponents, a pair of states and a sample each


def _lost(log_prob: Tensor, weights: int) -> tuple[Tensor, ...]:
    """The samples that a kernel gave up (their result is NaN), in parts of bounded memory. Zero weights hid their
    likeliest states.

    While a CUDA graph is captured the result cannot be read, so they stay NaN.
    """
    if log_prob.is_cuda and torch.cuda.is_current_stream_capturing():
        return ()
    samples = log_prob.isnan().nonzero()[:, 0]
    return samples.split(max(_AT_ONCE // max(weights, 1), 1)) if len(samples) else ()


def _latent_tree_kernel(run: Backend, weights: Tensor, log_leaves: Tensor, codes: Tensor, tree: list[int]) -> Tensor:
    if codes.numel() == 0 or log_leaves.numel() == 0:
        return reference.latent_tree(weights, log_leaves, codes, tree)
    log_prob = weights.new_empty(codes.shape[1])
    _kernel(run, "latent_tree", weights, log_leaves.exp(), codes, tree, (log_prob,))
    for some in _lost(log_prob, len(weights)):
        log_prob[some] = reference.latent_tree(weights, log_leaves, codes[:, some], tree)
    return log_prob


def _flows_kernel(
    run: Backend, weights: Tensor, leaves: Tensor, codes: Tensor, tree: list[int], grad: Tensor | None, missing: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if codes.numel() == 0 or leaves.numel() == 0:
        return reference.latent_tree_flows(weights, leaves, codes, tree, grad, missing)
    log_prob, missing_flows = weights.new_empty(codes.shape[1]), weights.new_zeros(missing)
    grad_weights, leaf_flows = weights.new_zeros(weights.shape), weights.new_zeros(leaves.shape)
    grad = None if grad is None else grad.contiguous()
    outputs = grad, log_prob, grad_weights, leaf_flows, missing_flows if missing else None
    _kernel(run, "latent_tree_flows", weights, leaves, codes, tree, outputs)
    for some in _lost(log_prob, len(weights)):
        of_some = None if grad is None else grad[some]
        log_prob[some], *flows = reference.latent_tree_flows(weights, leaves, codes[:, some], tree, of_some, missing)
        for total, flow in zip((grad_weights, leaf_flows, missing_flows), flows, strict=True):
            total += flow
    return log_prob, grad_weights, leaf_flows, missing_flows


# --- examples: what doctor and the composition tests run every op on ---


def _example(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Example weights, leaves, codes and tree: latent variables of 2 and 3 states, three observed variables, one value
    missing."""
    rows = ((-1, 2, 1, 0, 0, 3, 2), (0, 2, 0, -1, 6, 2, 0), (0, 3, 2, 2, 10, 3, 0))
    generator = torch.Generator().manual_seed(0)
    weights, leaves = (0.2 + torch.rand(n, generator=generator, dtype=torch.float64) for n in (8, 19))
    codes = torch.tensor([[0, 1, 1], [2, 0, 1], [-1, 2, 0]], dtype=torch.int32)
    return weights.to(device, dtype), leaves.to(device, dtype), codes.to(device), [v for row in rows for v in row]


def _latent_tree_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    weights, leaves, codes, tree = _example(device, dtype)
    return [(weights, leaves.log(), codes, tree)]


def _flows_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    inputs = _example(device, dtype)
    grad = torch.tensor([0.5, 2.0, -1.0], device=device, dtype=dtype)
    return [(*inputs, grad, 7)]


# --- derivatives: the gradient is the flows', whose own runs through the reference ---


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.tree = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, log_leaves, codes = ctx.saved_tensors
    _, grad_weights, leaf_flows, _ = FLOWS.call(weights, log_leaves.exp(), codes, ctx.tree, grad, 0)
    return grad_weights, leaf_flows, None, None


LATENT_TREE = Op(
    "latent_tree",
    "(Tensor weights, Tensor log_leaves, Tensor codes, int[] tree) -> Tensor",
    reference=reference.latent_tree,
    kernels=dict.fromkeys(KINDS, _latent_tree_kernel),
    fake=lambda weights, log_leaves, codes, tree: weights.new_empty(codes.shape[1]),
    examples=_latent_tree_examples,
    setup=_setup,
    backward=_backward,
    dtypes=DTYPES,
)

FLOWS = Op(
    "latent_tree_flows",
    "(Tensor weights, Tensor leaves, Tensor codes, int[] tree, Tensor? grad, int missing)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    family="latent_tree",
    reference=reference.latent_tree_flows,
    kernels=dict.fromkeys(KINDS, _flows_kernel),
    fake=lambda weights, leaves, codes, tree, grad, missing: (
        weights.new_empty(codes.shape[1]),
        weights.new_empty(weights.shape),
        weights.new_empty(leaves.shape),
        weights.new_empty(missing),
    ),
    examples=_flows_examples,
    dtypes=DTYPES,
)

# --- public functions ---


def _check_tree(op: str, rows: Tensor, variables: int, weights: int, leaves: int) -> None:
    """Checks that ``rows`` (N, 7) describe a tree whose parameters fit flat tensors of these lengths."""
    parent, states, variable, weights_at, leaves_at, categories, children = rows.unbind(1)
    n = torch.arange(len(rows), device=rows.device)
    latent, observed, root = weights_at >= 0, variable >= 0, n == 0
    above = torch.where(root, 1, states[parent.clamp(0, len(rows) - 1)])
    clamped = variable.clamp(-1, variables) + 1
    most = 2**31
    rules = {
        "the root, with parent -1, first, and each other node after its parent": torch.where(
            root, parent == -1, (parent >= 0) & (parent < n)
        ),
        "parents with a latent variable": latent[parent.clamp(0, len(rows) - 1)] | root,
        "1 to 2^31 - 1 states, those of the parent without a latent variable": (states >= 1)
        & (states < most)
        & (latent | (states == above) & observed & ~root),
        f"variables below {variables} with at least one category": ~observed
        | (variable < variables) & (categories >= 1) & (categories < most),
        f"(states of the parent) x (states) weights within {weights}": ~latent
        | (weights_at <= weights - above * states),
        f"(categories) x (states) leaves within {leaves}": ~observed
        | (leaves_at >= 0) & (leaves_at <= leaves - categories * states),
        "the number of children last": children
        == torch.bincount(parent[1:].clamp(0), minlength=len(rows))[: len(rows)],
        "every variable once": ~observed | (torch.bincount(clamped)[clamped] == 1),
    }
    for rule, holds in rules.items():
        if not holds.all():
            node = int((~holds).nonzero()[0])
            raise ValueError(message(op, "tree", rule, f"{rows[node].tolist()} for node {node}"))
    for name, at, size in (
        ("weights", weights_at[latent], (above * states)[latent]),
        ("leaves", leaves_at[observed], (categories * states)[observed]),
    ):
        at, order = at.sort()
        if (at[1:] < at[:-1] + size[order][:-1]).any():
            raise ValueError(message(op, "tree", f"{name} of its own for every node", "nodes that share some"))


def _check(op: str, codes: Tensor, weights: Tensor, leaves: Tensor, leaves_name: str, tree: Any) -> list[int]:
    """Checks all arguments. Returns the tree as a flat list."""
    if not isinstance(codes, Tensor) or codes.dtype is not torch.int32:
        raise TypeError(message(op, "codes", "an int32 tensor", checks.describe(codes), "codes.int()"))
    if codes.dim() != 2:
        raise ValueError(message(op, "codes", "shape (variables, batch)", f"shape {tuple(codes.shape)}"))
    for name, value in (("weights", weights), (leaves_name, leaves)):
        if not isinstance(value, Tensor) or value.dtype not in DTYPES:
            raise TypeError(message(op, name, "a float32 or float64 tensor", checks.describe(value)))
        if value.dim() != 1:
            raise ValueError(message(op, name, "one dimension", f"shape {tuple(value.shape)}", "use flatten()"))
        checks.same_device(op, name, value, codes, "codes")
    if leaves.dtype is not weights.dtype:
        expected = f"the dtype of 'weights' ({weights.dtype})"
        raise TypeError(message(op, leaves_name, expected, str(leaves.dtype), "cast one of them"))
    if isinstance(tree, Tensor):
        if tree.dtype is not torch.int64 or tree.is_cuda:
            raise TypeError(message(op, "tree", "an int64 tensor on the CPU", checks.describe(tree)))
        rows, tree = tree, tree.tolist()
    else:
        rows = torch.tensor(tree, dtype=torch.int64, device="cpu")
    if rows.dim() != 2 or rows.shape[0] == 0 or rows.shape[1] != len(reference.Row._fields):
        raise ValueError(message(op, "tree", "shape (nodes, 7) with at least one node", f"shape {tuple(rows.shape)}"))
    if not torch.compiler.is_compiling():
        _check_tree(op, rows, codes.shape[0], weights.numel(), leaves.numel())
        if codes.device.type == "cpu" and codes.numel():
            _check_codes(op, codes, rows)
    return [value for row in tree for value in row]


def _check_codes(op: str, codes: Tensor, rows: Tensor) -> None:
    """Checks that every code is -1 or a category of its variable."""
    observed = rows[rows[:, 2] >= 0]
    least, most = codes.aminmax(dim=1)
    variables, categories = observed[:, 2], observed[:, 5]
    wrong = (least[variables] < -1) | (most[variables] >= categories)
    if wrong.any():
        v, count = int(variables[wrong][0]), int(categories[wrong][0])
        got = f"values from {int(least[v])} to {int(most[v])}"
        raise ValueError(message(op, "codes", f"categories 0 to {count - 1} of variable {v}, or -1 (missing)", got))


def latent_tree(codes: Tensor, weights: Tensor, log_leaves: Tensor, tree: Tensor | Sequence[Sequence[int]]) -> Tensor:
    """Log-likelihood of a latent tree model (HCLT), in one pass over the tree.

    ``p(x) = sum over z of prod_n p(z_n | z_parent) prod_n p(x_n | z)``. Each node of ``tree`` has a latent variable, an
    observed variable, or both. A node without a latent variable depends on its parent's latent variable.

    Args:
        codes: (V, B) int32, category of each variable in each of B samples. -1 means missing; the variable is summed
            out.
        weights: (E) float32 or float64, p(z | z of the parent) of all nodes, not logarithms, >= 0: row-major matrices
            with one row for each state of the parent. The root has one row.
        log_leaves: (L) of the same dtype, log p(x | z): row-major tables with one row for each category.
        tree: (N, 7) int64 on the CPU, or N rows of seven ints (which torch.compile needs), parents before children.
            Columns: parent (-1: the root), states K, variable (-1: none), offset of its weights (-1: no latent
            variable; K is then the parent's), offset of its leaves, categories C, number of children. Parameters may
            not overlap.

    Returns:
        (B) log p(x), -inf if a sample is impossible. A sample's result does not depend on the other samples.
        Differentiable any number of times in ``log_leaves`` and ``weights``; p(x) is linear in each weight, so zero
        weights have gradients too. Impossible samples add nothing to gradients, nor do parent states from which a
        node's message is zero.

        Parameters below the normal range (1.2e-38 in float32) count as zero. If zero or almost zero weights hide the
        likeliest states, the remaining states may underflow. Such a sample is computed again with an exponent for each
        state: exact, but slower. On a GPU this requires weights of at most 1, and during the capture of a CUDA graph
        the result is NaN instead.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or device is wrong, a code is not a category (checked on the CPU; a GPU treats it as
            missing), or ``tree`` is not a tree over these parameters.

    Backends: C++ (CPU), CUDA, plain torch. Deterministic, for any number of threads.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> tree = [[-1, 2, 0, 0, 0, 2, 1], [0, 2, 1, -1, 4, 2, 0]]  # one latent variable, two observed ones
        >>> weights = torch.tensor([0.25, 0.75])
        >>> leaves = torch.tensor([0.5, 1.0, 0.5, 0.0, 0.2, 0.6, 0.8, 0.4])
        >>> codes = torch.tensor([[0, 1, -1], [1, 1, 0]], dtype=torch.int32)
        >>> pk.ops.latent_tree(codes, weights, leaves.log(), tree).exp()
        tensor([0.4000, 0.1000, 0.5000])
    """
    flat = _check("latent_tree", codes, weights, log_leaves, "log_leaves", tree)
    return LATENT_TREE.call(weights, log_leaves, codes, flat)


def latent_tree_flows(
    codes: Tensor, weights: Tensor, leaves: Tensor, tree: Tensor | Sequence[Sequence[int]], grad: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-likelihood and circuit flows of a latent tree model, in one pass up and one pass down the tree.

    A flow is the expected number of times that the samples use an edge: the counts of expectation maximization. The
    flow of a weight is ``weights * grad_weights``. If parameters require grad, call it under ``torch.no_grad()``: flows
    have derivatives too, but plain torch computes them.

    Args:
        codes: (V, B) int32, see :func:`latent_tree`.
        weights: (E) float32 or float64, see :func:`latent_tree`.
        leaves: (L) of the same dtype, p(x | z), **not** its logarithm.
        tree: (N, 7), see :func:`latent_tree`.
        grad: (B) of the same dtype, how much each sample counts. 1 by default.

    Returns:
        ``(log_prob, grad_weights, leaf_flows, missing_flows)``:
        log_prob (B).
        grad_weights (E): gradient of ``sum(grad * log_prob)`` with respect to the weights.
        leaf_flows (L): flows of the leaves, the gradient with respect to their logarithms.
        missing_flows: for each node with an observed variable, in order, the flow of each of its K states in samples
        where the variable is missing.
        Impossible samples add nothing.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: as :func:`latent_tree`, or ``grad`` has the wrong shape.

    Backends: as :func:`latent_tree`.

    Example:
        >>> import torch, probkernels as pk
        >>> tree = [[-1, 2, 0, 0, 0, 2, 1], [0, 2, 1, -1, 4, 2, 0]]
        >>> weights = torch.tensor([0.25, 0.75])
        >>> leaves = torch.tensor([0.5, 1.0, 0.5, 0.0, 0.2, 0.6, 0.8, 0.4])
        >>> codes = torch.tensor([[0, 1, -1], [1, 1, 0]], dtype=torch.int32)
        >>> _, grad_weights, _, missing = pk.ops.latent_tree_flows(codes, weights, leaves, tree)
        >>> weights * grad_weights  # the samples' shares of the two states: 1/4 + 1 + 1/10, 3/4 + 9/10
        tensor([1.3500, 1.6500])
        >>> missing
        tensor([0.1000, 0.9000, 0.0000, 0.0000])
    """
    flat = _check("latent_tree_flows", codes, weights, leaves, "leaves", tree)
    if grad is not None:
        if not isinstance(grad, Tensor) or grad.dtype is not weights.dtype:
            expected = f"a tensor of the dtype of 'weights' ({weights.dtype})"
            raise TypeError(message("latent_tree_flows", "grad", expected, checks.describe(grad)))
        checks.shape("latent_tree_flows", "grad", grad, (codes.shape[1],), "(one for each sample)")
        checks.same_device("latent_tree_flows", "grad", grad, codes, "codes")
    rows = reference.rows_of(flat)
    missing = sum(row.states for row in rows if row.variable >= 0)
    return FLOWS.call(weights, leaves, codes, flat, grad, missing)
