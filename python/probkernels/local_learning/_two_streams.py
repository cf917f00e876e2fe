"""Two networks in opposite directions with local losses: gradients in four forms, steps, training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import Loop
from . import _blocks
from .diagnostics import weight_cosine
from .mirror import mirror

Norm = float | tuple[float, float] | None


class TwoStreams(nn.Module):
    """What :class:`CounterCurrent` and :class:`CounterCurrentAutoencoder` have in common."""

    forms: tuple[str, ...] = ("auto", "autograd", "blockwise")
    forward_net: nn.Sequential
    feedback_net: nn.Sequential

    def __init__(
        self, forward_net: nn.Sequential, feedback_net: nn.Sequential | None, input_shape: Sequence[int] | None
    ) -> None:
        super().__init__()
        self.op = type(self).__name__
        self._front = _blocks.spans(self.op, "forward_net", forward_net)
        feedback_net = mirror(forward_net, input_shape) if feedback_net is None else feedback_net
        self._back = _blocks.spans(self.op, "feedback_net", feedback_net)[::-1]
        if len(self._front) != len(self._back):
            wanted = f"{len(self._front)} layers with weights, as in 'forward_net'"
            raise ValueError(message(self.op, "feedback_net", wanted, str(len(self._back))))
        self.forward_net, self.feedback_net = forward_net, feedback_net
        self._check_sharing()

    def _check_sharing(self) -> None:
        """Refuses weights that two blocks share: each is trained by one local loss."""
        seen: set[int] = set()
        for front, back in zip(*self.blocks(), strict=True):
            for modules in (front, back):
                here = {id(p) for module in modules for p in module.parameters()}
                if seen & here:
                    hint = "each layer learns from its own local loss, so no two may share weights"
                    raise ValueError(message(self.op, "feedback_net", "weights of its own", "shared weights", hint))
                seen |= here

    def forward(self, x: Tensor) -> Tensor:
        """The output of the forward network."""
        return self.forward_net(x)

    def blocks(self) -> tuple[list[list[nn.Module]], list[list[nn.Module]]]:
        """The blocks of both networks by depth: block l of the first makes state l + 1 from state l, block l of the
        second makes state l of the feedback network from its state l + 1."""
        return (
            [_blocks.block(self.forward_net, span) for span in self._front],
            [_blocks.block(self.feedback_net, span) for span in self._back],
        )

    def states(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The states of all depths, from input to output, of the forward and of the feedback network."""
        op = f"{self.op}.states"
        self._check_input(op, x)
        front, back = self.blocks()
        a, states, feedback = x, [x], [self._code(x)]
        for block in front:
            a = _blocks.run(block, a)
            states.append(a)
        for block in reversed(back):
            feedback.append(_blocks.run(block, feedback[-1]))
        feedback.reverse()
        self._check_states(op, states[: len(front)], feedback)
        return states, feedback

    def losses(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """The local losses of depths 0 to L - 1 and the loss of the output, differentiable by autograd.

        A gradient reaches one layer of each network: the loss of depth l the forward layer that makes state l and the
        feedback layer that makes state l.
        """
        self._check_input(f"{self.op}.losses", x)
        return self._losses(x, self._target(f"{self.op}.losses", x, y))

    def _losses(self, x: Tensor, target: Tensor) -> list[Tensor]:
        states, feedback = self.states(x)
        keep = self._keep(states[-1], target)
        local = [self._local(k, states[k], feedback[k], target, keep) for k in range(len(states) - 1)]
        return [*local, self._last(states[-1], target)]

    def gradients(self, x: Tensor, y: Tensor | None = None, *, form: str = "auto") -> list[Tensor]:
        """Sets ``grad`` of all parameters of both networks, replacing earlier gradients in place or not.

        Args:
            x: (N, ...) inputs.
            y: the labels, if the network needs some.
            form: how gradients are computed, see the class.

        Returns:
            The losses of :meth:`losses`, detached.

        Raises:
            TypeError, ValueError: an argument is wrong, or x has entries that are not finite.
        """
        op = f"{self.op}.gradients"
        checks.one_of(op, "form", form, self.forms)
        self._check_input(op, x)
        target = self._target(op, x, y)
        with torch.enable_grad():
            losses = self._gradients(op, form, x, target)
        total = float(torch.stack([loss.detach() for loss in losses]).sum())
        if not math.isfinite(total):
            checks.finite(op, "x", x)
            hint = "lower the learning rate, or check the weights"
            raise ValueError(message(op, "loss", "finite losses", repr(total), hint))
        return losses

    def _gradients(self, op: str, form: str, x: Tensor, target: Tensor) -> list[Tensor]:
        self.zero_grad(set_to_none=True)
        if form == "autograd" or self._needs_output_first():
            losses = self._losses(x, target)
            _backward(torch.stack(losses).sum())
            return [loss.detach() for loss in losses]
        return self._blockwise(op, x, target)

    def _blockwise(self, op: str, x: Tensor, target: Tensor) -> list[Tensor]:
        """Autograd through one forward block at a time, whose graph ends before the next begins."""
        front, back = self.blocks()
        feedback = [self._code(x)]
        for block in reversed(back):
            feedback.append(_blocks.run(block, feedback[-1]))
        feedback.reverse()
        losses, a = [], x
        for depth, block in enumerate(front):
            self._check_states(op, [a], feedback[depth : depth + 1], depth)
            loss = self._local(depth, a, feedback[depth], target, None)
            _backward(loss)
            losses.append(loss.detach())
            a = _blocks.run(block, a)
        last = self._last(a, target)
        _backward(last)
        return [*losses, last.detach()]

    def step(
        self, x: Tensor, y: Tensor | None, optimizer_f: torch.optim.Optimizer,
        optimizer_b: torch.optim.Optimizer | None = None, *, max_norm: Norm = 1.0, factor: float = 1.0,
        form: str = "auto",
    ) -> list[Tensor]:  # fmt: skip
        """One training step on a batch.

        Args:
            x: (N, ...) inputs.
            y: the labels, if the network needs some.
            optimizer_f: optimizer of the forward network.
            optimizer_b: optimizer of the feedback network; None leaves it as it is.
            max_norm: bound on the norm of all gradients of a network, for each network by itself. A pair gives each
                its own bound; None is no clipping.
            factor: factor on all gradients before they are clipped, for a warm-up.
            form: how gradients are computed, see the class.

        Returns:
            The losses before the step, detached.

        Raises:
            TypeError, ValueError: an argument is wrong, or a loss is not finite; no weight has changed then.
        """
        op = f"{self.op}.step"
        norms = _two_norms(op, max_norm)
        checks.non_negative(op, "factor", factor)
        _check_optimizer(op, "optimizer_f", optimizer_f, self.forward_net, "forward_net")
        if optimizer_b is not None:
            _check_optimizer(op, "optimizer_b", optimizer_b, self.feedback_net, "feedback_net")
        losses = self.gradients(x, y, form=form)
        for net, norm in zip((self.forward_net, self.feedback_net), norms, strict=True):
            parameters = list(net.parameters())
            if factor != 1:
                for p in parameters:
                    p.grad = None if p.grad is None else p.grad.mul_(factor)
            if norm is not None:
                nn.utils.clip_grad_norm_(parameters, norm)
        optimizer_f.step()
        if optimizer_b is not None:
            optimizer_b.step()
        return losses

    def fit(
        self, x: Tensor, y: Tensor | None, optimizer_f: torch.optim.Optimizer,
        optimizer_b: torch.optim.Optimizer | None = None, *, epochs: int, batch_size: int, max_norm: Norm = 1.0,
        warm_up: int = 0, schedulers: Iterable[torch.optim.lr_scheduler.LRScheduler] = (), form: str = "auto",
        seed: int = 0, after: Callable[[int, list[float]], Any] | None = None, progress: bool = False,
    ) -> list[list[float]]:  # fmt: skip
        """Trains both networks on shuffled batches.

        Args:
            x: (N, ...) inputs.
            y: the labels, if the network needs some.
            optimizer_f: see :meth:`step`.
            optimizer_b: see :meth:`step`.
            max_norm: see :meth:`step`.
            form: see :meth:`step`.
            epochs: passes over the data.
            batch_size: rows of a batch; the last batch of an epoch may have fewer.
            warm_up: number of first steps, counted over the whole training, in which the loss is scaled by a factor
                that rises to 1.
            schedulers: learning-rate schedulers, stepped after every epoch.
            seed: seed of the order of the rows.
            after: called as ``after(epoch, losses)`` after every epoch. Return True to stop.
            progress: whether to show a progress bar.

        Returns:
            For every epoch the mean losses over its steps, as in :meth:`losses`.

        Raises:
            TypeError, ValueError: an argument is wrong, or a loss is not finite.
        """
        op = f"{self.op}.fit"
        for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1), ("warm_up", warm_up, 0)):
            checks.integer(op, name, value, least)
        self._check_input(op, x)
        generator, schedulers = torch.Generator().manual_seed(seed), list(schedulers)
        history: list[list[float]] = []
        step = 0
        with Loop(epochs, progress=progress, unit="epoch") as loop:
            for epoch in loop:
                found = []
                for part in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
                    factor = min(1.0, (step + 1) / warm_up) if warm_up else 1.0
                    labels = None if y is None else y[part]
                    losses = self.step(
                        x[part], labels, optimizer_f, optimizer_b, max_norm=max_norm, factor=factor, form=form
                    )
                    found.append(torch.stack(losses))
                    step += 1
                    loop.check()
                for scheduler in schedulers:
                    scheduler.step()
                history.append(torch.stack(found).mean(0).tolist())
                loop.show(loss=sum(history[-1]))
                if after is not None and checks.says_stop(op, "after", after(epoch, history[-1])):
                    loop.stop()
        return history

    def angles(self) -> list[Tensor]:
        """For every layer the cosine between its weights and the transposed weights of the feedback layer, see
        :func:`weight_cosine`; 1 is the feedback of back-propagation."""
        layers = zip(*self.blocks(), strict=True)
        return [weight_cosine(_blocks.layer_of(front), _blocks.layer_of(back)) for front, back in layers]

    def _check_input(self, op: str, x: Tensor) -> None:
        checks.float_tensor(op, "x", x)
        if x.ndim < 2 or len(x) == 0:
            raise ValueError(message(op, "x", "shape (N, ...), N >= 1", f"shape {tuple(x.shape)}"))
        batch_norm = len(x) == 1 and any(isinstance(m, _blocks.BATCH_NORMS) and m.training for m in self.modules())
        if batch_norm:
            hint = "a batch norm has no variance of one row; take a larger batch, or call eval()"
            raise ValueError(message(op, "x", "at least two rows", "1", hint))

    def _check_states(self, op: str, states: Sequence[Tensor], feedback: Sequence[Tensor], first: int = 0) -> None:
        """Checks that the states of one depth have equal widths."""
        for depth, (a, b) in enumerate(zip(states, feedback, strict=False), first):
            if a[0].numel() != b[0].numel():
                wanted = f"a state of {a[0].numel()} values at depth {depth}, as in 'forward_net' {tuple(a.shape[1:])}"
                raise ValueError(message(op, "feedback_net", wanted, f"{b[0].numel()}, {tuple(b.shape[1:])}"))

    def _needs_output_first(self) -> bool:
        """Whether local losses depend on the output, so that all graphs must be kept."""
        return False

    def _keep(self, output: Tensor, target: Tensor) -> Tensor | None:
        """(N, 1): 0 for samples that no local loss of the forward network sees; None for none."""
        return None

    def _code(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _target(self, op: str, x: Tensor, y: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _local(self, depth: int, a: Tensor, b: Tensor, target: Tensor, keep: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _last(self, output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


def _two_norms(op: str, max_norm: Norm) -> tuple[float | None, float | None]:
    norms = max_norm if isinstance(max_norm, tuple) else (max_norm, max_norm)
    if len(norms) != 2:
        raise ValueError(message(op, "max_norm", "a number, None or a pair", checks.shown(max_norm)))
    for norm in norms:
        if norm is not None:
            checks.positive(op, "max_norm", norm, finite=False)
    return norms


def _check_optimizer(op: str, key: str, optimizer: torch.optim.Optimizer, net: nn.Module, name: str) -> None:
    """Refuses an optimizer that would train nothing of its network, such as one of a copy."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in trained for p in net.parameters()):
        raise ValueError(message(op, key, f"an optimizer of {name}'s parameters", "one of other parameters"))


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:  # not where all layers that it reaches are frozen
        loss.backward()
