"""What a training run holds, shares between processes, writes down, and does about Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._core import files
from .._core.errors import CorruptStreamError, ModelMismatchError
from .circuit import Circuit
from .flows import Flows, Probabilities

FORMAT = "probkernels.circuit-training"
CHUNK = 1024  # observations evaluated at once: a bound on memory, not on the batch

Data = Tensor | tuple[Tensor, Tensor | None]


@dataclass
class History:
    """What happened in a training run. Log-likelihoods are means over observations, in nats.

    train: of every epoch, each batch's before the step it led to.
    validation: pairs (epoch, log-likelihood), epochs counted from 1.
    seconds: that each epoch took, without validation.
    best: the epoch whose parameters the circuit has in the end; the last one where nothing was validated.

    Example:
        >>> import torch
        >>> from probkernels.circuits import EM, factorised
        >>> x = torch.tensor([[0, 1], [1, 1], [1, 0]])
        >>> len(EM(factorised(x), batch_size=None).fit(x, epochs=2, progress=False).train)
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
    """Copies of all parameters by name: exact ones, not by way of logarithms."""
    found = {f"sum.{i}": p.clone() for i, p in enumerate(at.sums)}
    for i, (layer, table) in enumerate(zip(circuit.inputs, at.inputs, strict=True)):
        if table is not None:
            found[f"table.{i}"] = table.clone()
        else:
            found |= {f"input.{i}.{name}": t.detach().clone() for name, t in layer.state_dict().items()}
    return found


@torch.no_grad()
def restore_(circuit: Circuit, at: Probabilities, saved: dict[str, Tensor]) -> None:
    """Takes over what :func:`snapshot` gave."""
    mine = {f"sum.{i}": p for i, p in enumerate(at.sums)}
    for i, (layer, table) in enumerate(zip(circuit.inputs, at.inputs, strict=True)):
        if table is not None:
            mine[f"table.{i}"] = table
        else:
            mine |= {f"input.{i}.{name}": t for name, t in layer.state_dict().items()}
    if {n: (t.shape, t.dtype) for n, t in mine.items()} != {n: (t.shape, t.dtype) for n, t in saved.items()}:
        raise ModelMismatchError("the checkpoint holds other parameters than the circuit")
    for name, tensor in mine.items():
        tensor.copy_(saved[name])


def write_checkpoint(path: Path, circuit: Circuit, run: Run, facts: dict[str, Any]) -> None:
    """Writes everything that the run depends on; whole or not at all."""
    memory = {str(i): flow for i, flow in enumerate(run.memory)}
    parts = {"now": snapshot(circuit, run.at), "best": run.best, "memory": memory}
    tensors = {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}
    text = {"format": FORMAT, "facts": json.dumps(facts), "history": json.dumps(asdict(run.history))}
    files.write(path, tensors, text)


def read_checkpoint(path: Path, circuit: Circuit, facts: dict[str, Any]) -> Run:
    """The run that was written, its parameters taken over by the circuit.

    Raises:
        CorruptStreamError: no such file, or damaged.
        ModelMismatchError: of another circuit, other data, or other settings.
    """
    tensors, metadata = files.read(path)
    if metadata.get("format") != FORMAT:
        raise CorruptStreamError(f"'{path}': no checkpoint of EM")
    theirs, read = json.loads(metadata["facts"]), json.loads(metadata["history"])
    if theirs != facts:
        changed = sorted(key for key in {*theirs, *facts} if theirs.get(key) != facts.get(key))
        differs = f"'{path}': a checkpoint of another training, which differs in {', '.join(changed)}"
        raise ModelMismatchError(f"{differs}. Hint: name another file, or delete this one to start anew")
    history = History(**{**read, "validation": [(epoch, value) for epoch, value in read["validation"]]})
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "memory": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor.to(circuit.categories.device)
    memory = [parts["memory"][str(i)] for i in range(len(parts["memory"]))]
    run = Run(circuit.probabilities(), history, memory, parts["best"])
    restore_(circuit, run.at, parts["now"])
    return run


class Team:
    """The processes that train together; alone without a group."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    def share(self, items: Tensor) -> Tensor:
        """This process's part of the items (n,)."""
        return items[self.rank :: self.size]

    def sum_(self, tensors: list[Tensor]) -> None:
        """Adds up the tensors of all processes, in place; they have one dtype."""
        if self.size == 1 or not tensors:
            return
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message, not one for each
        dist.all_reduce(together, group=self.group)
        for tensor, part in zip(tensors, together.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree_(self, tensors: list[Tensor]) -> None:
        """All take over the first process's tensors."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group=self.group, group_src=0)


class Patience:
    """Holds back Ctrl-C until :meth:`check`, where nothing is half done. A second Ctrl-C is not held back."""

    def __init__(self) -> None:
        self.asked = False
        self.before: Any = None

    def __enter__(self) -> Patience:
        # another thread can install no handler, and a handler of the program's own stays its own
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raises the KeyboardInterrupt that was held back."""
        if self.asked:
            raise KeyboardInterrupt


def tensors_of(flows: Flows) -> list[Tensor]:
    """All sums over the batch that flows consist of."""
    return flows.tensors()


def chunks(x: Tensor, missing: Tensor | None, items: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Some observations, ``CHUNK`` at a time; one empty chunk if there are none."""
    for some in items.split(CHUNK):
        part = some.to(x.device)
        if missing is None or missing.ndim == 1:
            yield x[part], missing
        else:
            yield x[part], missing[some.to(missing.device)]


def total_flows(circuit: Circuit, x: Tensor, missing: Tensor | None, at: Probabilities | None = None) -> Flows:
    """Flows of all observations, some at a time."""
    at = at or circuit.probabilities()
    total: Flows | None = None
    for batch, unknown in chunks(x, missing, torch.arange(len(x))):
        found = circuit.flows(batch, unknown, at=at)
        if total is None:
            total = found
        else:
            total += found
    assert total is not None
    return total


@torch.no_grad()
def mean_log_prob(circuit: Circuit, data: Data, team: Team | None = None, interrupts: Patience | None = None) -> float:
    """Mean log-likelihood of observations, or of a pair of them and what is missing; some at a time."""
    x, missing = data if isinstance(data, tuple) else (data, None)
    items = torch.arange(len(x))
    total = torch.zeros((), dtype=torch.float64, device=circuit.categories.device)
    for batch, unknown in chunks(x, missing, items if team is None else team.share(items)):
        total += circuit.log_prob(batch, unknown).sum(dtype=torch.float64)
        if interrupts is not None:
            interrupts.check()
    if team is not None:
        team.sum_([total])
    return total.item() / max(len(x), 1)
