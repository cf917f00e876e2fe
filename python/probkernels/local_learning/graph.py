"""Graphs as CSR matrices, and node features of which a part may be sparse."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

EPS = 1e-8  # of the rows' norms
SPARSE = (torch.sparse_csr, torch.sparse_coo)


class SparseMatrix:
    """A sparse matrix and its transpose, both CSR: a product and its derivative then read rows in order.

    Entries that are given twice are added.
    """

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks)")
            coo = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape).coalesce()
            self.forward = coo.to_sparse_csr()
            self.backward = coo.t().coalesce().to_sparse_csr()
        self.rows, self.columns, self.values = *coo.indices(), coo.values()
        self.shape = shape

    def __matmul__(self, x: Tensor) -> Tensor:
        return _Product.apply(self, x)

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseMatrix:
        """The matrix itself: it never changes, and torch cannot copy CSR tensors."""
        return self

    def scaled(self, factors: Tensor) -> SparseMatrix:
        """The matrix with row i times ``factors[i]``."""
        return SparseMatrix(self.rows, self.columns, self.values * factors[self.rows], self.shape)

    def dense(self) -> Tensor:
        """The matrix as a dense tensor."""
        return self.values.new_zeros(self.shape).index_put_((self.rows, self.columns), self.values)


class _Product(torch.autograd.Function):
    """A x for a constant sparse A. Nothing is kept for backward but a reference to A."""

    @staticmethod
    def forward(ctx: Any, matrix: SparseMatrix, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        return _times(matrix.forward, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, _times(ctx.matrix.backward, grad.contiguous())


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """A product in the dtype of ``x``, taken in float32 for half precision, which CSR products do not have on a CPU."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return (matrix.to(wide) @ x.to(wide)).to(x.dtype)


