"""The drawn language model, its questions and replies, and the questions that GAAP perturbs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

DIM, KINDS, VERSIONS, REPLIES = 24, 6, 10, 5
FIRST = ("Which", "What", "What kind of", "How old is the", "Where is the")
MIDDLE = ("big", "small", "famous", "old", "quick", "dark")
THINGS = ("city", "river", "house", "car", "king", "teacher", "battle", "song", "garden", "ship")
LAST = (
    "that people visit in summer?", "that started the war?", "near the great forest?", "that doctors often use?",
    "which the writer describes?", "that children like to buy?",
)  # fmt: skip


@dataclass(frozen=True)
class Questions:
    """What a drawn model does with Q questions.

    Attributes:
        x: (Q, 10, D) unit vectors of ten versions of each question, the original first.
        logits: (Q, 10, 6) of six answers, the first of which is right.
        answers: (Q, 6, D) unit vectors of the answers.
    """

    x: Tensor
    logits: Tensor
    answers: Tensor

    def ask(self, temperature: float, replies: int, generator: torch.Generator) -> Tensor:
        """Numbers (Q, 10, replies) of answers."""
        chances = (2 * self.logits / temperature).softmax(-1).flatten(0, 1)
        drawn = torch.multinomial(chances, replies, replacement=True, generator=generator)
        return drawn.view(*self.logits.shape[:2], replies)

    def embed(self, replies: Tensor, generator: torch.Generator) -> Tensor:
        """Unit vectors (Q, 10 r, D) of replies (Q, 10, r), no two of which are worded alike."""
        flat = replies.flatten(1)
        y = self.answers.gather(1, flat[..., None].expand(*flat.shape, DIM))
        return normalize(y + 0.25 / math.sqrt(DIM) * normal(y.shape, generator), dim=-1)


def normal(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def draw(count: int, generator: torch.Generator) -> Questions:
    """Draws questions: half of them are known, and the phrasing decides about the others."""
    base = normalize(normal((count, 1, DIM), generator), dim=-1)
    noise = 0.35 * 3 / math.sqrt(DIM) * normal((count, VERSIONS, DIM), generator)
    noise[:, 0] = 0
    phrasing = normal((count, VERSIONS, KINDS), generator)
    return _of(normalize(base + noise, dim=-1), phrasing, generator)


def of_texts(x: Tensor, generator: torch.Generator) -> Questions:
    """Questions whose versions have embeddings (Q, 10, D'): the phrasing is a random linear function of what a version
    adds to the mean of all, scaled so that its logits are as large as those of :func:`draw`."""
    change = x - x.mean(1, keepdim=True)
    scale = change.square().sum(-1).mean(1).sqrt()[:, None, None]
    phrasing = change @ normal((len(x), x.shape[-1], KINDS), generator) / scale
    return _of(x, phrasing, generator)


def _of(x: Tensor, phrasing: Tensor, generator: torch.Generator) -> Questions:
    known = (torch.rand(len(x), generator=generator) < 0.5)[:, None, None]
    logits = phrasing * torch.where(known, 0.5, 1.5)
    logits[..., :1] += 3 * known
    return Questions(x, logits, normalize(normal((len(x), KINDS, DIM), generator), dim=-1))


def texts(count: int, generator: torch.Generator) -> list[str]:
    """English questions, without a sense but with words that have synonyms."""

    def one(of: tuple[str, ...]) -> str:
        return of[int(torch.randint(len(of), (), generator=generator))]

    return [" ".join(map(one, (FIRST, MIDDLE, THINGS, LAST))) for _ in range(count)]


def synonyms(lines: str) -> Callable[[str], list[str]]:
    """The words that share a synonym set of WordNet with a word.

    Args:
        lines: each a part of speech, a tab, and words separated by spaces, with underscores for spaces in them.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines.splitlines():
        lemmas = [lemma.replace("_", " ") for lemma in line.partition("\t")[2].split()]
        for lemma in lemmas:
            found[lemma.lower()] += [other for other in lemmas if other != lemma]
    return lambda word: list(dict.fromkeys(found.get(word.lower(), ())))


def ngrams(given: list[str], size: int = 256) -> Tensor:
    """Embeddings (texts, size): counts of runs of three characters and of words, hashed."""
    rows = torch.zeros(len(given), size, dtype=torch.float64)
    for row, text in zip(rows, given, strict=True):
        padded = f" {text.lower()} "
        for part in [*(padded[n : n + 3] for n in range(len(padded) - 2)), *padded.split()]:
            place = 0
            for byte in part.encode():
                place = (place * 257 + byte) % 1_000_003
            row[place % size] += 1
    return rows
