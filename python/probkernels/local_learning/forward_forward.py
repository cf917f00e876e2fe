"""Forward-forward learning of graph networks: goodness up for true classes, down for wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from . import _layers, _nodes
from .graph import Features, Graph

FORMS = ("labels", "virtual")


@dataclass(frozen=True)
class World:
    """A layer's input: the graph with one assignment of classes to nodes."""

    x: Features
    graph: Graph

    def output(self, layer: nn.Module) -> Callable[[], Tensor]:
        """What the layer makes of it while the layer is trained."""
        return _layers.frozen(layer, self.x.normalized(), self.graph)


def goodness(h: Tensor, theta: float = 2.0) -> Tensor:
    """The sum of squares of each row, less ``theta``: the logit of "this class is true" (Hinton, 2022).

    Args:
        h: (n, d) outputs of a layer.
        theta: the threshold.

    Returns:
        (n,) logits.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import goodness
        >>> goodness(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
        tensor([-2.,  3.])
    """
    return h.square().sum(1) - theta


def goodness_loss(positive: Tensor, negatives: Sequence[Tensor]) -> Tensor:
    """The mean of softplus(-logit) over positive logits, plus that of softplus(logit) over all negatives."""
    return F.softplus(-positive).mean() + torch.stack([F.softplus(negative).mean() for negative in negatives]).mean()


