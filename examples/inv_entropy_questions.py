"""A language model that is wrong and sure: its replies to one wording agree, but those to other wordings do not."""

from __future__ import annotations

import asyncio
import random
import zlib

import torch
from probkernels import uncertainty as un
from torch import Tensor

QUESTIONS = ("What is the capital city of France?", "Who wrote the famous tragedy about Faust?",
             "Which large bird lives on the small island?", "Which old king ruled the small island?")  # fmt: skip
KNOWN = {"France": "Paris", "Faust": "Goethe"}
GUESSES = ("The dodo.", "A heron", "Nobody knows", "It was Edward", "King Ludwig", "An eagle, I think")
SYNONYMS = [("capital", "main"), ("city", "town"), ("wrote", "composed", "penned"), ("famous", "noted", "renowned"),
            ("large", "big", "huge"), ("bird", "fowl"), ("lives", "dwells"), ("small", "little", "tiny"),
            ("island", "isle"), ("old", "aged", "ancient"), ("king", "monarch"), ("ruled", "governed")]  # fmt: skip


async def model(question: str) -> str:
    """Stands for an API: it knows two things. Otherwise its reply depends on the wording, and hardly on chance."""
    await asyncio.sleep(0.001)
    for word, answer in KNOWN.items():
        if word in question:
            return answer
    if random.random() < 0.05:
        return random.choice(GUESSES)
    return GUESSES[zlib.crc32(question.encode()) % len(GUESSES)]


def substitutes(word: str) -> list[str]:
    """Other words of the same meaning."""
    return [other for group in SYNONYMS if word in group for other in group if other != word]


def embed(texts: list[str]) -> Tensor:
    """Counts of pairs of letters; in earnest, a sentence embedding."""
    rows = torch.zeros(len(texts), 128)
    for row, text in zip(rows, texts, strict=True):
        for pair in zip(f" {text}".lower(), f"{text} ".lower(), strict=True):
            row[zlib.crc32("".join(pair).encode()) % 128] += 1
    return rows


random.seed(0)
generator = torch.Generator().manual_seed(0)
gaap = un.GAAP(substitutes, embed, delete=False, generator=generator)
method = un.InvEntropy(embed, generator=generator)
for question in QUESTIONS:
    found = method.score(model, question, gaap)
    low, high = found.interval()
    print(
        f"{question:44} Inv-Entropy {found.value:.3f} ({low:.3f} to {high:.3f})"
        f"   DegMat of one wording {found.blackbox('degmat'):.3f}"
    )
