"""NoProp in discrete time: T blocks that denoise a label's vector, each trained alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from . import _denoising
from ._block_stack import BlockStack
from .embeddings import LabelEmbedding
from .label_schedules import LabelSchedule

Generators = torch.Generator | Sequence[torch.Generator] | None


class NoPropDT(_denoising.Denoising):
    """A classifier of T blocks without back-propagation or forward propagation through them.

    Block t is trained alone to guess the vector u of the label from z_{t-1} and x. z_{t-1} is the vector with noise,
    drawn directly, so neither earlier nor later blocks are called. From Li, Teh and Pascanu, *NoProp: Training neural
    networks without full back-propagation or full forward-propagation*, https://arxiv.org/abs/2503.24322.

    Args:
        blocks: T networks ``block(z, x)``, from z (b, d) and a batch x to logits (b, K).
        num_classes: number K of classes.
        embed: vectors of the classes, see :class:`LabelEmbedding`, or one of these.
        schedule: noise levels of T steps; None for ``LabelSchedule.cosine(T)``.
        eta: weight of the denoising loss.
        head: read-out from z_T to logits (b, K): "linear", "radial" or a module.

    Raises:
        TypeError, ValueError: no blocks, a schedule of another length, or an argument that is out of range.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import NoPropDT
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = torch.nn.Linear(3 + 4, 3)
        ...     def forward(self, z, x):
        ...         return self.net(torch.cat([z, x], 1))
        >>> model = NoPropDT([Block() for _ in range(10)], num_classes=3)
        >>> x, y = torch.randn(8, 4), torch.arange(8) % 3
        >>> model.block_loss(2, x, y).backward()  # gradients of block 2 and of the read-out
        >>> model.blocks[0].net.weight.grad is None
        True
        >>> model.predict(x).shape
        torch.Size([8])
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        num_classes: int,
        embed: str | int | Tensor | LabelEmbedding = "onehot",
        *,
        schedule: LabelSchedule | None = None,
        eta: float = 0.1,
        head: str | nn.Module = "linear",
    ) -> None:
        super().__init__(num_classes, embed, head)
        for place, block in enumerate(blocks):
            if not isinstance(block, nn.Module):
                raise TypeError(message(self.op, f"blocks[{place}]", "a module block(z, x)", checks.describe(block)))
        if not len(blocks):
            raise ValueError(message(self.op, "blocks", "at least one block (T >= 1)", "none"))
        if len({id(block) for block in blocks}) < len(blocks):
            hint = "copy.deepcopy(block), then new random weights"
            raise ValueError(message(self.op, "blocks", "T blocks of their own", "the same module twice", hint))
        self.blocks = nn.ModuleList(blocks)
        self.schedule = LabelSchedule.cosine(len(blocks)) if schedule is None else schedule
        if not isinstance(self.schedule, LabelSchedule):
            raise TypeError(message(self.op, "schedule", "a LabelSchedule", checks.describe(schedule)))
        if len(self.schedule) != len(blocks):
            raise ValueError(message(self.op, "schedule", f"{len(blocks)} steps, one a block", str(self.schedule)))
        checks.positive(self.op, "eta", eta)
        self.eta = eta

    def block_loss(self, t: int, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss with t as the one block that is drawn: its mean over t = 1 .. T is :meth:`loss`.

        Args:
            t: the block, 1 to T.
            x: (b, ...) inputs.
            y: (b,) classes.
            generator: source of noise. Blocks with generators of their own can be trained in any order.

        Returns:
            Cross-entropy of the read-out + KL of z_0 + T/2 eta (SNR(t) - SNR(t-1)) ||uhat - u||^2, means over rows.

        Raises:
            TypeError, ValueError: ``t`` or labels out of range, no rows, inputs that are not finite, batch
                normalization over one row, or logits of another shape.
        """
        checks.integer(f"{self.op}.block_loss", "t", t, 1, len(self.blocks))
        block = self.blocks[t - 1]
        self._check("block_loss", x, y, norms=block)
        u = self.embedding(y)
        z, last = self._noisy(t, u, generator)
        logits = self._logits(block, f"blocks[{t - 1}]", z, x)
        return self._ends(u, y, self.schedule.abar[0], self.schedule.abar[-1], last) + self._errors(t, logits, u)

    def loss(self, x: Tensor, y: Tensor, generator: Generators = None) -> Tensor:
        """The negative evidence bound: the mean of all block losses. All blocks run as one batched product.

        Args:
            x: (b, ...) inputs.
            y: (b,) classes.
            generator: source of noise, or T sources, one a block.

        Raises:
            TypeError, ValueError: as :meth:`block_loss`, or the blocks are not alike (see :func:`fit_noprop`).
        """
        stack = BlockStack(self.op, list(self.blocks))
        found = self.stacked_loss(stack, stack.joined(), range(1, len(self.blocks) + 1), x, y, generator)
        stack.write_buffers()
        return found / len(self.blocks)

    def stacked_loss(
        self,
        stack: BlockStack,
        parameters: Mapping[str, Tensor],
        numbers: Sequence[int],
        x: Tensor,
        y: Tensor,
        generator: Generators = None,
    ) -> Tensor:
        """Sum of the losses of the blocks with these numbers, which are stacked. For :func:`fit_noprop`."""
        self._check("loss", x, y, norms=self.blocks[0])
        sources = [generator] * len(numbers) if not isinstance(generator, Sequence) else generator
        u = self.embedding(y)
        drawn = [self._noisy(t, u, source) for t, source in zip(numbers, sources, strict=True)]
        logits = stack(dict(parameters), torch.stack([z for z, _ in drawn]), x)
        self._logits(nn.Identity(), "blocks[0]", logits[0])
        ends = self._ends_of_all(u, y, torch.cat([last for _, last in drawn]), len(numbers))
        weight = logits.new_tensor([self._weight(t) for t in numbers])
        return ends + weight @ (self._guess(logits) - u).square().sum(-1).mean(-1)

    def _ends_of_all(self, u: Tensor, y: Tensor, noise: Tensor, count: int) -> Tensor:
        first, last = self.schedule.abar[0], self.schedule.abar[-1]
        return count * self._ends(u.repeat(count, 1), y.repeat(count), first, last, noise)

    def _noisy(self, t: int, u: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """z_{t-1}, the input of block t, and noise for z_T."""
        abar = self.schedule.abar[t - 1]
        noise = noise_of(u, generator)
        return float(abar.sqrt()) * u + float((1 - abar).sqrt()) * noise[0], noise[1]

    def _weight(self, t: int) -> float:
        return 0.5 * len(self.blocks) * self.eta * self.schedule.dsnr[t - 1].item()

    def _errors(self, t: int, logits: Tensor, u: Tensor) -> Tensor:
        return self._weight(t) * (self._guess(logits) - u).square().sum(-1).mean()

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        noise: bool = True,
        return_path: bool = False,
        *,
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Turns pure noise into z_T by the T blocks, in evaluation mode.

        Args:
            x: (b, ...) inputs.
            noise: whether each step adds noise. Without, predictions are often better.
            return_path: whether to return all of z_0 .. z_T.
            z0: (b, d) start; None for standard normal noise. With ``noise=False`` it decides everything.
            generator: source of all noise.

        Returns:
            z_T (b, d), or the path (T + 1, b, d).
        """
        self._check("sample", x)
        path = [self._start(x, z0, generator)]
        with _denoising.evaluating(self):
            for t, block in enumerate(self.blocks, 1):
                z = path[-1]
                guess = self._guess(self._logits(block, f"blocks[{t - 1}]", z, x))
                step = self.schedule.step(t, z, guess, _denoising.noise_like(z, generator) if noise else None)
                path = [*path, step] if return_path else [step]
        return torch.stack(path) if return_path else path[0]

    @torch.no_grad()
    def predict(
        self, x: Tensor, noise: bool = True, *, z0: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The classes (b,) that the read-out finds in :meth:`sample`."""
        z = self.sample(x, noise, z0=z0, generator=generator)
        with _denoising.evaluating(self):
            return self.head(z).argmax(1)


def noise_of(u: Tensor, generator: torch.Generator | None) -> Tensor:
    """Two draws of noise for vectors (b, d): (2, b, d)."""
    return _denoising.noise_like(u.detach().expand(2, *u.shape), generator)
