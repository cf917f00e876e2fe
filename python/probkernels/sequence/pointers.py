"""Pointers and values: what a random-access sequence model knows, what it is asked, and ids of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

Known = Mapping[str, tuple[Tensor, Tensor]]  # modality: its known pointers and their values
Query = tuple[str, Tensor]  # modality, and the pointers that are asked
PAIR = "a pair of a modality's name and pointers"


class Modality(NamedTuple):
    """A modality's number of values, its grid of pointers, and where its ids begin."""

    num_values: int
    grid: tuple[int, int]
    first_value: int
    first_pointer: int

    @property
    def num_pointers(self) -> int:
        """Places of the grid."""
        return self.grid[0] * self.grid[1]


class Block(NamedTuple):
    """Known pairs of one modality: pointers and values (B, k)."""

    name: str
    pointers: Tensor
    values: Tensor


class PointerSequence(NamedTuple):
    """A sequence of merged tokens, all (B, L) ids of a :class:`PointerVocab`.

    Step t holds the value and pointer of the previous pair and the pointer of the next one, and predicts its value.
    The first step holds the id 0 of the start.
    """

    content: Tensor
    pointer: Tensor
    next_pointer: Tensor
    target: Tensor


class PointerVocab:
    """The modalities of a random-access sequence model, with disjoint ranges of ids for their values and pointers.

    A modality is a grid of places. A *pointer* is a place's number, row by row; at each place is one *value*. Known
    pairs are given as ``{name: (pointers, values)}``, integer tensors (k,) or (B, k), where k may be 0. A question is
    ``(name, pointers)`` with pointers (q,) or (B, q). Pairs form a sequence in the order given. From Kotar et al.,
    *World Modeling with Probabilistic Structure Integration*, 2025, https://arxiv.org/abs/2509.09737.

    Args:
        modalities: ``{name: (number of values, (rows, columns))}``. Names are Python identifiers.

    Raises:
        TypeError, ValueError: no modality, a name is no identifier, or a number is not positive.

    Example:
        >>> import torch
        >>> from probkernels.sequence import PointerVocab
        >>> vocab = PointerVocab({"rgb": (8, (2, 2)), "flow": (9, (2, 2))})
        >>> vocab.size  # the start, 8 values and 4 pointers, 9 values and 4 pointers
        26
        >>> sequence = vocab.pack({"rgb": (torch.tensor([3, 0]), torch.tensor([7, 5]))})
        >>> sequence.content, sequence.pointer, sequence.next_pointer
        (tensor([[0, 8]]), tensor([[ 0, 12]]), tensor([[12,  9]]))
        >>> vocab.unpack(sequence)
        {'rgb': (tensor([[3, 0]]), tensor([[7, 5]]))}
    """

    def __init__(self, modalities: Mapping[str, tuple[int, tuple[int, int]]]) -> None:
        if not isinstance(modalities, Mapping):
            expected = "a mapping from names to (number of values, (rows, columns))"
            raise TypeError(message("PointerVocab", "modalities", expected, checks.describe(modalities)))
        if not modalities:
            raise ValueError(message("PointerVocab", "modalities", "at least one modality", "none"))
        self.modalities: dict[str, Modality] = {}
        self.size = 1  # id 0: the start
        for name, given in modalities.items():
            if not isinstance(given, tuple) or len(given) != 2:
                expected = f"(number of values, (rows, columns)) for '{name}'"
                raise TypeError(message("PointerVocab", "modalities", expected, checks.describe(given)))
            self.grow(name, *given)

    def __repr__(self) -> str:
        """The call that makes an equal object."""
        return f"PointerVocab({ {name: (of.num_values, of.grid) for name, of in self.modalities.items()} })"

    def __contains__(self, name: object) -> bool:
        """Whether there is such a modality."""
        return name in self.modalities

    def __getitem__(self, name: str) -> Modality:
        """The modality of that name."""
        return self.modality("PointerVocab", "name", name)

    def modality(self, op: str, argument: str, name: object) -> Modality:
        """The modality of that name, or an error of ``op`` that lists those there are."""
        if not isinstance(name, str) or name not in self.modalities:
            expected = "a modality of the vocabulary (" + ", ".join(self.modalities) + ")"
            raise ValueError(message(op, argument, expected, checks.shown(name), checks.nearest(name, self.modalities)))
        return self.modalities[name]

    def grow(self, name: str, num_values: int, grid: tuple[int, int]) -> Modality:
        """Adds a modality after all others, in place; their ids stay.

        Raises:
            TypeError, ValueError: the name is taken or no identifier, or a number is not positive.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(message("PointerVocab", "name", "a Python identifier", checks.shown(name)))
        if name in self.modalities:
            raise ValueError(message("PointerVocab", "name", "a new modality", f"'{name}', which exists"))
        checks.integer("PointerVocab", "num_values", num_values)
        if not isinstance(grid, tuple) or len(grid) != 2:
            raise TypeError(message("PointerVocab", "grid", "(rows, columns)", checks.describe(grid)))
        for side in grid:
            checks.integer("PointerVocab", "grid", side, wanted="positive numbers of rows and columns")
        added = Modality(num_values, grid, self.size, self.size + num_values)
        self.modalities[name] = added
        self.size += num_values + added.num_pointers
        return added

    def all_pointers(self, name: str) -> Tensor:
        """All pointers of a modality (P,)."""
        return torch.arange(self[name].num_pointers)

    def pack(self, known: Known) -> PointerSequence:
        """The sequence of known pairs, in the order given.

        Raises:
            TypeError, ValueError: an unknown modality, a pointer twice, a number out of range, nothing known, or
                unequal numbers of rows.
        """
        blocks = self.blocks("PointerVocab.pack", known)
        if not sum(block.pointers.shape[1] for block in blocks):
            raise ValueError(message("PointerVocab.pack", "known", "at least one known pair", "none"))
        at = torch.cat([block.pointers + self[block.name].first_pointer for block in blocks], 1)
        value = torch.cat([block.values + self[block.name].first_value for block in blocks], 1)
        start = at.new_zeros(len(at), 1)
        return PointerSequence(torch.cat([start, value[:, :-1]], 1), torch.cat([start, at[:, :-1]], 1), at, value)

    def unpack(self, sequence: PointerSequence) -> dict[str, tuple[Tensor, Tensor]]:
        """The known pairs of a sequence. At a step, the pointers of all rows must belong to one modality.

        Raises:
            ValueError: they do not, a value is not of its pointer's modality, or an id is none of the vocabulary.
        """
        at, value = sequence.next_pointer, sequence.target
        found: dict[str, tuple[Tensor, Tensor]] = {}
        left = torch.ones_like(at, dtype=torch.bool)
        for name, of in self.modalities.items():
            inside = (at >= of.first_pointer) & (at < of.first_pointer + of.num_pointers)
            columns = inside.all(0)
            right = (value >= of.first_value) & (value < of.first_value + of.num_values)
            if not bool((inside == columns).all()) or not bool((right | ~inside).all()):
                expected = "at each step pointers and values of one modality"
                raise ValueError(message("PointerVocab.unpack", "sequence", expected, f"others next to '{name}'"))
            left &= ~inside
            if bool(columns.any()):
                found[name] = (at[:, columns] - of.first_pointer, value[:, columns] - of.first_value)
        if bool(left.any()):
            got = "id " + checks.offender(at, left)
            raise ValueError(message("PointerVocab.unpack", "sequence", "ids of pointers", got))
        return found

    def blocks(self, op: str, known: Known) -> list[Block]:
        """Known pairs, checked, with equal numbers of rows. ``op`` names the caller in errors."""
        if not isinstance(known, Mapping):
            expected = "a mapping from modalities to pairs (pointers, values)"
            raise TypeError(message(op, "known", expected, checks.describe(known)))
        found = [self._block(op, name, pair) for name, pair in known.items()]
        rows = {len(block.pointers) for block in found} - {1}
        if len(rows) > 1:
            got = ", ".join(f"{len(block.pointers)} of '{block.name}'" for block in found)
            raise ValueError(message(op, "known", "equal numbers of rows, or 1", got))
        size = (max(rows or {1}), -1)
        return [Block(name, at.expand(size), value.expand(size)) for name, at, value in found]

    def _block(self, op: str, name: str, pair: tuple[Tensor, Tensor]) -> Block:
        of = self.modality(op, "known", name)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(message(op, f"known['{name}']", "a pair (pointers, values)", checks.describe(pair)))
        at = _pointers(op, f"known['{name}'][0]", pair[0], of)
        value = _rows(op, f"known['{name}'][1]", pair[1])
        if value.shape[1] != at.shape[1] or (len(value) != len(at) and 1 not in (len(value), len(at))):
            expected = f"shape {tuple(pair[0].shape)} (that of the pointers)"
            raise ValueError(message(op, f"known['{name}'][1]", expected, f"shape {tuple(pair[1].shape)}"))
        _in_range(op, f"known['{name}'][1]", value, of.num_values, "values")
        at, value = torch.broadcast_tensors(at, value)
        return Block(name, at, value)

    def asked(self, op: str, query: Query, blocks: list[Block]) -> tuple[str, Tensor]:
        """A question, checked: its modality and pointers (B, q), as many rows as the known pairs have, or more where
        those have one. No pointer may be asked twice, or be known."""
        if not isinstance(query, tuple) or len(query) != 2:
            raise TypeError(message(op, "query", PAIR, checks.describe(query)))
        of = self.modality(op, "query", query[0])
        at = _pointers(op, "query", query[1], of)
        if not at.shape[1]:
            raise ValueError(message(op, "query", "at least one pointer", f"shape {tuple(query[1].shape)}"))
        for block in blocks:
            rows = len(block.pointers)
            if len(at) not in (1, rows) and rows != 1:
                expected = f"pointers for {rows} rows, as many as are known, or one row"
                raise ValueError(message(op, "query", expected, f"shape {tuple(query[1].shape)}"))
            at = at.expand(max(rows, len(at)), -1)
            if block.name == query[0]:
                given = _seen(block.pointers, of.num_pointers).expand(len(at), -1)
                twice = given.gather(1, at)
                if bool(twice.any()):
                    got = "pointer " + checks.offender(at, twice)
                    raise ValueError(message(op, "query", f"pointers of '{query[0]}' that are not known", got))
        return query[0], at


def _rows(op: str, name: str, value: Tensor) -> Tensor:
    checks.integer_tensor(op, name, value)
    if value.ndim not in (1, 2) or (value.ndim == 2 and not len(value)):
        raise ValueError(message(op, name, "shape (k,) or (B, k), B >= 1", f"shape {tuple(value.shape)}"))
    return value.long() if value.ndim == 2 else value.long()[None]


def _in_range(op: str, name: str, value: Tensor, most: int, what: str) -> None:
    wrong = (value < 0) | (value >= most)
    if bool(wrong.any()):
        raise ValueError(message(op, name, f"{what} from 0 to {most - 1}", checks.offender(value, wrong)))


def _seen(pointers: Tensor, number: int) -> Tensor:
    """(B, P) bool: the pointers that occur."""
    seen = torch.zeros(len(pointers), number, dtype=torch.bool, device=pointers.device)
    return seen.scatter_(1, pointers, True)


def _pointers(op: str, name: str, value: Tensor, of: Modality) -> Tensor:
    """Pointers (B, k), of which none stands twice in a row."""
    at = _rows(op, name, value)
    _in_range(op, name, at, of.num_pointers, "pointers")
    ordered, order = at.sort(dim=1, stable=True)
    again = torch.zeros_like(at, dtype=torch.bool)
    again.scatter_(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
    if bool(again.any()):
        raise ValueError(message(op, name, "each pointer once", "again " + checks.offender(at, again)))
    return at


def unknown_pointers(known: list[Block], name: str, number: int) -> Tensor:
    """(B, q) pointers of a modality that are not known, in order."""
    for block in known:
        if block.name == name:
            left = ~_seen(block.pointers, number)
            return left.nonzero()[:, 1].reshape(len(left), -1)
    rows = len(known[0].pointers) if known else 1
    return torch.arange(number, device=known[0].pointers.device if known else None).expand(rows, -1)


def with_pairs(known: Known, name: str, pointers: Tensor, values: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Known pairs, all (B, k), with more of one modality after those it has. A new modality comes last."""
    found = dict(known)
    if name in found:
        old = found[name]
        pointers, values = torch.cat([old[0], pointers], 1), torch.cat([old[1], values], 1)
    found[name] = (pointers, values)
    return found


