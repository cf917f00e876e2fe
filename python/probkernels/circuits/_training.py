"""The state of an EM run, and sums over observations, computed in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..training import DataParallel, copy_state_
from .circuit import Circuit
from .flows import Flows, Probabilities

CHUNK = 1024  # observations evaluated at once: a bound on memory, not on the batch

Data = Tensor | tuple[Tensor, Tensor | None]


@dataclass
class History:
    """The record of a training run. Log-likelihoods are means over observations, in nats.

    Attributes:
        train: log-likelihood of each epoch. Each batch is measured before its own step.
        validation: pairs (epoch, log-likelihood). Epochs count from 1.
        seconds: duration of each epoch, without validation.
        best: the epoch whose parameters the circuit has after training. Without validation, the last epoch.

    Example:
        >>> import torch
        >>> from probkernels.circuits import EM, factorized
        >>> x = torch.tensor([[0, 1], [1, 1], [1, 0]])
        >>> len(EM(factorized(x), batch_size=None).fit(x, epochs=2, progress=False).train)
        2
    """

    train: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best: int = 0


@dataclass
class Run:
    """The state between two epochs: parameters, averaged flows, the best parameters so far."""

    at: Probabilities
    history: History
    memory: list[Tensor] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


def snapshot(circuit: Circuit, at: Probabilities) -> dict[str, Tensor]:
    """Copies of all parameters by name."""
    return {name: tensor.detach().clone() for name, tensor in _parameters(circuit, at).items()}


def restore_(circuit: Circuit, at: Probabilities, saved: dict[str, Tensor]) -> None:
    """Loads what :func:`snapshot` returned."""
    copy_state_(_parameters(circuit, at), saved, "EM.fit")


def _parameters(circuit: Circuit, at: Probabilities) -> dict[str, Tensor]:
    """All parameters by name, as EM works on them: probabilities, because their logarithms would be rounded."""
    found = {f"sum.{i}": p for i, p in enumerate(at.sums)}
    for i, (layer, table) in enumerate(zip(circuit.inputs, at.inputs, strict=True)):
        if table is not None:
            found[f"table.{i}"] = table
        else:
            found |= {f"input.{i}.{name}": tensor for name, tensor in layer.state_dict().items()}
    return found


def state_of(circuit: Circuit, run: Run) -> dict[str, Any]:
    """Everything that the run depends on, for a checkpoint."""
    now = snapshot(circuit, run.at)
    return {"now": now, "best": run.best, "memory": run.memory, "history": asdict(run.history)}


def resumed(circuit: Circuit, state: dict[str, Any]) -> Run:
    """Restores a run from what :func:`state_of` returned. Loads the parameters into the circuit.

    Raises:
        ModelMismatchError: parameters of another circuit.
    """
    read, device = state["history"], circuit.categories.device
    history = History(**{**read, "validation": [(epoch, value) for epoch, value in read["validation"]]})
    best = {name: tensor.to(device) for name, tensor in state["best"].items()}
    run = Run(circuit.probabilities(), history, [tensor.to(device) for tensor in state["memory"]], best)
    restore_(circuit, run.at, state["now"])
    return run


def chunks(x: Tensor, missing: Tensor | None, items: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields the observations ``items``, ``CHUNK`` at a time. Yields one empty chunk if there are none."""
    for some in items.split(CHUNK):
        part = some.to(x.device)
        if missing is None or missing.ndim == 1:
            yield x[part], missing
        else:
            yield x[part], missing[some.to(missing.device)]


def total_flows(circuit: Circuit, x: Tensor, missing: Tensor | None, at: Probabilities | None = None) -> Flows:
    """Sum of the flows of all observations, computed chunk by chunk."""
    at = at or circuit.probabilities()
    total: Flows | None = None
    for batch, unknown in chunks(x, missing, torch.arange(len(x), device=x.device)):
        found = circuit.flows(batch, unknown, at=at)
        if total is None:
            total = found
        else:
            total += found
    assert total is not None
    return total


@torch.no_grad()
def mean_log_prob(
    circuit: Circuit, data: Data, parallel: DataParallel | None = None, check: Callable[[], None] | None = None
) -> float:
    """Mean log-likelihood of observations, or of a pair (observations, ``missing``), computed chunk by chunk.

    ``check`` is called after each chunk and may raise.
    """
    parallel = parallel or DataParallel(None)
    x, missing = data if isinstance(data, tuple) else (data, None)
    total = torch.zeros((), dtype=torch.float64, device=circuit.categories.device)
    for batch, unknown in chunks(x, missing, parallel.shard(torch.arange(len(x), device=x.device))):
        total += circuit.log_prob(batch, unknown).sum(dtype=torch.float64)
        if check is not None:
            check()
    parallel.sum_([total])
    return total.item() / max(len(x), 1)