class ForwardForward:
    """Trains a graph network layer by layer with positive and negative inputs (ForwardGNN's FF-LA and FF-VN).

    Each layer raises the goodness of training nodes that are given their true class and lowers that of nodes given a
    wrong one. A prediction gives every node each class in turn and sums the goodness over layers: K passes.

    Args:
        layers: modules ``layer(x, edge_index)``. With "labels" the first one takes d + K features.
        num_classes: number of classes K.
        form: how a node is given a class: "labels" appends it to the node's features, "virtual" joins the node to the
            class's virtual node.
        negatives: wrong classes for each training node, at most K - 1; None takes all.
        theta: the goodness at which both classes are equally probable.
        bidirectional: for "virtual": whether class nodes also send to their nodes.
        virtual: for "virtual": (K, d) features of the class nodes; None draws them.
        optimizer: makes the optimizer of a layer from its parameters.
        seed: of the wrong classes' order and the class nodes' features, both drawn once.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, layers that share parameters.

    Paper:
        Park et al., "Forward Learning of Graph Neural Networks", ICLR 2024, arXiv:2403.11004.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import ForwardForward, GCN
        >>> _ = torch.manual_seed(0)
        >>> y = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> edges = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
        >>> train = torch.tensor([True, True, False, True, True, False])
        >>> model = ForwardForward([GCN(8, 16)], num_classes=2)
        >>> _ = model.fit(torch.eye(6), edges, y, train, epochs=300, progress=False)
        >>> model.predict(~train).tolist()
        [0, 1]
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        num_classes: int,
        *,
        form: str = "labels",
        negatives: int | None = None,
        theta: float = 2.0,
        bidirectional: bool = True,
        virtual: Tensor | None = None,
        optimizer: _layers.OptimizerFactory = _layers.adam,
        seed: int = 0,
    ) -> None:
        name = "ForwardForward"
        self.layers = _layers.checked_layers(name, layers)
        self.num_classes = checks.integer(name, "num_classes", num_classes, 2)
        checks.one_of(name, "form", form, FORMS)
        if negatives is not None:
            checks.integer(name, "negatives", negatives, 1, num_classes - 1)
        self.form, self.negatives = form, num_classes - 1 if negatives is None else negatives
        checks.positive(name, "theta", theta)
        self.theta, self.bidirectional, self.virtual = theta, bidirectional, virtual
        self.optimizer, self.seed = optimizer, checks.integer(name, "seed", seed, 0)
        self.history_: list[_layers.LayerReport] = []
        self._data: _nodes.Nodes | None = None

    def fit(
        self, x: Tensor, edge_index: Tensor, y: Tensor, train_mask: Tensor, val_mask: Tensor | None = None, *,
        epochs: int = 1000, validate_every: int = 2, patience: int | None = 100, progress: bool = True,
    ) -> ForwardForward:  # fmt: skip
        """Trains all layers, one after the other. Arguments and errors are those of :meth:`SingleForward.fit`.

        A validation costs K passes through the layer.

        Returns:
            The learner itself; ``history_`` has a :class:`LayerReport` for each layer.
        """
        name = "ForwardForward"
        schedule = _layers.Schedule.checked(name, epochs, validate_every, patience, progress)
        data = _nodes.checked_nodes(name, x, edge_index, y, train_mask, val_mask, self.num_classes)
        appended = self.num_classes if self.form == "labels" else 0
        _layers.check_widths(name, self.layers, [data.x.shape[1] + appended, *map(_layers.width_of, self.layers[:-1])])
        self._data = data
        if self.form == "virtual":
            self._virtual = _nodes.class_features(name, data, self.virtual, self.seed)
        worlds = self._training_worlds(data)
        trials = [] if data.val is None else self._trials(data, data.val, data.train)
        below = data.like.new_zeros(())
        self.history_ = []
        for layer in self.layers:
            calls = [world.output(layer) for world in worlds]
            validate = None if data.val is None else self._validation(layer, trials, data, below)
            loss = self._loss(calls, data)
            self.history_.append(_layers.train_layer(layer, loss, validate, self.optimizer, schedule, name))
            worlds = self._next(layer, worlds)
            trials = [World(Features(_layers.outputs(layer, trial.x, trial.graph)), trial.graph) for trial in trials]
            if data.val is not None:
                below = below + self._goodness([trial.x.dense() for trial in trials], data.val)
        return self

    def _wrong_classes(self, data: _nodes.Nodes) -> Tensor:
        """(negatives, n): the wrong classes of every node, in an order drawn once."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.rand(data.count, self.num_classes - 1, generator=generator).argsort(1).to(data.y.device)
        return (data.y[:, None] + 1 + order).t()[: self.negatives] % self.num_classes

    def _training_worlds(self, data: _nodes.Nodes) -> list[World]:
        """The positive world, and one for each negative."""
        return [self._world(data, data.train, labels) for labels in (data.y, *self._wrong_classes(data))]

    def _trials(self, data: _nodes.Nodes, judged: Tensor, context: Tensor) -> list[World]:
        """For each class, the world in which all judged nodes have it."""
        known = context | judged
        return [self._world(data, known, torch.where(judged, k, data.y)) for k in range(self.num_classes)]

    def _world(self, data: _nodes.Nodes, known: Tensor, labels: Tensor) -> World:
        if self.form == "labels":
            x = Features(data.x, right=_nodes.label_features(data, known, labels))
            return World(x, Graph(data.edge_index, data.count))
        members = known.nonzero()[:, 0]
        graph = _nodes.joined(data, members, labels[members], self.bidirectional)
        return World(_nodes.augmented(data, self._virtual), graph)

    def _loss(self, calls: list[Callable[[], Tensor]], data: _nodes.Nodes) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            positive, *negatives = (goodness(call()[: data.count][data.train], self.theta) for call in calls)
            return goodness_loss(positive, negatives)

        return loss

    def _next(self, layer: nn.Module, worlds: list[World]) -> list[World]:
        """The next layer's inputs. Virtual: the negative worlds differ in edges alone, all take the positive states."""
        if self.form == "labels":
            return [World(Features(_layers.outputs(layer, world.x, world.graph)), world.graph) for world in worlds]
        states = Features(_layers.outputs(layer, worlds[0].x, worlds[0].graph))
        return [World(states, world.graph) for world in worlds]

    def _goodness(self, states: list[Tensor], rows: Tensor) -> Tensor:
        """(rows, K): the goodness of each trial's states."""
        return torch.stack([goodness(h[: len(rows)][rows], self.theta) for h in states], 1)

    def _validation(
        self, layer: nn.Module, trials: list[World], data: _nodes.Nodes, below: Tensor
    ) -> Callable[[], float]:
        calls, val = [trial.output(layer) for trial in trials], data.val
        assert val is not None
        return lambda: _nodes.accuracy(below + self._goodness([call() for call in calls], val), data.y[val])

    def _fitted(self) -> _nodes.Nodes:
        if self._data is None:
            raise RuntimeError("ForwardForward: not trained yet. Hint: call fit first")
        return self._data

    def layer_goodness(self, mask: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """The goodness of every class in every layer.

        Args:
            mask: (n,) bool, the nodes to judge; all of them are given a class at once.
            context: (n,) bool, nodes that keep their labels; None takes training and validation nodes outside ``mask``.

        Returns:
            (nodes, K) for each layer, less theta.

        Raises:
            RuntimeError: :meth:`fit` was not called.
            ValueError: ``context`` has nodes of ``mask``, or nodes that were neither for training nor validation.
        """
        name = "ForwardForward"
        data = self._fitted()
        _nodes.check_mask(name, "mask", mask, data.count)
        labeled = data.train if data.val is None else data.train | data.val
        context = labeled & ~mask if context is None else _nodes.check_mask(name, "context", context, data.count)
        wrong = context & (mask | ~labeled)
        if wrong.any():
            got = checks.offender(context, wrong, "another node: ")
            raise ValueError(message(name, "context", "training and validation nodes outside 'mask'", got))
        trials, found = self._trials(data, mask, context), []
        for layer in self.layers:
            trials = [World(Features(_layers.outputs(layer, trial.x, trial.graph)), trial.graph) for trial in trials]
            found.append(self._goodness([trial.x.dense() for trial in trials], mask))
        return found

    def predict(self, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """The class (nodes,) whose goodness, summed over the layers, is largest; see :meth:`layer_goodness`."""
        return torch.stack(self.layer_goodness(mask, context)).sum(0).argmax(1)

    def layer_accuracy(self, y: Tensor, mask: Tensor, *, cumulative: bool = False) -> list[float]:
        """The accuracy of every layer on the nodes of ``mask``; with ``cumulative``, of it and the layers below it."""
        _nodes.check_judged("ForwardForward", y, mask, self._fitted())
        values = torch.stack(self.layer_goodness(mask))
        return [_nodes.accuracy(layer, y[mask]) for layer in (values.cumsum(0) if cumulative else values)]