def repeated(blocks: list[Block], times: int = 1) -> dict[str, tuple[Tensor, Tensor]]:
    """Known pairs of which each row stands ``times`` times in succession."""
    return {name: (at.repeat_interleave(times, 0), value.repeat_interleave(times, 0)) for name, at, value in blocks}


def replaced(known: Known, name: str, pointers: Tensor, values: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Known pairs with other values at some pointers: what :func:`kl_trace` compares with.

    Args:
        known: known pairs, see :class:`PointerVocab`.
        name: modality.
        pointers: known pointers (k,) or (B, k), all of which get a new value.
        values: new values (k,) or (B, k).

    Raises:
        TypeError, ValueError: a pointer is not known, or a shape or dtype is wrong.

    Example:
        >>> import torch
        >>> from probkernels.sequence import replaced
        >>> known = {"rgb": (torch.tensor([4, 2]), torch.tensor([7, 7]))}
        >>> replaced(known, "rgb", torch.tensor([2]), torch.tensor([5]))
        {'rgb': (tensor([[4, 2]]), tensor([[7, 5]]))}
    """
    if name not in known:
        expected = "a modality that is known (" + ", ".join(known) + ")"
        raise ValueError(message("replaced", "name", expected, checks.shown(name), checks.nearest(name, known)))
    at, new = _rows("replaced", "pointers", pointers), _rows("replaced", "values", values)
    old_at, old = (_rows("replaced", f"known['{name}']", part) for part in known[name])
    try:
        at, new = torch.broadcast_tensors(at, new)
        rows = torch.broadcast_shapes(at.shape[:1], old_at.shape[:1], old.shape[:1])
    except RuntimeError:
        expected, got = "shapes that agree with those of the pointers", checks.describe(values)
        raise ValueError(message("replaced", "values", expected, got)) from None
    here = at[:, :, None] == old_at[:, None, :]  # (B, k, known)
    if not bool(here.any(2).all()):
        got = "pointer " + checks.offender(at.expand(here.shape[:2]), ~here.any(2))
        raise ValueError(message("replaced", "pointers", f"known pointers of '{name}'", got))
    change = here.any(1)
    picked = torch.where(here, new[:, :, None], 0).sum(1)
    size = (*rows, old.shape[1])
    return {**known, name: (old_at.expand(size), torch.where(change, picked, old).expand(size))}
