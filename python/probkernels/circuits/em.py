"""Expectation maximization on full batches or mini-batches, in one process or several."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._core import checks, digests
from .._core.errors import ModelMismatchError, message
from ..training import Checkpoint, DataParallel, EarlyStopping, Loop
from ._training import Data, History, Run, chunks, mean_log_prob, restore_, resumed, snapshot, state_of
from .circuit import Circuit
from .flows import Flows
from .schedule import ANNEALED, Constant, Schedule, make_schedule


class EM:
    """Fits a circuit by expectation maximization.

    A step computes the flows of a batch (how often each edge is used, the expected counts) and moves each distribution
    ``step`` of the way towards those frequencies. With full batches, step 1 and pseudocount 0, no step lowers the
    likelihood.

    Args:
        circuit: circuit to train, in place and on its own device.
        step: step size in (0, 1], or a function from the fraction of training done to the step size (see
            :class:`PiecewiseLinear`). The default is 1 for full batches; for mini-batches it falls from 0.8 to 0.1 at
            half time and 0.01 at the end. Some papers call 1 - step the inertia.
        pseudocount: virtual observations added to each distribution in each step, spread evenly, against overfitting.
        batch_size: observations in each step, counted over all processes. None for all observations.
        momentum: decay in [0, 1) of the running mean of flows: after each step the earlier flows count ``momentum``
            times as much. 0 uses only the current batch.
        seed: seed of the order of observations. Each epoch shuffles anew.
        group: process group to train with, for instance ``torch.distributed.group.WORLD``. None trains in this process
            alone. Every process passes the same whole data and works on its part of each batch; the result is that of
            one process. All start from the parameters of the first process.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of range.

    Reference:
        Peharz et al., Einsum Networks, ICML 2020, for EM by automatic differentiation; Choi, Dang and Van den Broeck,
        Group Fairness by Probabilistic Modeling with Latent Fair Decisions, AAAI 2021, for circuit flows.

    Example:
        >>> import torch
        >>> from probkernels.circuits import EM, hclt
        >>> x = torch.randint(0, 2, (200, 1)).repeat(1, 4)  # four copies of one coin
        >>> circuit = hclt(x, latents=2)
        >>> history = EM(circuit, batch_size=None).fit(x, epochs=30, progress=False)
        >>> round(history.train[-1], 1)  # nearly one coin's entropy, not four
        -0.7
    """

    def __init__(
        self,
        circuit: Circuit,
        *,
        step: float | Schedule | None = None,
        pseudocount: float = 0.1,
        batch_size: int | None = 512,
        momentum: float = 0.0,
        seed: int = 0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if not isinstance(circuit, Circuit):
            raise TypeError(message("EM", "circuit", "a Circuit", checks.describe(circuit)))
        if batch_size is not None:
            checks.integer("EM", "batch_size", batch_size)
        checks.non_negative("EM", "pseudocount", pseudocount)
        checks.fraction("EM", "momentum", momentum)
        self.circuit = circuit
        self.schedule = make_schedule(step, Constant(1.0) if batch_size is None else ANNEALED)
        self.pseudocount, self.batch_size, self.momentum, self.seed = pseudocount, batch_size, momentum, seed
        self.parallel = DataParallel(group)

    def fit(
        self,
        x: Tensor,
        missing: Tensor | None = None,
        *,
        validation: Data | None = None,
        epochs: int = 100,
        check_every: int = 1,
        patience: int | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1,
        progress: bool = True,
    ) -> History:
        """Trains the circuit. Afterwards it has the parameters of the best validation, or the last ones without
        validation.

        With mini-batches, each epoch shuffles the observations and skips those that do not fill the last batch. Ctrl-C
        leaves the circuit with the parameters of the last finished step.

        Args:
            x: (N, D) observations, see :meth:`Circuit.log_prob`, on any device.
            missing: (N, D) or (D,) bool, True where the value is not known.
            validation: observations, or a pair (observations, ``missing``), that choose the best parameters and when to
                stop.
            epochs: number of passes over the data.
            check_every: number of epochs between validations.
            patience: training stops after this many epochs without a better validation. None never stops early.
            checkpoint: path of a file to save the run in. If the file exists, training resumes from it, and the result
                is the same as without the interruption. A finished run is loaded and trained no further. The parameters
                of the file replace the circuit's, whatever these are: runs from several starts need several files.
            checkpoint_every: number of epochs between two writes of the checkpoint.
            progress: whether to show a progress bar.

        Raises:
            TypeError, ValueError: as :meth:`Circuit.log_prob`; or there are no observations, or a setting is out of
                range.
            CorruptStreamError: the file is damaged or is not a checkpoint.
            ModelMismatchError: the checkpoint belongs to another circuit, other data or other settings.
        """
        for name, value in (("epochs", epochs), ("check_every", check_every), ("checkpoint_every", checkpoint_every)):
            checks.integer("EM.fit", name, value)
        if patience is not None:
            checks.integer("EM.fit", "patience", patience)
        self._check_data(x, missing)
        file = None
        if checkpoint is not None:
            file = Checkpoint(checkpoint, "EM.fit", self._facts(x, missing, validation, epochs))
        run, stopping = self._start(file, epochs), EarlyStopping(patience)
        for at, mean in run.history.validation:
            stopping.improved(at, -mean)
        first = self.parallel.rank == 0
        with Loop(
            epochs,
            start=len(run.history.train),
            save=(lambda: file.save(state_of(self.circuit, run))) if file is not None and first else None,
            save_every=checkpoint_every,
            progress=progress and first,
            unit="epoch",
        ) as loop:
            if stopping.stop:
                loop.stop()
            try:
                for epoch in loop:
                    self._epoch(run, x, missing, epochs, loop)
                    if validation is not None and ((epoch + 1) % check_every == 0 or epoch + 1 == epochs):
                        self._validate(run, validation, stopping, loop)
                    loop.show(**_figures(run.history))
                    if stopping.stop:
                        loop.stop()
            finally:
                self.circuit.load_probabilities_(run.at)
        if run.best:
            restore_(self.circuit, run.at, run.best)
            self.circuit.load_probabilities_(run.at)
        return run.history

    # --- the parts of it ---

    def _check_data(self, x: Tensor, missing: Tensor | None) -> None:
        self.circuit.evidence(x, missing)  # all of it before the first step
        if len(x) == 0:
            raise ValueError(message("EM.fit", "x", "at least one observation", "none"))

    def _facts(self, x: Tensor, missing: Tensor | None, validation: Data | None, epochs: int) -> dict[str, Any]:
        """The facts that must not change when a run resumes: its circuit, data and settings."""
        return {
            "circuit": self.circuit.structure, "x": digests.of_data(x), "missing": digests.of_data(missing),
            "validation": digests.of_data(validation), "step": digests.of_schedule(self.schedule),
            "epochs": None if isinstance(self.schedule, Constant) else epochs,  # others depend on the part done
            "seed": self.seed, "batch_size": self.batch_size, "pseudocount": self.pseudocount,
            "momentum": self.momentum,
        }  # fmt: skip

    def _start(self, file: Checkpoint | None, epochs: int) -> Run:
        if file is not None and file.exists():
            state = file.load()
            done = len(state["history"]["train"])
            if done > epochs:  # its parameters are not those after so few
                wanted = f"at least {done}, the epochs done in '{file.path}'"
                hint = "delete the file, or name another one"
                raise ModelMismatchError(message("EM.fit", "epochs", wanted, str(epochs), hint))
            return resumed(self.circuit, state)
        self.parallel.broadcast_([t.data for t in (*self.circuit.parameters(), *self.circuit.buffers())])
        return Run(self.circuit.probabilities(), History())

    def _epoch(self, run: Run, x: Tensor, missing: Tensor | None, epochs: int, loop: Loop) -> None:
        began = time.perf_counter()
        epoch = len(run.history.train)
        batches = self._batches(len(x), epoch)
        total = torch.zeros((), dtype=torch.float64, device=self.circuit.categories.device)
        for index, items in enumerate(batches):
            flows = self._flows(run, x, missing, self.parallel.shard(items), loop)
            total += flows.log_prob.sum(dtype=torch.float64)
            self._average(run, flows)
            step = self.schedule((epoch + index / len(batches)) / epochs)
            self.circuit.em_update_(flows, run.at, step, self.pseudocount)
            loop.check()
        self.parallel.sum_([total])
        mean = total.item() / sum(map(len, batches))
        if not mean < math.inf:
            hint = "standardize continuous columns; a batch of one value needs a pseudocount"
            raise ValueError(message("EM.fit", "x", f"a likelihood in epoch {epoch + 1}", str(mean), hint))
        run.history.train.append(mean)
        run.history.seconds.append(time.perf_counter() - began)
        run.history.best = run.history.best if run.best else epoch + 1

    def _batches(self, count: int, epoch: int) -> list[Tensor]:
        """The items of each batch: shuffled, at least one batch, all of one size."""
        if self.batch_size is None or self.batch_size >= count:
            return [torch.arange(count, device="cpu")]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator, device="cpu")
        return [part for part in order.split(self.batch_size) if len(part) == self.batch_size]

    def _flows(self, run: Run, x: Tensor, missing: Tensor | None, items: Tensor, loop: Loop) -> Flows:
        """Flows of all items of all processes. ``log_prob`` covers this process's items only."""
        flows: Flows | None = None
        for batch, unknown in chunks(x, missing, items):
            found = self.circuit.flows(batch, unknown, at=run.at)
            if flows is None:
                flows = found
            else:
                flows += found
            loop.check()
        assert flows is not None
        self.parallel.sum_(flows.tensors())
        return flows

    def _average(self, run: Run, flows: Flows) -> None:
        """Replaces flows by their running mean over the steps so far. Recent steps count most."""
        if self.momentum == 0:
            return
        mine = flows.tensors()
        if not run.memory:
            run.memory = [*(torch.zeros_like(t) for t in mine), mine[0].new_zeros(())]
        weight = run.memory[-1].lerp_(torch.ones_like(run.memory[-1]), 1 - self.momentum)
        for old, new in zip(run.memory, mine, strict=False):
            new.copy_(old.lerp_(new, 1 - self.momentum) / weight)

    def _validate(self, run: Run, validation: Data, stopping: EarlyStopping, loop: Loop) -> None:
        self.circuit.load_probabilities_(run.at)
        mean = mean_log_prob(self.circuit, validation, self.parallel, loop.check)
        history = run.history
        if stopping.improved(len(history.train), -mean):
            history.best, run.best = len(history.train), snapshot(self.circuit, run.at)
        history.validation.append((len(history.train), mean))


def _figures(history: History) -> dict[str, float]:
    """The numbers that the progress bar shows."""
    shown = {"train": history.train[-1]}
    if history.validation:
        shown["validation"] = history.validation[-1][1]
    return shown
