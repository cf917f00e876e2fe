"""Layers that learn all at once, each from the states of the previous time step; also on several processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import DataParallel, Loop
from ._layers import Best, LayerReport, OptimizerFactory, Schedule, frozen
from .graph import Features, Graph, normalized

INPUT, LOSS, NONE = "input", "loss", "none"
FORMS = (INPUT, LOSS, NONE)


class Joint:
    """The layers, what they read, and their states.

    Args:
        layers: the layers.
        x: features of all nodes.
        graph: edges of all nodes.
        form: what a layer sees of the layers above: their states beside its input ("input"), in its loss ("loss"), or
            nothing ("none").
        top: for "input": what the last layer reads in place of a layer above it; None for nothing.
        widths: outputs of every layer.
        name: name of the function that the user called, for errors.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        x: Features,
        graph: Graph,
        form: str,
        top: Tensor | None,
        widths: Sequence[int],
        name: str,
    ) -> None:
        self.layers, self.graph, self.form, self.top, self.widths, self.name = layers, graph, form, top, widths, name
        self.first = x.normalized()
        if len(set(widths)) > 1 and form == LOSS:
            raise ValueError(message(name, "layers", 'equal widths for form "loss"', str(list(widths))))

    def _input(self, at: int, states: Sequence[Tensor | None]) -> Features:
        """What a layer reads; None among the states is zero."""
        below = states[at - 1] if at else None
        given = self.first if below is None else Features(normalized(below))
        if self.form != INPUT:
            return given
        if at + 1 == len(self.layers):
            top = self.top
            if top is not None and states[at] is None:  # at the start everything above is zero
                top = torch.zeros_like(top)
            return given if top is None else given.beside(top)
        above = states[at + 1]
        return given.beside(self.first.zeros(self.widths[at + 1]) if above is None else normalized(above))

    def run(self, at: int, states: Sequence[Tensor | None]) -> Tensor:
        """A layer's output."""
        found = frozen(self.layers[at], self._input(at, states), self.graph)()
        if found.shape[1] != self.widths[at]:
            wanted, got = f"a layer {at} with {self.widths[at]} outputs", str(found.shape[1])
            raise ValueError(message(self.name, "layers", wanted, got, "pass widths=[...]"))
        return found

    def embedding(self, at: int, h: Tensor, states: Sequence[Tensor]) -> Tensor:
        """What the loss of a layer judges: its output or, for "loss", the mean with the states of all higher layers."""
        if self.form != LOSS:
            return h
        return torch.stack([h, *(normalized(state) for state in states[at + 1 :])]).mean(0)

    @torch.no_grad()
    def start(self) -> list[Tensor]:
        """The states after one pass from the first layer to the last, with zeros for what lies above."""
        states: list[Tensor | None] = [None] * len(self.layers)
        for at in range(len(self.layers)):
            states[at] = self.run(at, states)
        return [state for state in states if state is not None]

    @torch.no_grad()
    def step(self, states: list[Tensor], turns: Sequence[Sequence[int]]) -> list[Tensor]:
        """The states one time step later, without training."""
        for turn in turns:
            fresh = {at: self.run(at, states) for at in turn}
            states = [fresh.get(at, state) for at, state in enumerate(states)]
        return states

    def on(self, graph: Graph) -> Joint:
        """The same layers on other edges."""
        found = copy.copy(self)
        found.graph = graph
        return found

    def average(self, steps: int, alternating: bool, judge: Callable[[list[Tensor]], Sequence[Tensor]]) -> list[Tensor]:
        """What ``judge`` makes of the states, one tensor a layer, in evaluation mode: for "input" the mean over time
        steps without the first two, otherwise of one pass."""
        modes = [layer.training for layer in self.layers]
        for layer in self.layers:
            layer.eval()
        states, turns = self.start(), turns_of(len(self.layers), alternating)
        if self.form == INPUT:
            late = []
            for step in range(steps):
                states = self.step(states, turns)
                if step >= 2:
                    late.append(torch.stack(list(judge(states))))
            found = list(torch.stack(late).mean(0))
        else:
            found = list(judge(states))
        for layer, mode in zip(self.layers, modes, strict=True):
            layer.train(mode)
        return found


