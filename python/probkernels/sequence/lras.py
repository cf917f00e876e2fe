"""LRAS: a transformer that predicts any place of any modality from any others, in any order."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.attention import attend
from .._core.errors import message
from .pointers import Block, Known, PointerVocab, Query
from .rollout import rollout

FREQUENCIES = (1.0, 0.35, 0.12, 0.04)  # of rotations by rows and columns, in radians a place
Cache = list[tuple[Tensor, Tensor]]  # keys and values (B, heads, n, head width) of each layer


def _small(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.02)


class _Embedding(nn.ModuleDict):
    """Tables by modality. The prefix keeps names apart from those of methods."""

    def add(self, name: str, number: int, width: int) -> None:
        self["of_" + name] = nn.Embedding.from_pretrained(_small(number, width).data, freeze=False)

    def look_up(self, name: str, index: Tensor) -> Tensor:
        return self["of_" + name](index)


class _PointerEmbedding(nn.Module):
    """Pointers: an entry for each pointer of a modality, and for each row and column, which modalities share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pointers, self.width = _Embedding(), width
        self.rows, self.columns = nn.ParameterList(), nn.ParameterList()

    def add(self, name: str, grid: tuple[int, int]) -> None:
        self.pointers.add(name, grid[0] * grid[1], self.width)
        for tables, side in zip((self.rows, self.columns), grid, strict=True):
            more = side - sum(len(table) for table in tables)
            if more > 0:  # a new table, so that an optimizer keeps its state of the old ones
                tables.append(_small(more, self.width))

    def forward(self, name: str, at: Tensor, place: Tensor) -> Tensor:
        row = F.embedding(place[..., 0], torch.cat(list(self.rows)))
        column = F.embedding(place[..., 1], torch.cat(list(self.columns)))
        return self.pointers.look_up(name, at) + row + column


