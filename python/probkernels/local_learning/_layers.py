"""What all forward trainers share: checks of layers, one layer on a frozen input, the training of one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import EarlyStopping, minimize
from .graph import Features, Graph
from .graph_layers import GraphLayer

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of the paper."""
    return torch.optim.Adam(parameters, lr=1e-3, weight_decay=5e-4)


@dataclass
class LayerReport:
    """How the training of a layer went.

    Attributes:
        losses: loss of every epoch.
        scores: figure of every validation: accuracy or, for links, area under the ROC curve, of layers 1 to this one.
        best: index in ``scores`` of the restored parameters; -1 if there was no validation.

    Example:
        >>> from probkernels.local_learning import LayerReport
        >>> LayerReport([0.7, 0.5], [0.8], 0).scores[0]
        0.8
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best: int = -1


@dataclass(frozen=True)
class Schedule:
    """Epochs, and when to stop early."""

    epochs: int
    validate_every: int
    patience: int | None
    progress: bool

    @classmethod
    def checked(cls, name: str, epochs: int, validate_every: int, patience: int | None, progress: bool) -> Schedule:
        """Checks the numbers."""
        checks.integer(name, "epochs", epochs)
        checks.integer(name, "validate_every", validate_every)
        if patience is not None:
            checks.integer(name, "patience", patience)
        return cls(epochs, validate_every, patience, progress)


def checked_layers(name: str, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Checks that ``layers`` are different modules with parameters."""
    found = list(layers) if isinstance(layers, (list, tuple, nn.ModuleList)) else []
    if not found or not all(isinstance(layer, nn.Module) for layer in found):
        raise TypeError(message(name, "layers", "a list of modules, at least one", checks.describe(layers)))
    seen: dict[int, int] = {}
    for at, layer in enumerate(found):
        parameters = list(layer.parameters())
        if not parameters:
            got = f"layer {at}, a {type(layer).__name__}, without any"
            raise ValueError(message(name, "layers", "layers with parameters", got))
        for parameter in parameters:
            if seen.setdefault(id(parameter), at) != at:
                got = f"layers {seen[id(parameter)]} and {at} that share one"
                raise ValueError(message(name, "layers", "layers with their own parameters", got, "copy.deepcopy"))
    return found


def check_widths(name: str, layers: Sequence[nn.Module], inputs: Sequence[int | None]) -> None:
    """Checks that built-in layers take the widths that they will get; None is a width that nobody knows yet."""
    for at, (layer, width) in enumerate(zip(layers, inputs, strict=True)):
        if isinstance(layer, GraphLayer) and width is not None and layer.in_features != width:
            wanted, got = f"in_features={width} in layer {at}", str(layer.in_features)
            raise ValueError(message(name, "layers", wanted, got, "what the layer receives is that wide"))


def width_of(layer: nn.Module) -> int | None:
    """The outputs of a built-in layer; None for others."""
    return layer.out_features if isinstance(layer, GraphLayer) else None


def frozen(layer: nn.Module, x: Features, graph: Graph) -> Callable[[], Tensor]:
    """A function that returns ReLU(layer(x)) for an input that stays. What no parameter changes is computed once."""
    edges = graph if isinstance(layer, GraphLayer) else graph.edge_index
    given = x if isinstance(layer, GraphLayer) and x.sparse else x.dense()
    cached = hasattr(layer, "propagate") and hasattr(layer, "transform") and not x.sparse
    if cached:  # a PyG module has its own `propagate`, but no `transform`
        with torch.no_grad():
            propagated = layer.propagate(given, edges)  # type: ignore[operator]

    def output() -> Tensor:
        found = layer.transform(propagated) if cached else layer(given, edges)  # type: ignore[operator]
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != x.shape[0]:
            wanted = f"a layer that returns a tensor of shape ({x.shape[0]}, width)"
            raise ValueError(message(type(layer).__name__, "layers", wanted, checks.describe(found)))
        return found.relu()

    return output


@torch.no_grad()
def outputs(layer: nn.Module, x: Features, graph: Graph) -> Tensor:
    """ReLU(layer(norm(x))) without a derivative, in evaluation mode."""
    mode = layer.training
    layer.eval()
    found = frozen(layer, x.normalized(), graph)()
    layer.train(mode)
    return found


class Best:
    """Validates layers, keeps their best state, and says when to stop."""

    def __init__(self, layers: Sequence[nn.Module], validate: Callable[[], float] | None, schedule: Schedule) -> None:
        self.layers, self.validate, self.schedule = nn.ModuleList(layers), validate, schedule
        self.stopping = EarlyStopping(schedule.patience)
        self.scores: list[float] = []
        self._state: dict[str, Tensor] | None = None

    def due(self, step: int) -> bool:
        """Whether a validation follows the step."""
        return self.validate is not None and (step + 1) % self.schedule.validate_every == 0

    def after(self, step: int) -> bool:
        """Validates if it is time. Returns whether to stop."""
        if not self.due(step):
            return False
        assert self.validate is not None
        self.layers.eval()
        with torch.no_grad():
            self.scores.append(self.validate())
        self.layers.train()
        if self.stopping.improved(len(self.scores) - 1, -self.scores[-1]):
            self._state = {name: value.clone() for name, value in self.layers.state_dict().items()}
        return self.stopping.stop

    def restore(self) -> None:
        """Restores the best state; the last one if there was no validation."""
        if self._state is not None:
            self.layers.load_state_dict(self._state)


def train_layer(
    layer: nn.Module,
    loss: Callable[[], Tensor],
    validate: Callable[[], float] | None,
    optimizer: OptimizerFactory,
    schedule: Schedule,
    name: str,
) -> LayerReport:
    """Trains one layer alone and restores its best state."""
    best = Best([layer], validate, schedule)
    mode = layer.training
    layer.train()
    losses = minimize(
        lambda step: loss(),
        optimizer(layer.parameters()),
        schedule.epochs,
        after=lambda step, value: best.after(step),
        progress=schedule.progress,
        name=name,
    )
    best.restore()
    layer.train(mode)
    return LayerReport(losses, best.scores, best.stopping.best_step)
