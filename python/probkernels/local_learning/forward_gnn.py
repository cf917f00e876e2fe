"""Single-forward learning of graph networks: each layer learns alone from its dot products with class nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from . import _layers, _nodes
from .graph import Features, Graph


class ClassNodes:
    """What learners with virtual class nodes share: their arguments, logits, accuracies.

    Not to be used alone; see :class:`SingleForward`.
    """

    layers: list[nn.Module]
    history_: list[_layers.LayerReport]

    def __init__(
        self,
        layers: Sequence[nn.Module],
        num_classes: int,
        tau: float,
        bidirectional: bool,
        virtual: Tensor | None,
        optimizer: _layers.OptimizerFactory,
        seed: int,
    ) -> None:
        self.name = type(self).__name__
        self.layers = _layers.checked_layers(self.name, layers)
        self.num_classes = checks.integer(self.name, "num_classes", num_classes, 2)
        checks.positive(self.name, "tau", tau)
        self.tau, self.bidirectional, self.virtual = tau, bidirectional, virtual
        self.optimizer, self.seed = optimizer, checks.integer(self.name, "seed", seed, 0)
        self.history_ = []
        self._data: _nodes.Nodes | None = None

    def _prepare(self, data: _nodes.Nodes) -> tuple[Features, Graph]:
        """The features and the graph of all nodes, with train labels alone as edges."""
        virtual = _nodes.class_features(self.name, data, self.virtual, self.seed)
        members = data.train.nonzero()[:, 0]
        self._data = data
        self._features = _nodes.augmented(data, virtual)
        self._graph = _nodes.joined(data, members, data.y[members], self.bidirectional)
        return self._features, self._graph

    def logits(self, h: Tensor, rows: Tensor) -> Tensor:
        """Dot products of nodes with the class nodes, over tau.

        Args:
            h: (n + K, d) outputs of a layer.
            rows: mask or indices of nodes.

        Returns:
            (rows, K) logits.
        """
        count = len(h) - self.num_classes
        return h[:count][rows] @ h[count:].t() / self.tau

    def _fitted(self) -> _nodes.Nodes:
        if self._data is None:
            raise RuntimeError(f"{self.name}: not trained yet. Hint: call fit first")
        return self._data

    def layer_probs(self, mask: Tensor | None = None) -> list[Tensor]:
        """The probabilities of every layer.

        Args:
            mask: (n,) bool, the nodes; None for all.

        Returns:
            (nodes, K) for each layer, in the order of ``mask``.

        Raises:
            RuntimeError: :meth:`fit` was not called.
        """
        data = self._fitted()
        rows = _nodes.check_mask(self.name, "mask", torch.ones_like(data.train) if mask is None else mask, data.count)
        return self._layer_probs(rows)

    def _layer_probs(self, rows: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def predict_proba(self, mask: Tensor | None = None) -> Tensor:
        """The probabilities (nodes, K): means over the layers, in the graph of :meth:`fit`."""
        return torch.stack(self.layer_probs(mask)).mean(0)

    def predict(self, mask: Tensor | None = None) -> Tensor:
        """The most probable class of each node, (nodes,)."""
        return self.predict_proba(mask).argmax(1)

    def layer_accuracy(self, y: Tensor, mask: Tensor, *, cumulative: bool = False) -> list[float]:
        """The accuracy of every layer.

        Args:
            y: (n,) classes.
            mask: (n,) bool, the nodes to judge.
            cumulative: whether layer l is judged with the layers below it, as a network of l layers would predict.

        Returns:
            One number for each layer.

        Raises:
            TypeError, ValueError: ``y`` or ``mask`` has another dtype or shape, a label of ``mask`` is out of range, or
                ``mask`` is empty.
        """
        _nodes.check_judged(self.name, y, mask, self._fitted())
        probs = torch.stack(self.layer_probs(mask))
        used = probs.cumsum(0) if cumulative else probs
        return [_nodes.accuracy(layer, y[mask]) for layer in used]


class SingleForward(ClassNodes):
    """Trains a graph network layer by layer, without back-propagation through layers (ForwardGNN, ICLR 2024).

    Every class gets a virtual node with fixed random features, joined to its training nodes. Layer l computes
    h = ReLU(layer(norm(input), edges)) for all nodes at once. Its loss is the cross-entropy of the dot products of
    training nodes with class nodes. Then its output is the input of the next layer. Prediction averages the layers'
    probabilities. Memory does not grow with depth.

    Propagation through the graph is computed once for each layer that has both ``propagate(x, edge_index)``, without
    parameters, and ``transform(propagated)``, if its input is dense. Sparse inputs are multiplied by a built-in
    layer's weights first. Other modules get dense features.

    Args:
        layers: modules ``layer(x, edge_index)``, such as :class:`GCN` or those of PyG.
        num_classes: number of classes K.
        tau: divisor of the dot products.
        bidirectional: whether class nodes also send to their training nodes.
        virtual: (K, d) features of the class nodes; None draws them from a standard normal distribution.
        optimizer: makes the optimizer of a layer from its parameters; Adam with the paper's rates by default.
        seed: of the class nodes' features.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, layers that share parameters.

    Paper:
        Park et al., "Forward Learning of Graph Neural Networks", ICLR 2024, arXiv:2403.11004.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import GCN, SingleForward
        >>> _ = torch.manual_seed(0)
        >>> y = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> edges = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
        >>> train = torch.tensor([True, True, False, True, True, False])
        >>> model = SingleForward([GCN(6, 16), GCN(16, 16)], num_classes=2)
        >>> _ = model.fit(torch.eye(6), edges, y, train, epochs=200, progress=False)
        >>> model.predict().tolist(), len(model.history_)
        ([0, 0, 0, 1, 1, 1], 2)
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        num_classes: int,
        *,
        tau: float = 1.0,
        bidirectional: bool = True,
        virtual: Tensor | None = None,
        optimizer: _layers.OptimizerFactory = _layers.adam,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, num_classes, tau, bidirectional, virtual, optimizer, seed)

    def fit(
        self, x: Tensor, edge_index: Tensor, y: Tensor, train_mask: Tensor, val_mask: Tensor | None = None, *,
        epochs: int = 1000, validate_every: int = 2, patience: int | None = 100, progress: bool = True,
    ) -> SingleForward:  # fmt: skip
        """Trains all layers, one after the other.

        A class without training nodes keeps an isolated class node. Labels outside both masks are not read.

        Args:
            x: (n, d) features, float32 or float64, dense, CSR or COO.
            edge_index: (2, E) edges from row 0 to row 1. An undirected graph has each edge twice.
            y: (n,) classes.
            train_mask: (n,) bool, nodes to learn from.
            val_mask: (n,) bool, nodes whose accuracy chooses each layer's state; None keeps the last one.
            epochs: epochs of each layer, at most.
            validate_every: epochs between two validations.
            patience: validations without a better accuracy after which a layer's training ends; None for no end.
            progress: whether to show a progress bar.

        Returns:
            The learner itself; ``history_`` has a :class:`LayerReport` for each layer.

        Raises:
            TypeError: an argument of another dtype.
            ValueError: unequal shapes, nodes or classes out of range, empty or overlapping masks, layers whose widths
                do not fit, numbers that are not finite.
        """
        schedule = _layers.Schedule.checked(self.name, epochs, validate_every, patience, progress)
        data = _nodes.checked_nodes(self.name, x, edge_index, y, train_mask, val_mask, self.num_classes)
        _layers.check_widths(self.name, self.layers, [data.x.shape[1], *map(_layers.width_of, self.layers[:-1])])
        features, graph = self._prepare(data)
        below = data.like.new_zeros(())  # the sum of the lower layers' probabilities
        self.history_ = []
        for layer in self.layers:
            output = _layers.frozen(layer, features.normalized(), graph)
            validate = None if data.val is None else self._validation(output, data, below)
            loss = self._loss(output, data)
            self.history_.append(_layers.train_layer(layer, loss, validate, self.optimizer, schedule, self.name))
            h = _layers.outputs(layer, features, graph)
            if data.val is not None:
                below = below + self.logits(h, data.val).softmax(1)
            features = Features(h)
        return self

    def _loss(self, output: Callable[[], Tensor], data: _nodes.Nodes) -> Callable[[], Tensor]:
        return lambda: F.cross_entropy(self.logits(output(), data.train), data.y[data.train])

    def _validation(self, output: Callable[[], Tensor], data: _nodes.Nodes, below: Tensor) -> Callable[[], float]:
        val = data.val
        assert val is not None
        return lambda: _nodes.accuracy(below + self.logits(output(), val).softmax(1), data.y[val])

    def states(self) -> list[Tensor]:
        """The outputs (n + K, width) of all layers; the last K rows are those of the class nodes."""
        self._fitted()
        features, found = self._features, []
        for layer in self.layers:
            found.append(_layers.outputs(layer, features, self._graph))
            features = Features(found[-1])
        return found

    def _layer_probs(self, rows: Tensor) -> list[Tensor]:
        return [self.logits(h, rows).softmax(1) for h in self.states()]