class _Layer(nn.Module):
    """A pre-norm transformer layer. Queries are turned by the place that is asked, keys by their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], prefix: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs (B, m, d), and the keys and values of these tokens: a causal sequence without ``prefix``; else
        tokens that each see the prefix and themselves."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = _turned(q, turns[0]), _turned(k, turns[1])
        if prefix is None:
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = attend(q, *prefix, (k, v), None, False, q.shape[-1] ** -0.5)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x)), (k, v)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Rotates pairs of (B, heads, m, w) by angles (B, m, w / 2)."""
    cos, sin = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class LRAS(nn.Module):
    """A causal transformer over pointers and values: local random-access sequence modeling.

    Each step holds the previous value and its pointer, and the pointer of the next value, which it predicts. So the
    order is free, and many pointers can be asked at once: they share the keys and values of what is known, and each
    sees itself besides. Positions are rows and columns: attention turns queries by the place that is asked and keys
    by their own. Train with random orders and random amounts of context, or sparse questions are strange to the model.
    From Lee et al., *3D Scene Understanding Through Local Random Access Sequence Modeling*, 2025,
    https://arxiv.org/abs/2504.03875, and Kotar et al., *World Modeling with Probabilistic Structure Integration*,
    2025, https://arxiv.org/abs/2509.09737.

    Args:
        vocab: the modalities; the model keeps a copy.
        d: width, divisible by ``heads``; the width of a head is divisible by 4.
        layers: number of layers.
        heads: number of attention heads.
        frequencies: of the rotations, a quarter of the head's width; None for 1, 0.35, 0.12, 0.04, or as many from 1 to
            0.04.

    Attributes:
        vocab (PointerVocab): the modalities.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import LRAS, PatchWorld
        >>> world = PatchWorld(6)
        >>> model, scenes = LRAS(world.vocab), world.sample(8, torch.Generator().manual_seed(0))
        >>> loss = model(scenes.known("rgb0", "rgb1"), scored=["rgb1"])
        >>> loss.backward()
        >>> model.logits(scenes.known("rgb0"), ("rgb1", torch.tensor([3, 5]))).shape
        torch.Size([8, 2, 5])
    """

    def __init__(
        self,
        vocab: PointerVocab,
        d: int = 64,
        layers: int = 3,
        heads: int = 4,
        *,
        frequencies: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(vocab, PointerVocab):
            raise TypeError(message("LRAS", "vocab", "a PointerVocab", checks.describe(vocab)))
        for name, value in (("d", d), ("layers", layers), ("heads", heads)):
            checks.integer("LRAS", name, value)
        if d % (4 * heads):
            raise ValueError(message("LRAS", "d", f"a multiple of 4 x {heads} heads", str(d)))
        number = d // heads // 4
        if frequencies is None:
            frequencies = FREQUENCIES if number == 4 else torch.logspace(0, -1.4, number).tolist()
        if len(frequencies) != number:
            got = checks.shown(tuple(frequencies))
            raise ValueError(message("LRAS", "frequencies", f"{number} numbers (head width / 4)", got))
        self.vocab = PointerVocab({name: (of.num_values, of.grid) for name, of in vocab.modalities.items()})
        self.d, self.heads = d, heads
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.tensor(frequencies, dtype=torch.float32), persistent=False)
        self.start = _small(d)
        self.values, self.own, self.next = _Embedding(), _PointerEmbedding(d), _PointerEmbedding(d)
        self.layers = nn.ModuleList(_Layer(d, heads) for _ in range(layers))
        self.norm, self.heads_of = nn.LayerNorm(d), nn.ModuleDict()
        for name, of in self.vocab.modalities.items():
            self._add(name, of.num_values, of.grid)

    def _add(self, name: str, num_values: int, grid: tuple[int, int]) -> None:
        self.values.add(name, num_values, self.d)
        self.own.add(name, grid)
        self.next.add(name, grid)
        self.heads_of["of_" + name] = nn.Linear(self.d, num_values)

    def integrate(self, name: str, num_values: int, grid: tuple[int, int]) -> list[nn.Parameter]:
        """Adds a modality in place, and returns its new parameters. Logits of the others stay as they were.

        An optimizer learns of them by ``optimizer.add_param_group({"params": model.integrate(...)})``, and keeps its
        state of the old ones.

        Args:
            name: the new modality.
            num_values: its number of values.
            grid: its rows and columns.

        Raises:
            TypeError, ValueError: the name is taken or no identifier, or a number is not positive.
        """
        old = {id(p) for p in self.parameters()}
        of = copy.deepcopy(self.vocab).grow(name, num_values, grid)
        self._add(name, of.num_values, of.grid)
        self.vocab.grow(name, num_values, grid)
        self.to(device=self.start.device, dtype=self.start.dtype)
        return [p for p in self.parameters() if id(p) not in old]

    def forward(self, known: Known, scored: Iterable[str] | None = None) -> Tensor:
        """Mean loss of a batch of sequences, in nats a value: minus the log-probability of each value given those
        before it. Only values get a loss, against the other values of their modality.

        Args:
            known: pairs in the order of the sequence, see :class:`PointerVocab`.
            scored: modalities that count, given those before them; None for all.

        Raises:
            TypeError, ValueError: known pairs are wrong, or no value is scored.
        """
        names = set(known) if scored is None else set(scored)
        for name in names:
            self.vocab.modality("LRAS", "scored", name)
        losses = self._losses(self._blocks("LRAS", known), names)
        return torch.cat(losses, 1).mean()

    def nll(self, known: Known) -> Tensor:
        """Minus the log-probability (B, L) of each value given those before it."""
        losses = self._losses(self._blocks("LRAS.nll", known), set(known))
        return torch.cat(losses, 1)

    def _losses(self, blocks: list[Block], names: set[str]) -> list[Tensor]:
        found, first = [], 0
        x = self._read(blocks)[0] if blocks else self.start
        for name, at, values in blocks:
            hidden = x[:, first : first + at.shape[1]]
            first += at.shape[1]
            if name in names:
                logits = self.heads_of["of_" + name](self.norm(hidden))
                found.append(F.cross_entropy(logits.mT, values, reduction="none"))
        if not sum(losses.numel() for losses in found):
            raise ValueError(message("LRAS", "known", "at least one value to predict", "none"))
        return found

    def logits(self, known: Known, query: Query) -> Tensor:
        """Logits (B, q, V) of the values of the query's modality at pointers that are asked independently.

        Args:
            known: known pairs in the order of the sequence, see :class:`PointerVocab`; may be empty.
            query: a modality and the pointers asked.

        Raises:
            TypeError, ValueError: an unknown modality, a pointer out of range, asked twice or known, no pointers.
        """
        blocks = self._blocks("LRAS.logits", known)
        name, at = self.vocab.asked("LRAS.logits", query, blocks)
        return Prefix(self, blocks, len(at)).logits(name, at.to(self.start.device))

    def begin(self, known: Known, rows: int) -> Prefix:
        """What is known, read once: :func:`rollout` asks it and adds to it."""
        return Prefix(self, self._blocks("LRAS.begin", known), rows)

    def sample(
        self,
        known: Known,
        query: Query,
        *,
        order: str | Tensor = "random",
        parallel_after: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws values (B, q) one by one in any order, or at once: :func:`rollout` with this model."""
        options = {"parallel_after": parallel_after, "temperature": temperature, "generator": generator}
        return rollout(self, known, query, order=order, **options)  # type: ignore[arg-type]

    def _blocks(self, op: str, known: Known) -> list[Block]:
        device = self.start.device
        return [Block(n, p.to(device), v.to(device)) for n, p, v in self.vocab.blocks(op, known)]

    def _place(self, name: str, at: Tensor) -> Tensor:
        """(B, k, 2) rows and columns."""
        columns = self.vocab[name].grid[1]
        return torch.stack([at.div(columns, rounding_mode="floor"), at % columns], -1)

    def _turns(self, place: Tensor) -> Tensor:
        return (place[..., None] * self.frequencies).flatten(-2)

    def _tokens(self, block: Block) -> tuple[Tensor, Tensor]:
        """Embeddings of pairs (B, k, d), and their places."""
        place = self._place(block.name, block.pointers)
        return self.values.look_up(block.name, block.values) + self.own(block.name, block.pointers, place), place

    def _read(self, blocks: list[Block]) -> tuple[Tensor, Cache]:
        """Last states (B, L, d), of which each predicts the value of its pair, and keys and values of all layers."""
        tokens = [self._tokens(block) for block in blocks]
        token = torch.cat([self.start.expand(len(tokens[0][0]), 1, -1), *(x for x, _ in tokens)], 1)[:, :-1]
        place = torch.cat([where for _, where in tokens], 1)
        asked = [self.next(b.name, b.pointers, where) for b, (_, where) in zip(blocks, tokens, strict=True)]
        x = token + torch.cat(asked, 1)
        turns = self._turns(place), self._turns(F.pad(place, (0, 0, 1, 0))[:, :-1])
        cache: Cache = []
        for layer in self.layers:
            x, kept = layer(x, turns, None)
            cache.append(kept)
        return x, cache


class Prefix:
    """What a model has read: keys and values of all layers, and the last pair, which waits for the next pointer."""

    def __init__(self, model: LRAS, blocks: list[Block], rows: int) -> None:
        self.model = model
        self._last: tuple[str, Tensor, Cache] | None = None
        blocks = [block for block in blocks if block.pointers.shape[1]]
        width = model.d // model.heads
        if blocks:
            cache = model._read(blocks)[1]
            token, place = model._tokens(Block(blocks[-1].name, blocks[-1].pointers[:, -1:], blocks[-1].values[:, -1:]))
        else:
            none = model.start.new_zeros(1, model.heads, 0, width)
            cache, token = [(none, none)] * len(model.layers), model.start.expand(1, 1, -1)
            place = torch.zeros(1, 1, 2, dtype=torch.long, device=token.device)
        self.cache: Cache = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in cache]
        self.token, self.place = token.expand(rows, -1, -1), place.expand(rows, -1, -1)

    def _ask(self, name: str, at: Tensor) -> tuple[Tensor, Cache]:
        model = self.model
        place = model._place(name, at)
        x = self.token + model.next(name, at, place)
        turns = model._turns(place), model._turns(self.place.expand(-1, at.shape[1], -1))
        kept: Cache = []
        for layer, prefix in zip(model.layers, self.cache, strict=True):
            x, own = layer(x, turns, prefix)
            kept.append(own)
        return x, kept

    def logits(self, name: str, pointers: Tensor) -> Tensor:
        """Logits (B, q, V) of pointers that are asked independently."""
        x, kept = self._ask(name, pointers)
        self._last = (name, pointers, kept) if pointers.shape[1] == 1 else None
        return self.model.heads_of["of_" + name](self.model.norm(x))

    def append(self, name: str, pointers: Tensor, values: Tensor) -> None:
        """Adds one pair to each row (B, 1). Keys and values are those of the question, if it was the last one."""
        last = self._last
        same = last is not None and last[0] == name and torch.equal(last[1], pointers)
        kept = last[2] if last is not None and same else self._ask(name, pointers)[1]
        joined = zip(self.cache, kept, strict=True)
        self.cache = [(torch.cat([k, a], 2), torch.cat([v, b], 2)) for (k, v), (a, b) in joined]
        self.token, self.place = self.model._tokens(Block(name, pointers, values))
        self._last = None