def turns_of(count: int, alternating: bool) -> list[list[int]]:
    """The layers that change together: all of them, or the first, third, ... and then the others."""
    turns = [list(range(0, count, 2)), list(range(1, count, 2))] if alternating else [list(range(count))]
    return [turn for turn in turns if turn]


def train(
    joint: Joint,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], float] | None,
    optimizer: OptimizerFactory,
    schedule: Schedule,
    alternating: bool,
    max_norm: float | None,
    data: DataParallel,
) -> list[LayerReport]:
    """Trains all layers, one optimizer step for each in every time step. Each process trains every n-th layer."""
    layers = joint.layers
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
        data.broadcast_(list(layer.state_dict().values()))
    mine = set(data.shard(torch.arange(len(layers))).tolist())
    optimizers = {at: optimizer(layers[at].parameters()) for at in sorted(mine)}
    states, turns = joint.start(), turns_of(len(layers), alternating)
    data.broadcast_(states)
    best = Best(layers, validate, schedule)
    reports = [LayerReport([], best.scores) for _ in layers]
    with Loop(schedule.epochs, progress=schedule.progress) as loop:
        for step in loop:
            for turn in turns:
                states, losses = _turn(joint, turn, states, loss, optimizers, max_norm, data)
                for at, value in losses.items():
                    checks.finite_loss(joint.name, step, value)
                    reports[at].losses.append(value)
            if best.due(step) or step == schedule.epochs - 1:
                share_layers(layers, mine, data)
            if best.after(step):
                loop.stop()
    best.restore()
    for layer, mode, report in zip(layers, modes, reports, strict=True):
        layer.train(mode)
        report.best = best.stopping.best_step
    return reports


def _turn(
    joint: Joint,
    turn: Sequence[int],
    states: list[Tensor],
    loss: Callable[[Tensor], Tensor],
    optimizers: dict[int, torch.optim.Optimizer],
    max_norm: float | None,
    data: DataParallel,
) -> tuple[list[Tensor], dict[int, float]]:
    """Trains the layers of a turn; returns all states and the losses of these layers."""
    fresh, losses = {at: torch.zeros_like(states[at]) for at in turn}, states[0].new_zeros(len(turn))
    for place, at in enumerate(turn):
        if at in optimizers:
            h = joint.run(at, states)
            value = loss(joint.embedding(at, h, states))
            optimizers[at].zero_grad()
            value.backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(joint.layers[at].parameters(), max_norm)
            optimizers[at].step()
            fresh[at], losses[place] = h.detach(), value.detach()
    data.sum_([*fresh.values(), losses])  # zeros of the others: sums are copies
    found = [fresh.get(at, state) for at, state in enumerate(states)]
    return found, dict(zip(turn, losses.tolist(), strict=True))


@torch.no_grad()
def share_layers(layers: Sequence[nn.Module], mine: set[int], data: DataParallel) -> None:
    """Copies every layer from the process that trains it to all others."""
    if data.size == 1:
        return
    tensors = [(at, value) for at, layer in enumerate(layers) for value in layer.state_dict().values()]
    for at, value in tensors:
        if at not in mine:
            value.zero_()
    for dtype in dict.fromkeys(value.dtype for _, value in tensors):
        data.sum_([value for _, value in tensors if value.dtype is dtype])


def stated_widths(name: str, layers: Sequence[nn.Module], widths: Sequence[int] | None) -> list[int]:
    """The outputs of every layer: as given, or as the layers say."""
    if widths is not None:
        if len(widths) != len(layers):
            raise ValueError(message(name, "widths", f"{len(layers)} widths, one a layer", str(len(widths))))
        return [checks.integer(name, "widths", width) for width in widths]
    found = [getattr(layer, "out_features", getattr(layer, "out_channels", None)) for layer in layers]
    if None in found:
        got = f"layer {found.index(None)} without out_features"
        raise ValueError(message(name, "widths", "the outputs of every layer", got, "pass widths=[...]"))
    return [int(width) for width in found if width is not None]


def input_widths(first: int, widths: Sequence[int], form: str, top: int) -> list[int]:
    """The features that every layer receives; ``top`` is the width of what the last layer reads from above."""
    below = [first, *widths[:-1]]
    if form != INPUT:
        return below
    return [one + other for one, other in zip(below, [*widths[1:], top], strict=True)]
