"""GAAP: perturbs a text by a genetic algorithm over substitutes of its key words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .._core import checks
from .._core.errors import message
from ._calls import Calls, callable_of, finish, texts_of
from .responses import TextSimilarity

WORD = re.compile(r"^(\W*)(.*?)(\W*)$", re.S)  # a word between punctuation
Tokens = tuple[str, ...]


class _Sources(NamedTuple):
    """What may stand in place of a token, and the tokens to replace."""

    substitutes: Callable[[str], list[str]]
    keys: frozenset[str]


class GAAP:
    """Perturbs a text: a function from a question to a fixed number of versions of it, for :meth:`InvEntropy.score`.

    A genetic algorithm (Song et al., NeurIPS 2025). It starts from all texts with one key word replaced or deleted.
    Each generation draws parents by their similarity to the original, joins the head of one to the tail of another, and
    replaces one more word of each child. Versions are drawn from all generations, so that some are close to the
    original and some are far.

    The paper gives neither the share of key words nor the sizes of generations: the defaults are ours. Its key words
    are KeyBERT's; ours are those without which the text is least similar to the original.

    Args:
        substitutes: gets a word, without punctuation and in its own case, and returns words to put in its place, such
            as synonyms, hypernyms and hyponyms. May return none.
        embed: gets a list of texts and returns their embeddings, as for :class:`InvEntropy`.
        similarity: "cos01", "abscos", or a function of texts, as for :class:`InvEntropy`.
        count: number of versions. If there are fewer, some are repeated, so that scores of all questions compare.
        share: share of the words that are key words, in (0, 1]; at least one is.
        parents: number of parents, and of children, in a generation.
        generations: number of generations after the first, at most.
        every: versions are drawn from each ``every``-th generation.
        least_similarity: ends when no text of a generation is as similar to the original as this.
        delete: whether a word may be left out too.
        split: makes words of a text. The default splits at white space.
        join: makes a text of words. The default puts spaces between them.
        generator: source of the random numbers; None takes torch's own.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import GAAP
        >>> words = {"capital": ["seat", "metropolis"], "name": ["state", "tell"]}
        >>> def embed(texts):
        ...     return torch.tensor([[1.0] + [float(text.lower().count(c)) for c in "aeiouclnt"] for text in texts])
        >>> gaap = GAAP(lambda word: words.get(word.lower(), []), embed, share=1.0, count=5, delete=False)
        >>> versions = gaap("Name the capital of France.")
        >>> len(versions), all(text.endswith(" of France.") for text in versions)
        (5, True)
        >>> "State the capital of France." in gaap.populations("Name the capital of France.")[0]
        True
    """

    def __init__(
        self,
        substitutes: Callable[[str], Sequence[str]],
        embed: Callable[[list[str]], Any] | None = None,
        similarity: str | Callable[[list[str]], Any] = "cos01",
        *,
        count: int = 9,
        share: float = 0.5,
        parents: int = 20,
        generations: int = 4,
        every: int = 1,
        least_similarity: float = 0.7,
        delete: bool = True,
        split: Callable[[str], Sequence[str]] = str.split,
        join: Callable[[Sequence[str]], str] = " ".join,
        generator: torch.Generator | None = None,
    ) -> None:
        self.substitutes = callable_of("GAAP", "substitutes", substitutes)
        self.similarity = TextSimilarity("GAAP", embed, similarity)
        self.count = checks.integer("GAAP", "count", count)
        checks.positive_fraction("GAAP", "share", share)
        self.share, self.delete = share, delete
        self.parents = checks.integer("GAAP", "parents", parents, 2)
        self.generations = checks.integer("GAAP", "generations", generations, 0)
        self.every = checks.integer("GAAP", "every", every)
        self.least_similarity = checks.number("GAAP", "least_similarity", least_similarity)
        self.split, self.join = callable_of("GAAP", "split", split), callable_of("GAAP", "join", join)
        self.generator = generator

    def __call__(self, text: str) -> list[str]:
        """:meth:`perturb`."""
        return self.perturb(text)

    def perturb(self, text: str) -> list[str]:
        """``count`` versions of a text, none of them the text itself.

        Raises:
            TypeError: a function returned something of another kind.
            ValueError: no word of the text can be replaced or deleted.
            RuntimeError: an async ``embed`` in a running event loop: hand :meth:`aperturb` to ``InvEntropy`` there.
        """
        op, draw = "GAAP.perturb", self._random()
        found = finish(op, [self.similarity.function], lambda waits: self._evolve(op, waits, text, draw))
        return self._choose(found, draw)

    async def aperturb(self, text: str) -> list[str]:
        """:meth:`perturb` inside a running event loop."""
        draw = self._random()
        return self._choose(await self._evolve("GAAP.aperturb", True, text, draw), draw)

    def populations(self, text: str) -> list[list[str]]:
        """All generations: the texts with one word replaced, and each generation of the algorithm after them."""
        op, functions = "GAAP.populations", [self.similarity.function]
        return finish(op, functions, lambda waits: self._evolve(op, waits, text, self._random()))

    def _random(self) -> random.Random:
        device = "cpu" if self.generator is None else self.generator.device
        return random.Random(int(torch.randint(2**62, (), generator=self.generator, device=device)))

    def _choose(self, levels: list[list[str]], draw: random.Random) -> list[str]:
        pool = list(dict.fromkeys(other for level in levels[:: self.every] for other in level))
        repeated = draw.choices(pool, k=max(self.count - len(pool), 0))
        return draw.sample([*pool, *repeated], self.count)

    async def _evolve(self, op: str, waits: bool, text: str, draw: random.Random) -> list[list[str]]:
        calls = Calls(op, 1, waits)
        texts_of(op, "text", [text])
        words = tuple(texts_of(op, "split", self.split(text)))
        seen: dict[str, list[str]] = {}

        def substitutes(word: str) -> list[str]:
            if word not in seen:
                seen[word] = _in_place_of(op, word, self.substitutes, self.delete)
            return seen[word]

        replaceable = [n for n, word in enumerate(words) if substitutes(word)]
        keys = await self._keys(calls, text, words, replaceable)
        sources = _Sources(substitutes, frozenset(words[n] for n in keys))
        known = {text: words}

        def kept(candidates: Sequence[Tokens]) -> list[str]:
            """Texts of word sequences, without repetitions, empty ones and the original."""
            joined = {self.join(part): part for part in candidates if part}
            texts_of(op, "join", list(joined), 0)
            known.update((other, part) for other, part in joined.items() if other not in known)
            return [other for other in joined if other != text and other.strip()]

        level = kept([_replaced(words, n, new) for n in keys for new in substitutes(words[n])])
        if not level:
            hint = "substitutes(word) returned nothing for any word, or the only word would be deleted"
            raise ValueError(message(op, "text", "a word that can be replaced", repr(text), hint))
        levels = [level]
        for _ in range(self.generations):
            weights = await self._likeness(calls, text, level)
            if max(weights) < self.least_similarity:
                break
            parents = _roulette(level, weights, self.parents, draw)
            children = _crossed([known[parent] for parent in parents], self.parents, draw)
            mutants = [_mutated(child, sources, draw) for child in children]
            level = list(dict.fromkeys([*parents, *kept([*children, *mutants])]))
            levels.append(level)
        return levels

    async def _keys(self, calls: Calls, text: str, words: Tokens, places: list[int]) -> list[int]:
        """The places of key words among ``places``: without them, the text is least like the original."""
        most = max(int(self.share * len(words)), 1)
        if len(places) <= most:
            return places
        without = [self.join(_replaced(words, n, "")) for n in places]
        likeness = await self._likeness(calls, text, without)
        order = sorted(range(len(places)), key=lambda n: likeness[n])
        return sorted(places[n] for n in order[:most])

    async def _likeness(self, calls: Calls, text: str, others: list[str]) -> list[float]:
        """Similarities of texts to the original."""
        found: list[float] = (await self.similarity.matrix(calls, [text, *others]))[0, 1:].tolist()
        return found


def _in_place_of(op: str, word: str, substitutes: Callable[[str], Sequence[str]], delete: bool) -> list[str]:
    """What may stand in place of a word, in its case and with its punctuation; "" deletes it."""
    match = WORD.match(word)
    assert match is not None  # any text matches
    before, core, after = match.groups()
    found = texts_of(op, f"substitutes({core!r})", substitutes(core), 0) if core else []
    cased = [new[:1].upper() + new[1:] if core[:1].isupper() else new for new in found if new.strip()]
    new = list(dict.fromkeys(f"{before}{other}{after}" for other in cased if other != core))
    return [*new, ""] if delete else new


def _replaced(words: Tokens, place: int, new: str) -> Tokens:
    return (*words[:place], *((new,) if new else ()), *words[place + 1 :])


def _roulette(level: list[str], weights: list[float], count: int, draw: random.Random) -> list[str]:
    """Parents, drawn in proportion to their weights; each stands once in the result."""
    if sum(weights) <= 0:
        weights = [1.0] * len(level)
    return list(dict.fromkeys(draw.choices(level, weights, k=count)))


def _crossed(parents: list[Tokens], count: int, draw: random.Random) -> list[Tokens]:
    """The head of one parent with the tail of another, cut at the same place, and the other way around."""
    children = []
    for _ in range((count + 1) // 2 if len(parents) > 1 else 0):
        one, other = draw.sample(parents, 2)
        shorter = min(len(one), len(other))
        if shorter > 1:
            cut = draw.randint(1, shorter - 1)
            children += [one[:cut] + other[cut:], other[:cut] + one[cut:]]
    return children or list(parents)


def _mutated(child: Tokens, sources: _Sources, draw: random.Random) -> Tokens:
    """A child with one key word replaced; where none is left, another word that has substitutes."""
    places = [n for n, word in enumerate(child) if word in sources.keys]
    places = places or [n for n, word in enumerate(child) if sources.substitutes(word)]
    if not places:
        return child
    place = draw.choice(places)
    return _replaced(child, place, draw.choice(sources.substitutes(child[place])))