class Graph:
    """A directed graph whose normalized matrices are made once, when a layer first asks for them.

    The built-in layers take a graph in place of ``edge_index`` and then do not sort the edges in every call. An edge
    that is given twice counts twice.

    Args:
        edge_index: (2, E) integer tensor: edge e sends from node ``edge_index[0, e]`` to node ``edge_index[1, e]``.
        num_nodes: the number of nodes n. Nodes without edges are allowed.
        name: name of the function that the user called, for errors.

    Raises:
        TypeError: ``edge_index`` is not an integer tensor.
        ValueError: it is not of shape (2, E), or names a node outside 0 to n - 1.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import Graph
        >>> path = Graph(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> path.gcn(torch.float32).dense()[0]
        tensor([0.5000, 0.4082, 0.0000])
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, name: str = "Graph") -> None:
        self.num_nodes = checks.integer(name, "num_nodes", num_nodes)
        checks.integer_tensor(name, "edge_index", edge_index)
        if edge_index.ndim != 2 or len(edge_index) != 2:
            raise ValueError(message(name, "edge_index", "shape (2, E)", f"shape {tuple(edge_index.shape)}"))
        wrong = (edge_index < 0) | (edge_index >= num_nodes)
        if wrong.any():
            raise ValueError(
                message(name, "edge_index", f"nodes 0 to {num_nodes - 1}", checks.offender(edge_index, wrong))
            )
        self.edge_index = edge_index.long().clone()  # its matrices are made later
        self._made: dict[Any, Any] = {}

    def gcn(self, dtype: torch.dtype) -> SparseMatrix:
        """The matrix of a GCN: self loops and symmetric normalization by in-degrees. Given self loops are replaced."""
        wide = torch.promote_types(dtype, torch.float32)
        return self._once(("gcn", wide), lambda: self._gcn(wide))

    def mean(self, dtype: torch.dtype) -> SparseMatrix:
        """The matrix that averages over the nodes that send to a node. Rows without any are zero."""
        wide = torch.promote_types(dtype, torch.float32)
        return self._once(("mean", wide), lambda: self._mean(wide))

    def looped(self) -> Tensor:
        """The edges (2, E') with exactly one self loop at every node."""
        return self._once("looped", self._looped)

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _looped(self) -> Tensor:
        source, target = self.edge_index
        kept = self.edge_index[:, source != target]
        return torch.cat([kept, torch.arange(self.num_nodes, device=kept.device).expand(2, -1)], 1)

    def _degrees(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.bincount(target, minlength=self.num_nodes).to(dtype)

    def _gcn(self, dtype: torch.dtype) -> SparseMatrix:
        source, target = self.looped()
        root = self._degrees(target, dtype).rsqrt()
        return SparseMatrix(target, source, root[source] * root[target], (self.num_nodes, self.num_nodes))

    def _mean(self, dtype: torch.dtype) -> SparseMatrix:
        source, target = self.edge_index
        weights = self._degrees(target, dtype).reciprocal()[target]
        return SparseMatrix(target, source, weights, (self.num_nodes, self.num_nodes))


class Features:
    """Node features in blocks: ``top``, dense or sparse; dense rows ``below`` it; dense columns at the ``right``.

    A layer's product with its weights then reads the sparse block alone as sparse: 1.8 % of CoraML's features are not
    zero, those of virtual nodes are dense.
    """

    def __init__(self, top: Tensor | SparseMatrix, below: Tensor | None = None, right: Tensor | None = None) -> None:
        if isinstance(top, Tensor):  # one block is enough
            top, below = (top if below is None else torch.cat([top, below])), None
            top, right = (top if right is None else torch.cat([top, right], 1)), None
        self.top, self.below, self.right = top, below, right

    @property
    def sparse(self) -> bool:
        """Whether a block is sparse."""
        return isinstance(self.top, SparseMatrix)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all blocks."""
        return self.top.dtype if isinstance(self.top, Tensor) else self.top.values.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes and features."""
        rows = self.top.shape[0] + (0 if self.below is None else len(self.below))
        return rows, self.top.shape[1] + (0 if self.right is None else self.right.shape[1])

    def __matmul__(self, weight: Tensor) -> Tensor:
        """The features times a matrix (features, outputs)."""
        left = weight[: self.top.shape[1]]
        found = self.top @ left
        if self.below is not None:
            found = torch.cat([found, self.below @ left])
        return found if self.right is None else found + self.right @ weight[self.top.shape[1] :]

    def zeros(self, columns: int) -> Tensor:
        """Dense columns of zeros for these nodes."""
        like = self.top if isinstance(self.top, Tensor) else self.top.values
        return like.new_zeros(self.shape[0], columns)

    def beside(self, columns: Tensor) -> Features:
        """The features with further dense columns at the right."""
        return Features(self.top, self.below, columns if self.right is None else torch.cat([self.right, columns], 1))

    def dense(self) -> Tensor:
        """The features as one dense tensor."""
        if isinstance(self.top, Tensor):
            return self.top
        found = self.top.dense()
        found = found if self.below is None else torch.cat([found, self.below])
        return found if self.right is None else torch.cat([found, self.right], 1)

    def normalized(self) -> Features:
        """Every row divided by its Euclidean norm + 1e-8; a row of zeros stays zero."""
        if isinstance(self.top, Tensor):
            return Features(normalized(self.top))
        squares = self.top.values.new_zeros(self.top.shape[0]).index_add_(0, self.top.rows, self.top.values.square())
        if self.below is not None:
            squares = torch.cat([squares, self.below.square().sum(1)])
        if self.right is not None:
            squares = squares + self.right.square().sum(1)
        factors = 1 / (squares.sqrt() + EPS)
        rows = self.top.shape[0]
        below = None if self.below is None else self.below * factors[rows:, None]
        return Features(
            self.top.scaled(factors[:rows]), below, None if self.right is None else self.right * factors[:, None]
        )


def normalized(x: Tensor) -> Tensor:
    """Every row divided by its Euclidean norm + 1e-8."""
    return x / (x.norm(dim=1, keepdim=True) + EPS)


def given_features(name: str, x: object) -> Tensor | SparseMatrix:
    """Checks features (n, d), dense or sparse, and returns them as this room holds them."""
    checks.wide_float_tensor(name, "x", x)
    assert isinstance(x, Tensor)
    if x.ndim != 2 or not len(x):
        raise ValueError(message(name, "x", "shape (n, d) with n > 0", f"shape {tuple(x.shape)}"))
    if x.layout not in SPARSE:
        checks.finite(name, "x", x)
        return x.detach().clone()  # a learner predicts from it later
    coo = (x if x.layout is torch.sparse_coo else x.to_sparse_coo()).detach().coalesce()
    checks.finite(name, "x", coo.values())
    rows, columns = coo.indices()
    return SparseMatrix(rows, columns, coo.values(), (x.shape[0], x.shape[1]))


def graph_of(x: Tensor | Features, edges: Tensor | Graph, name: str) -> Graph:
    """``edges`` as a graph over the nodes of ``x``."""
    if isinstance(edges, Tensor):
        return Graph(edges, x.shape[0], name)
    if edges.num_nodes != x.shape[0]:
        hint = "the graph of these nodes"
        raise ValueError(message(name, "edge_index", f"a graph of {x.shape[0]} nodes", f"{edges.num_nodes}", hint))
    return edges


def as_features(x: Tensor | Features) -> Features:
    """What a layer was called with, as features: dense, sparse or in blocks."""
    if isinstance(x, Features):
        return x
    if x.layout not in SPARSE:
        return Features(x)
    if x.requires_grad and torch.is_grad_enabled():
        hint = "x.detach(), or x.to_dense() for its gradient"
        raise ValueError(message("GraphLayer", "x", "sparse features without a gradient", "requires_grad=True", hint))
    return Features(given_features("GraphLayer", x))
