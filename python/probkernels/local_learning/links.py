"""Forward learning of links: each layer learns alone which pairs of nodes are joined."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import DataParallel
from ..uncertainty import auroc
from . import _joint, _layers
from .forward_forward import goodness, goodness_loss
from .graph import Features, Graph, given_features

LOSSES = ("cross_entropy", "goodness")


def plain_adam(parameters: object) -> torch.optim.Optimizer:
    """Adam without weight decay, as the paper has it for top-down links."""
    return torch.optim.Adam(parameters, lr=1e-3)  # type: ignore[arg-type]


class ForwardLinks:
    """Trains a graph network layer by layer to tell links from other pairs (ForwardGNN's link task).

    No virtual nodes. With "cross_entropy" the logit of a pair is the dot product of its nodes' outputs, with
    "goodness" the sum of squares of their elementwise product, less ``theta``. A prediction averages the probabilities
    of all layers.

    Args:
        layers: modules ``layer(x, edge_index)``. Top-down, a layer takes the widths of the layers below and above it
            together; the last one has none above.
        loss: "cross_entropy" or "goodness".
        theta: the threshold of "goodness".
        top_down: whether all layers train at once and read states from above; see :class:`TopDownForward`.
        steps: top-down: time steps of a prediction, at least 3; the first two do not count.
        widths: top-down: outputs of each layer; None asks the layers.
        optimizer: makes the optimizer of a layer from its parameters; None for Adam, top-down without weight decay.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, layers that share parameters.

    Paper:
        Park et al., "Forward Learning of Graph Neural Networks", ICLR 2024, arXiv:2403.11004.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import ForwardLinks, GCN
        >>> _ = torch.manual_seed(0)
        >>> edges = torch.tensor([[0, 1, 1, 2, 3, 4, 4, 5], [1, 0, 2, 1, 4, 3, 5, 4]])
        >>> links, others = torch.tensor([[0, 1, 3, 4], [1, 2, 4, 5]]), torch.tensor([[0, 1, 2, 3], [4, 5, 3, 1]])
        >>> model = ForwardLinks([GCN(6, 16)]).fit(torch.eye(6), edges, links, others, epochs=100, progress=False)
        >>> probs = model.predict_proba(torch.tensor([[0, 0], [2, 5]]))
        >>> bool(probs[0] > probs[1])
        True
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        loss: str = "cross_entropy",
        theta: float = 2.0,
        top_down: bool = False,
        steps: int = 10,
        widths: Sequence[int] | None = None,
        optimizer: _layers.OptimizerFactory | None = None,
    ) -> None:
        name = "ForwardLinks"
        self.layers = _layers.checked_layers(name, layers)
        checks.one_of(name, "loss", loss, LOSSES)
        checks.positive(name, "theta", theta)
        self.loss, self.theta, self.top_down = loss, theta, top_down
        self.steps = checks.integer(name, "steps", steps, 3)
        self.widths = _joint.stated_widths(name, self.layers, widths) if top_down else []
        self.optimizer = optimizer or (plain_adam if top_down else _layers.adam)
        self.history_: list[_layers.LayerReport] = []
        self._features: Features | None = None

    def fit(
        self, x: Tensor, edge_index: Tensor, links: Tensor, others: Tensor,
        val_links: Tensor | None = None, val_others: Tensor | None = None, *, epochs: int = 1000,
        validate_every: int = 2, patience: int | None = 100, progress: bool = True,
        group: dist.ProcessGroup | None = None,
    ) -> ForwardLinks:  # fmt: skip
        """Trains all layers.

        Args:
            x: (n, d) features, float32 or float64, dense, CSR or COO.
            edge_index: (2, E) edges that carry messages, without those to be predicted.
            links: (2, P) pairs that are joined.
            others: (2, Q) pairs that are not, drawn once.
            val_links: pairs that are joined, whose area under the ROC curve with ``val_others`` chooses the state; None
                keeps the last one.
            val_others: pairs that are not joined, beside ``val_links``.
            epochs: epochs of each layer, at most; top-down, time steps.
            validate_every: epochs between two validations.
            patience: validations without a better figure after which training ends; None for no end.
            progress: whether to show a progress bar.
            group: top-down: processes that train together; see :meth:`TopDownForward.fit`.

        Returns:
            The learner itself; ``history_`` has a :class:`LayerReport` for each layer.

        Raises:
            TypeError: an argument of another dtype.
            ValueError: unequal shapes, nodes out of range, no pairs, only one kind of validation pairs, a group
                without ``top_down``, layers whose widths do not fit, numbers that are not finite.
        """
        name = "ForwardLinks"
        schedule = _layers.Schedule.checked(name, epochs, validate_every, patience, progress)
        features = Features(given_features(name, x))
        n, graph = features.shape[0], Graph(edge_index, features.shape[0], name)
        pairs = (_pairs("links", links, n), _pairs("others", others, n))
        if (val_links is None) != (val_others is None):
            raise ValueError(message(name, "val_others", "both kinds of validation pairs, or none", "one kind"))
        val = None
        if val_links is not None and val_others is not None:
            val = (_pairs("val_links", val_links, n), _pairs("val_others", val_others, n))
        if group is not None and not self.top_down:
            hint = "top_down=True: layers that train one after the other need one process"
            raise ValueError(message(name, "group", "None without top_down", "a process group", hint))
        self._features, self._graph = features, graph
        if self.top_down:
            inputs = _joint.input_widths(features.shape[1], self.widths, _joint.INPUT, 0)
            _layers.check_widths(name, self.layers, list(inputs))
            self.history_ = self._train_jointly(pairs, val, schedule, DataParallel(group))
        else:
            _layers.check_widths(name, self.layers, [features.shape[1], *map(_layers.width_of, self.layers[:-1])])
            self.history_ = self._train_in_turn(pairs, val, schedule)
        return self

    def _train_in_turn(
        self, pairs: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor] | None, schedule: _layers.Schedule
    ) -> list[_layers.LayerReport]:
        assert self._features is not None
        features, found = self._features, []
        below = features.zeros(1)[0, 0]
        for layer in self.layers:
            output = _layers.frozen(layer, features.normalized(), self._graph)
            validate = None if val is None else self._validation(output, val, below)
            loss = functools.partial(self._loss_of, output, pairs)
            found.append(_layers.train_layer(layer, loss, validate, self.optimizer, schedule, "ForwardLinks"))
            h = _layers.outputs(layer, features, self._graph)
            if val is not None:
                below = below + self._logits(h, torch.cat(val, 1)).sigmoid()
            features = Features(h)
        return found

    def _validation(
        self, output: Callable[[], Tensor], val: tuple[Tensor, Tensor], below: Tensor
    ) -> Callable[[], float]:
        both = torch.cat(val, 1)
        return lambda: _area(below + self._logits(output(), both).sigmoid(), val)

    def _train_jointly(
        self,
        pairs: tuple[Tensor, Tensor],
        val: tuple[Tensor, Tensor] | None,
        schedule: _layers.Schedule,
        data: DataParallel,
    ) -> list[_layers.LayerReport]:
        assert self._features is not None
        name = "ForwardLinks"
        self._joint = _joint.Joint(
            self.layers, self._features, self._graph, _joint.INPUT, None, self.widths, name
        )  # fmt: skip
        validate = None if val is None else lambda: _area(self.predict_proba(torch.cat(val, 1)), val)
        return _joint.train(
            self._joint, lambda h: self._loss(h, pairs), validate, self.optimizer, schedule, False, None, data
        )

    def _logits(self, h: Tensor, pairs: Tensor) -> Tensor:
        product = h[pairs[0]] * h[pairs[1]]
        return product.sum(1) if self.loss == "cross_entropy" else goodness(product, self.theta)

    def _loss_of(self, output: Callable[[], Tensor], pairs: tuple[Tensor, Tensor]) -> Tensor:
        return self._loss(output(), pairs)

    def _loss(self, h: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
        links, others = (self._logits(h, part) for part in pairs)
        if self.loss == "goodness":
            return goodness_loss(links, [others])
        return torch.cat([F.softplus(-links), F.softplus(others)]).mean()

    def layer_probs(self, pairs: Tensor, edge_index: Tensor | None = None) -> list[Tensor]:
        """The probabilities of every layer.

        Args:
            pairs: (2, P) pairs of nodes.
            edge_index: (2, E) edges that carry messages, such as those of training and validation; None takes those
                of :meth:`fit`.

        Returns:
            (P,) for each layer.

        Raises:
            RuntimeError: :meth:`fit` was not called.
        """
        if self._features is None:
            raise RuntimeError("ForwardLinks: not trained yet. Hint: call fit first")
        n = self._features.shape[0]
        pairs = _pairs("pairs", pairs, n)
        graph = self._graph if edge_index is None else Graph(edge_index, n, "ForwardLinks")
        if not self.top_down:
            found, features = [], self._features
            for layer in self.layers:
                features = Features(_layers.outputs(layer, features, graph))
                found.append(self._logits(features.dense(), pairs).sigmoid())
            return found
        joint = self._joint if edge_index is None else self._joint.on(graph)
        return joint.average(self.steps, False, lambda states: [self._logits(h, pairs).sigmoid() for h in states])

    def predict_proba(self, pairs: Tensor, edge_index: Tensor | None = None) -> Tensor:
        """The probabilities (P,) that the pairs are joined: means over the layers; see :meth:`layer_probs`."""
        return torch.stack(self.layer_probs(pairs, edge_index)).mean(0)

    def layer_auroc(self, links: Tensor, others: Tensor, edge_index: Tensor | None = None) -> list[float]:
        """The area under the ROC curve of every layer, on pairs that are joined and pairs that are not."""
        for key, pairs in (("links", links), ("others", others)):
            if self._features is not None:
                _pairs(key, pairs, self._features.shape[0])
        return [_area(probs, (links, others)) for probs in self.layer_probs(torch.cat([links, others], 1), edge_index)]


def _area(probs: Tensor, kinds: tuple[Tensor, Tensor]) -> float:
    labels = torch.arange(len(probs), device=probs.device) < kinds[0].shape[1]
    return float(auroc(probs, labels))


def _pairs(key: str, pairs: Tensor, n: int) -> Tensor:
    """Checks pairs of nodes."""
    name = "ForwardLinks"
    checks.integer_tensor(name, key, pairs)
    if pairs.ndim != 2 or len(pairs) != 2 or not pairs.shape[1]:
        raise ValueError(message(name, key, "shape (2, P) with P > 0", f"shape {tuple(pairs.shape)}"))
    wrong = (pairs < 0) | (pairs >= n)
    if wrong.any():
        raise ValueError(message(name, key, f"nodes 0 to {n - 1}", checks.offender(pairs, wrong)))
    return pairs.long()
