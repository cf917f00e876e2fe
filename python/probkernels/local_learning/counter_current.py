"""Counter-current learning of classifiers: a second network sends the labels toward the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from . import _blocks, _closed_form
from ._local_losses import Rule, local_loss
from ._two_streams import TwoStreams
from .diagnostics import linear_cka


class CounterCurrent(TwoStreams):
    """A classifier that learns without back-propagation, from a feedback network in the opposite direction.

    The feedback network maps the one-hot codes of the K classes, which it sees once per step, toward the input. At
    every depth a local loss compares the states a (N rows) and b (K rows): ``a b^T`` should be the one-hot labels.
    Inputs of layers are detached, so each loss trains one layer of each network, and the output layer learns from the
    cross entropy. Inference uses the forward network alone.

    Kao, Hariharan. NeurIPS 2024, arXiv:2409.19841.

    Args:
        forward_net: ``Sequential`` of at least two layers; the last makes the logits. A block is a child with
            parameters and the children up to the next one; a child may be any module. The paper has no biases.
        feedback_net: ``Sequential`` with as many blocks, from K values to the input's size; each state has as many
            values as the forward state of its depth. None makes :func:`mirror` of ``forward_net``.
        loss: "plain", the mean squared error of ``a b^T``, weighted by 256 / width (the paper's code for linear
            layers); "normalized", that of unit rows (for convolutions); or "frobenius", the norm of the difference for
            unit rows (the text of the paper).
        scale: factor on the local losses.
        ssl: factor on the same distance of ``a a^T`` and ``b b^T`` from the identity, against collapse.
        flooding: samples whose label has a probability above 1 - ``flooding`` count as zeros in the local losses.
        input_shape: shape of one input, which the mirror needs unless all layers are linear.
        classes: number of classes K; needed if the last layer is not linear.

    Attributes:
        forward_net, feedback_net: the networks; the parameters of each go to an optimizer of its own.

    Forms of :meth:`gradients`, which agree:

    - "autograd" keeps the graphs of all blocks until the backward pass.
    - "blockwise" keeps the graph of one forward block at a time, and those of the K codes. It takes any blocks. With
      flooding, which needs the logits first, it keeps all.
    - "closed" stores nothing for a backward pass and keeps one forward state at a time. It takes blocks of ``Linear``
      (after ``Flatten``), and one of ELU, ReLU, LeakyReLU, Tanh and Sigmoid, without hooks and outside of autocast.
    - "batched" is the closed form that updates neighboring layers of equal width at once, and keeps their states.
    - "auto" is "closed" where it is possible, else "blockwise".

    Labels are (N,) integers from 0 to K - 1.

    Raises:
        TypeError: a network is not a Sequential.
        ValueError: fewer than two layers, other numbers of layers, shared weights, an option out of range, or a module
            that the mirror does not know.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from probkernels.local_learning import CounterCurrent
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(64, 8, generator=generator)
        >>> y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ELU(), nn.Linear(16, 4, bias=False))
        >>> model = CounterCurrent(net)
        >>> nets = model.forward_net, model.feedback_net
        >>> optimizers = [torch.optim.SGD(net.parameters(), lr=0.2) for net in nets]
        >>> history = model.fit(x, y, *optimizers, epochs=60, batch_size=16)
        >>> bool((model(x).argmax(1) == y).float().mean() > 0.9)
        True
    """

    forms = ("auto", "autograd", "blockwise", "closed", "batched")

    def __init__(
        self, forward_net: nn.Sequential, feedback_net: nn.Sequential | None = None, *, loss: str = "plain",
        scale: float = 0.5, ssl: float = 0.0, flooding: float = 0.0, input_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(forward_net, feedback_net, input_shape)
        self.rule = Rule(loss, scale, ssl, flooding)
        self.rule.check(self.op)
        last = _blocks.layer_of(self.blocks()[0][-1])
        if classes is None and not isinstance(last, nn.Linear):
            hint = "only a linear last layer tells the number of classes"
            raise ValueError(message(self.op, "classes", "the number of classes", "None", hint))
        known = classes is None and isinstance(last, nn.Linear)
        self.classes = checks.integer(self.op, "classes", last.out_features if known else classes, 2)

    def cka(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """For each depth but the last, :func:`linear_cka` of the forward states of samples and the feedback states of
        their labels."""
        self._target(f"{self.op}.cka", x, y)
        with torch.no_grad():
            states, feedback = self.states(x)
        return [linear_cka(a, b[y]) for a, b in zip(states[:-1], feedback[:-1], strict=True)]

    def _gradients(self, op: str, form: str, x: Tensor, target: Tensor) -> list[Tensor]:
        if form in ("autograd", "blockwise"):
            return super()._gradients(op, form, x, target)
        parts = [[_blocks.dense(modules) for modules in blocks] for blocks in self.blocks()]
        front, back = ([part for part in stream if part is not None] for stream in parts)
        for name, stream in zip(("forward_net", "feedback_net"), parts, strict=True):
            if None in stream and form != "auto":
                wanted = "blocks of Linear and one of ELU, ReLU, LeakyReLU, Tanh, Sigmoid for this form"
                got = type(_blocks.layer_of(self.blocks()[name == "feedback_net"][stream.index(None)])).__name__
                raise ValueError(message(op, name, wanted, f"another block, of {got}", "form='blockwise' takes any"))
        mixed = torch.is_autocast_enabled(x.device.type)
        if mixed and form != "auto":
            hint = "form='blockwise', or step outside of autocast"
            raise ValueError(message(op, "form", "a form of autograd in an autocast region", repr(form), hint))
        if mixed or any(None in stream for stream in parts):
            return super()._gradients(op, "blockwise", x, target)
        x = _blocks.rows(x.detach())
        widths = [x.shape[1], *(part.layer.out_features for part in front)]
        for depth, part in enumerate(back):
            if part.layer.out_features != widths[depth]:
                wanted = f"a state of {widths[depth]} values at depth {depth}, as in 'forward_net'"
                raise ValueError(message(op, "feedback_net", wanted, str(part.layer.out_features)))
        keep = (lambda logits: self._keep(logits, target)) if self.rule.flooding else None
        return _closed_form.gradients(front, back, x, self._code(x), target, self.rule, keep, form == "batched")

    def _needs_output_first(self) -> bool:
        return self.rule.flooding > 0

    def _keep(self, output: Tensor, target: Tensor) -> Tensor | None:
        if not self.rule.flooding:
            return None
        sure = (output.detach().softmax(1) * target).sum(1, keepdim=True)
        return (1 - sure >= self.rule.flooding).to(output.dtype)

    def _code(self, x: Tensor) -> Tensor:
        return torch.eye(self.classes, dtype=x.dtype, device=x.device)

    def _target(self, op: str, x: Tensor, y: Tensor | None) -> Tensor:
        checks.integer_tensor(op, "y", y)
        assert y is not None
        checks.shape(op, "y", y, (len(x),), "of one label for each row of 'x'")
        checks.same_device(op, "y", y, x, "x")
        wrong = (y < 0) | (y >= self.classes)
        if checks.readable(y) and bool(wrong.any()):
            got = checks.offender(y, wrong)
            raise ValueError(message(op, "y", f"labels from 0 to {self.classes - 1}", got))
        target = torch.zeros(len(y), self.classes, dtype=x.dtype, device=x.device)
        return target.scatter_(1, y.long()[:, None], 1.0)

    def _local(self, depth: int, a: Tensor, b: Tensor, target: Tensor, keep: Tensor | None) -> Tensor:
        return local_loss(_blocks.rows(a), _blocks.rows(b), target, keep, self.rule)

    def _last(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape:
            got = f"shape {tuple(output.shape)}"
            raise ValueError(message(self.op, "forward_net", f"logits of shape {tuple(target.shape)}", got))
        return nn.functional.cross_entropy(output, target)
