"""Integer flows for training. Rounding passes gradients unchanged."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..training import EarlyStopping, cosine, minimize
from .frozen_flow import FRACTION, MOST_HIDDEN, MOST_SHIFT, Coupling, FrozenFlow

PSEUDOCOUNT = 1.0  # observations that the prior of a latent has before it sees any, spread evenly
BITS = 14  # of the largest weight of a matrix


class IntegerFlow(nn.Module):
    """An integer discrete flow over rows of categorical or quantized variables, for training.

    Each coupling shifts half of the variables by a rounded function of the other half, modulo their alphabets. The
    results, called latents, stay in the alphabets. During training their prior is factorized: frequencies, counted anew
    in every epoch. Afterwards a circuit replaces the prior. :meth:`freeze` gives the exact integer bijection that a
    codec runs.

    Args:
        categories: number of categories of each variable, for at least two variables.
        couplings: number of couplings. Each draws its own random halves.
        hidden: number of hidden units of each network.
        seed: seed of the halves and the parameters.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of range.

    Reference: Hoogeboom, Peters, van den Berg, Welling, Integer Discrete Flows and Lossless Compression, NeurIPS 2019.

    Example:
        >>> import torch
        >>> from probkernels.codec import IntegerFlow
        >>> x = torch.randint(0, 8, (64, 1)).repeat(1, 4)
        >>> flow = IntegerFlow([8] * 4, couplings=2, hidden=16)
        >>> before = flow.bits(x).mean().item()
        >>> _ = flow.fit(x, epochs=30, progress=False)
        >>> flow.bits(x).mean().item() < before
        True
    """

    categories: Tensor
    prior: Tensor

    def __init__(self, categories: Sequence[int], *, couplings: int = 4, hidden: int = 128, seed: int = 0) -> None:
        super().__init__()
        sizes = list(categories)
        if len(sizes) < 2:
            raise ValueError(message("IntegerFlow", "categories", "two or more alphabets", f"{sizes}"))
        for k, size in enumerate(sizes):
            checks.integer("IntegerFlow", f"categories[{k}]", size, 1, 2**16)
        for name, value in (("couplings", couplings), ("hidden", hidden)):
            checks.integer("IntegerFlow", name, value, 1, 2**10)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("categories", torch.tensor(sizes, dtype=torch.float32))
        half, networks = len(sizes) // 2, []
        for i in range(couplings):
            if i % 2 == 0:
                order = torch.randperm(len(sizes), generator=generator)
            given, moved = (order[:half], order[half:])[:: 1 - 2 * (i % 2)]
            self.register_buffer(f"given_{i}", given.sort().values)
            self.register_buffer(f"moved_{i}", moved.sort().values)
            networks.append(_network(len(given), hidden, len(moved), generator))
        self.networks = nn.ModuleList(networks)
        uniform = (torch.arange(max(sizes)) < self.categories[:, None]) / self.categories[:, None]
        self.register_buffer("prior", uniform)  # (V, largest alphabet)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (N, V), whole numbers, to latents z (N, V), whole numbers in float32. Gradients pass the rounding
        unchanged.

        Raises:
            TypeError: x is not a tensor, or the flow has half precision.
            ValueError: x has the wrong shape, or a value that its alphabet does not have.
        """
        self._check("IntegerFlow", "x", x)
        return self._latents(x)[0]

    def _couplings(self) -> Iterator[tuple[Tensor, Tensor, nn.Sequential]]:
        """For each coupling: the given variables, the moved variables and the network."""
        for i, network in enumerate(self.networks):
            assert isinstance(network, nn.Sequential)
            yield self.get_buffer(f"given_{i}"), self.get_buffer(f"moved_{i}"), network

    def _latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, and the distance of each variable's last shift from a whole number."""
        z = x.to(self.categories)
        off = torch.zeros_like(z)
        for given, moved, network in self._couplings():
            sizes = self.categories[given]
            t = network((z[:, given] + 0.5) / sizes * 2 - 1) * self.categories[moved]
            whole = (t.detach() + 0.5).floor()
            off = off.index_copy(1, moved, t.detach() - whole)
            z = z.index_copy(1, moved, _wrapped(z[:, moved] + (t + (whole - t.detach())), self.categories[moved]))
        return z, off

    @torch.no_grad()
    def bits(self, x: Tensor) -> Tensor:
        """Code length in bits, (N,), of rows x (N, V) under the flow and its factorized prior.

        Raises:
            TypeError, ValueError: as :meth:`forward`.
        """
        self._check("IntegerFlow.bits", "x", x)
        return -self.prior.gather(1, self._latents(x)[0].long().t()).log2().sum(0)

    def _loss(self, x: Tensor) -> Tensor:
        """Bits (N,) with the shifts before rounding: linear between the neighboring whole numbers, so the gradient
        shows what the next whole number would cost.
        """
        z, off = self._latents(x)
        at = (z + off).t()  # (V, N)
        low = at.detach().floor()
        sizes, cost = self.categories.long()[:, None], -self.prior.log2()
        below, above = (cost.gather(1, (low.long() + k) % sizes) for k in (0, 1))
        return (below + (above - below) * (at - low)).sum(0)

    @torch.no_grad()
    def _count(self, x: Tensor) -> None:
        """Sets the prior to the frequencies of x's latents."""
        z, most = self._latents(x)[0].long(), self.prior.shape[1]
        places = z + torch.arange(z.shape[1], device=z.device) * most
        counts = torch.bincount(places.flatten(), minlength=self.prior.numel()).view_as(self.prior)
        inside = torch.arange(most, device=z.device) < self.categories[:, None]
        found = counts + PSEUDOCOUNT * inside / self.categories[:, None]
        self.prior.copy_(found / found.sum(1, keepdim=True))

    def fit(
        self,
        x: Tensor,
        *,
        validation: Tensor | None = None,
        epochs: int = 200,
        batch_size: int = 128,
        rate: float = 1e-3,
        seed: int = 0,
        progress: bool = True,
    ) -> list[float]:
        """Trains the flow to minimize bits, with AdamW. Keeps the parameters of the best validation, or the last ones
        without validation.

        Args:
            x: (N, V) whole numbers below the numbers of categories.
            validation: (M, V) rows that are not in x. None to train without validation.
            epochs: number of passes over x.
            batch_size: number of rows in each step.
            rate: initial learning rate. It falls to 0 along half a cosine.
            seed: seed of the order of rows.
            progress: whether to show a progress bar.

        Returns:
            Mean bits per row for each epoch: of the validation rows if given, else of the training rows during the
            epoch.

        Raises:
            TypeError, ValueError: a setting or a value is of the wrong type or out of range, or there are no rows.
        """
        for name, rows in {"x": x, **({} if validation is None else {"validation": validation})}.items():
            checks.integer_tensor("IntegerFlow.fit", name, rows)
            self._check("IntegerFlow.fit", name, rows, least=1)
        checks.positive("IntegerFlow.fit", "rate", rate)
        for name, count in (("epochs", epochs), ("batch_size", batch_size)):
            checks.integer("IntegerFlow.fit", name, count)
        optimizer = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=1e-2)
        generator = torch.Generator().manual_seed(seed)
        batches = list(torch.arange(len(x)).split(batch_size))  # of the epoch in progress
        history: list[float] = []
        seen: list[float] = []  # bits of this epoch's rows
        self._count(x)
        best = EarlyStopping()
        if validation is not None:
            best.improved(0, self.bits(validation).mean().item())
        state = copy.deepcopy(self.state_dict())

        def loss(step: int) -> Tensor:
            if step % len(batches) == 0:
                self._count(x)
                batches[:] = torch.randperm(len(x), generator=generator).split(batch_size)
            return self._loss(x[batches[step % len(batches)]]).mean()

        def after(step: int, bits: float) -> None:
            nonlocal state
            seen.append(bits * len(batches[step % len(batches)]) / len(x))
            if len(seen) == len(batches):
                history.append(sum(seen) if validation is None else self.bits(validation).mean().item())
                seen.clear()
                if validation is None or best.improved(len(history), history[-1]):
                    state = copy.deepcopy(self.state_dict())

        minimize(
            loss, optimizer, epochs * len(batches), lr_schedule=cosine, max_norm=10.0 * len(self.categories),
            after=after, progress=progress, name="IntegerFlow.fit",
        )  # fmt: skip
        self.load_state_dict(state)
        return history

    def _check(self, op: str, name: str, x: Tensor, least: int = 0) -> None:
        """Checks rows of whole numbers within the alphabets, at least ``least`` of them. Modulo an alphabet, a value
        that it does not have would pass for another one."""
        self._check_precision(op)
        if not isinstance(x, Tensor):
            raise TypeError(message(op, name, "a tensor", checks.describe(x), checks.AS_TENSOR))
        if x.dim() != 2 or len(x) < least or x.shape[1] != len(self.categories):
            wanted = f"shape (N, {len(self.categories)})" + " with at least one row" * (least > 0)
            raise ValueError(message(op, name, wanted, f"shape {tuple(x.shape)}"))
        wrong = ~((x >= 0) & (x < self.categories))
        if x.is_floating_point():
            wrong |= x != x.floor()
        if wrong.any():
            raise ValueError(message(op, name, "whole numbers in 0 .. alphabet - 1", checks.offender(x, wrong)))

    def _check_precision(self, op: str) -> None:
        if self.categories.dtype not in (torch.float32, torch.float64):  # half precision rounds the alphabets too
            got = str(self.categories.dtype)
            raise TypeError(message(op, "self", "a flow in float32 or float64", got, "make a new flow"))

    @torch.no_grad()
    def freeze(self) -> FrozenFlow:
        """The flow in integer arithmetic, with 15-bit weights.

        Now and then it rounds a shift differently from :meth:`forward`. That costs nothing if the prior is then fitted
        to the latents of the frozen flow.

        Raises:
            TypeError: the flow has half precision.
            ValueError: a parameter is not finite, or too large.
        """
        self._check_precision("IntegerFlow.freeze")
        for name, values in self.named_parameters():
            if not (finite := values.isfinite()).all():
                got = checks.offender(values, ~finite)
                raise ValueError(message("IntegerFlow.freeze", "self", f"finite numbers in {name}", got))
        sizes, found = self.categories.double().cpu(), []
        for given, moved, network in self._couplings():
            first, second = network[0], network[2]
            assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
            given, moved = given.cpu(), moved.cpu()
            scale = 2 / sizes[given]  # the input of forward, (x + 0.5) * scale - 1, goes into the weights
            A = first.weight.double().cpu() * scale
            a = first.bias.double().cpu() + A.sum(1) * 0.5 - first.weight.double().cpu().sum(1)
            B, b = second.weight.double().cpu() * sizes[moved, None], second.bias.double().cpu() * sizes[moved]
            one, other = _scale(A), _scale(B)
            if one < FRACTION:  # weights so large that units of 2**-8 are finer than they are
                raise ValueError(message("IntegerFlow.freeze", "self", "weights below 64", "larger ones"))
            whole = [(v * 2.0**s).round().numpy() for v, s in ((A, one), (a, one), (B, other), (b, other + FRACTION))]
            A16, a64, B16, b64 = (w.astype(t) for w, t in zip(whole, (np.int16, np.int64) * 2, strict=True))
            places = given.numpy(), moved.numpy()
            found.append(Coupling(*places, A16, a64, B16, b64, one - FRACTION, other + FRACTION))
        return FrozenFlow([int(c) for c in self.categories.tolist()], found)


def _network(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """A network that starts at t = 0, so the flow starts as the identity. Its hidden units saturate like those of the
    frozen flow."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    with torch.no_grad():
        first.weight.copy_(torch.randn(first.weight.shape, generator=generator) / math.sqrt(inputs))
        first.bias.copy_(torch.randn(first.bias.shape, generator=generator) * 0.1)
        second.weight.copy_(torch.randn(second.weight.shape, generator=generator) * 1e-3 / math.sqrt(hidden))
        second.bias.zero_()
    return nn.Sequential(first, nn.Hardtanh(0.0, MOST_HIDDEN / 2**FRACTION), second)


def _wrapped(z: Tensor, size: Tensor) -> Tensor:
    """z modulo ``size``. The gradient passes unchanged."""
    return z - (torch.floor((z.detach() + 0.5) / size)) * size


def _scale(weights: Tensor) -> int:
    """The power of two that scales the largest weight to :data:`BITS` bits, within the allowed shifts."""
    largest = weights.abs().max().item() if weights.numel() else 0.0
    scale = BITS if largest == 0 else BITS - math.frexp(largest)[1]
    return min(max(scale, 0), MOST_SHIFT - FRACTION)
