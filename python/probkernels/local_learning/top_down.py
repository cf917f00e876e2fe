"""Single-forward learning in which all layers learn at once and see the states of the layers above."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from ..training import DataParallel
from . import _joint, _layers, _nodes
from .forward_gnn import ClassNodes


class TopDownForward(ClassNodes):
    """Trains all layers of a graph network at once, with states from above (ForwardGNN's top-down forms).

    In every time step each layer takes one optimizer step on its own loss, that of :class:`SingleForward`, and reads
    states of the previous time step, which carry no derivative. The layers can therefore train in several processes.

    - "input": layer l reads norm(h of layer l - 1) beside norm(h of layer l + 1). The last one reads labels there: the
      training nodes' and class nodes' own, uniform for others. A layer takes the sum of both widths. A prediction
      runs ``steps`` time steps and averages the probabilities of all but the first two.
    - "loss": the loss of layer l judges the mean of its output and the norm(h) of all higher layers. All layers are
      equally wide.
    - "none": nothing from above, each layer reads the one below it.

    Args:
        layers: modules ``layer(x, edge_index)``.
        num_classes: number of classes K.
        form: "input", "loss" or "none".
        alternating: whether the first, third, ... layer change first, and the others then read their new states.
        steps: for "input": time steps of a prediction, at least 3; the first two do not count.
        widths: outputs of each layer; None asks the layers for ``out_features`` or ``out_channels``.
        max_norm: bound on the norm of a layer's gradient; None for 1 with "loss" and no bound otherwise.
        tau: divisor of the dot products.
        bidirectional: whether class nodes also send to their training nodes.
        virtual: (K, d) features of the class nodes; None draws them from a standard normal distribution.
        optimizer: makes the optimizer of a layer from its parameters.
        seed: of the class nodes' features.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, layers that share parameters.

    Paper:
        Park et al., "Forward Learning of Graph Neural Networks", ICLR 2024, arXiv:2403.11004.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import GCN, TopDownForward
        >>> _ = torch.manual_seed(0)
        >>> y = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> edges = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
        >>> train = torch.tensor([True, True, False, True, True, False])
        >>> model = TopDownForward([GCN(6 + 16, 16), GCN(16 + 2, 16)], num_classes=2)
        >>> _ = model.fit(torch.eye(6), edges, y, train, epochs=200, progress=False)
        >>> model.predict().tolist()
        [0, 0, 0, 1, 1, 1]
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        num_classes: int,
        *,
        form: str = "input",
        alternating: bool = False,
        steps: int = 10,
        widths: Sequence[int] | None = None,
        max_norm: float | None = None,
        tau: float = 1.0,
        bidirectional: bool = True,
        virtual: Tensor | None = None,
        optimizer: _layers.OptimizerFactory = _layers.adam,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, num_classes, tau, bidirectional, virtual, optimizer, seed)
        checks.one_of(self.name, "form", form, _joint.FORMS)
        self.form, self.alternating = form, alternating
        self.steps = checks.integer(self.name, "steps", steps, 3)
        self.widths = _joint.stated_widths(self.name, self.layers, widths)
        if max_norm is not None:
            checks.positive(self.name, "max_norm", max_norm)
        self.max_norm = 1.0 if max_norm is None and form == _joint.LOSS else max_norm

    def fit(
        self, x: Tensor, edge_index: Tensor, y: Tensor, train_mask: Tensor, val_mask: Tensor | None = None, *,
        epochs: int = 1000, validate_every: int = 2, patience: int | None = 100, progress: bool = True,
        group: dist.ProcessGroup | None = None,
    ) -> TopDownForward:  # fmt: skip
        """Trains all layers together. Other arguments and errors are those of :meth:`SingleForward.fit`.

        Args:
            epochs: time steps, at most.
            group: processes that train together, each every n-th layer. Call ``fit`` in all of them, with the same
                data and arguments; the layers start as those of the first process and end equal in all. None trains
                all layers in this process. Results do not depend on the number of processes.

        Returns:
            The learner itself; ``history_`` has a :class:`LayerReport` for each layer.
        """
        schedule = _layers.Schedule.checked(self.name, epochs, validate_every, patience, progress)
        data = _nodes.checked_nodes(self.name, x, edge_index, y, train_mask, val_mask, self.num_classes)
        inputs = _joint.input_widths(data.x.shape[1], self.widths, self.form, self.num_classes)
        _layers.check_widths(self.name, self.layers, list(inputs))
        features, graph = self._prepare(data)
        labels = torch.cat([_nodes.label_features(data, data.train, data.y), torch.eye(self.num_classes).to(data.like)])
        top = _joint.normalized(labels) if self.form == _joint.INPUT else None
        self._joint = _joint.Joint(self.layers, features, graph, self.form, top, self.widths, self.name)
        self.history_ = _joint.train(
            self._joint,
            lambda h: F.cross_entropy(self.logits(h, data.train), data.y[data.train]),
            None if data.val is None else self._accuracy,
            self.optimizer,
            schedule,
            self.alternating,
            self.max_norm,
            DataParallel(group),
        )
        return self

    def _accuracy(self) -> float:
        data = self._fitted()
        assert data.val is not None
        probs = torch.stack(self._layer_probs(data.val))
        return _nodes.accuracy(probs.mean(0), data.y[data.val])

    def _layer_probs(self, rows: Tensor) -> list[Tensor]:
        return self._joint.average(self.steps, self.alternating, lambda states: self._probs_of(states, rows))

    def _probs_of(self, states: list[Tensor], rows: Tensor) -> list[Tensor]:
        judged = [self._joint.embedding(at, h, states) for at, h in enumerate(states)]
        return [self.logits(h, rows).softmax(1) for h in judged]
