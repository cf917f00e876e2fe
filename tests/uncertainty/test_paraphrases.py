"""GAAP: its first generation by hand, key words, generations, draws, punctuation and case, bad input."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from probkernels.uncertainty import GAAP, InvEntropy
from torch import Tensor

WORDS = {"big": ["large", "great"], "city": ["town"], "river": ["stream", "water", "creek"]}
TEXT = "Which big city has a river?"


def substitutes(word: str) -> list[str]:
    return WORDS.get(word.lower(), [])


def embed(texts: list[str]) -> Tensor:
    return torch.tensor([[2.0] + [float(text.lower().count(c)) for c in "abcdeghilmnorstvwy"] for text in texts])


def gaap(seed: int = 0, **options: Any) -> GAAP:
    options = {"share": 1.0, "delete": False, **options}
    return GAAP(substitutes, embed, generator=torch.Generator().manual_seed(seed), **options)


FIRST = [
    "Which large city has a river?", "Which great city has a river?", "Which big town has a river?",
    "Which big city has a stream?", "Which big city has a water?", "Which big city has a creek?",
]  # fmt: skip


def test_first_generation_replaces_one_word() -> None:
    assert gaap(generations=0).populations(TEXT) == [FIRST]
    deleted = {"Which city has a river?", "Which big has a river?", "big city has a river?", "Which big city has a"}
    more = gaap(generations=0, delete=True).populations(TEXT)[0]
    assert set(FIRST) | deleted <= set(more) and len(more) == 6 + 6


def test_later_generations_combine_words_of_substitutes() -> None:
    levels = gaap(generations=3, least_similarity=0).populations(TEXT)
    assert len(levels) == 4
    allowed = [["Which"], ["big", "large", "great"], ["city", "town"], ["has"], ["a"],
               ["river?", "stream?", "water?", "creek?"]]  # fmt: skip
    for level in levels:
        assert len(level) == len(set(level)) <= 60 and TEXT not in level
        for other in level:
            words = other.split()
            assert len(words) == 6 and all(word in part for word, part in zip(words, allowed, strict=True))

    def changes(text: str) -> int:
        return sum(a != b for a, b in zip(text.split(), TEXT.split(), strict=True))

    assert {changes(text) for text in levels[0]} == {1}
    assert max(changes(text) for text in levels[-1]) == 3


@pytest.mark.parametrize("count", [1, 6, 9, 40])
def test_always_as_many_versions(count: int) -> None:
    versions = gaap(count=count, generations=0)(TEXT)
    assert len(versions) == count and set(versions) <= set(FIRST)
    assert len(set(versions)) == min(count, 6)  # none is missing where some are repeated
    many = gaap(count=count)(TEXT)
    assert len(many) == count and TEXT not in many


def test_generator_makes_the_versions() -> None:
    assert gaap(1)(TEXT) == gaap(1)(TEXT) != gaap(2)(TEXT)
    torch.manual_seed(0)
    one = GAAP(substitutes, embed)(TEXT)
    torch.manual_seed(0)
    assert GAAP(substitutes, embed)(TEXT) == one
    again = gaap(1)
    assert again(TEXT) != again(TEXT)  # the generator goes on


def test_key_words_are_those_that_matter_most() -> None:
    def weighted(texts: list[str]) -> Tensor:
        value = {"big": 1.0, "city": 9.0, "river?": 4.0}
        return torch.tensor([[1.0] + [value[w] * (w in text.split()) for w in value] for text in texts])

    def firsts(share: float) -> set[str]:
        method = GAAP(substitutes, weighted, share=share, delete=False, generations=0)
        return set(method.populations(TEXT)[0])

    assert firsts(0.1) == {FIRST[2]}  # at least one
    assert firsts(0.34) == {FIRST[2], *FIRST[3:]}  # two of six
    assert firsts(0.5) == set(FIRST)


def test_ends_when_nothing_is_similar() -> None:
    assert len(gaap(least_similarity=1.1).populations(TEXT)) == 1
    assert len(gaap(least_similarity=0, generations=7).populations(TEXT)) == 8


def test_every_other_generation() -> None:
    levels = gaap(3, generations=3, least_similarity=0).populations(TEXT)
    drawn = set(gaap(3, generations=3, least_similarity=0, every=2, count=200)(TEXT))
    assert drawn == {*levels[0], *levels[2]}


def test_punctuation_case_and_other_scripts_stay() -> None:
    first = gaap(generations=0).populations("“River, big (city)!")[0]
    assert first[0] == "“Stream, big (city)!" and "“River, big (town)!" in first
    chinese = GAAP(
        lambda word: {"大": ["巨"]}.get(word, []), lambda texts: torch.ones(len(texts), 2), delete=False, share=1.0,
        split=list, join="".join, count=2,
    )  # fmt: skip
    assert set(chinese("大河?")) == {"巨河?"}


def test_two_words_with_deletion_leave_no_empty_text() -> None:
    versions = gaap(delete=True, generations=20, least_similarity=0, count=50)("big city")
    assert all(text.strip() for text in versions) and "" not in versions


def test_it_perturbs_for_inv_entropy() -> None:
    found = InvEntropy(embed).score(lambda text: text.split()[-1], TEXT, gaap(), 2)
    assert len(found.questions) == 10 and found.questions[0] == TEXT

    async def later(texts: list[str]) -> Tensor:
        return embed(texts)

    method = GAAP(substitutes, later, share=1.0, delete=False, generator=torch.Generator().manual_seed(1))
    assert method(TEXT) == gaap(1)(TEXT)

    async def notebook() -> list[str]:
        with pytest.raises(RuntimeError, match=r"GAAP.perturb: .*await aperturb\(...\)"):
            method(TEXT)
        return (await InvEntropy(later).ascore(str.upper, TEXT, method.aperturb, 1)).questions

    assert len(asyncio.run(notebook())) == 10


def test_bad_input() -> None:
    for call, kind, text in (
        (lambda: GAAP(None, embed), TypeError, "'substitutes': expected a function, got NoneType"),  # type: ignore[arg-type]
        (lambda: GAAP(substitutes), TypeError, "'embed': expected a function"),
        (lambda: gaap(share=0), ValueError, r"'share': expected a number in \(0, 1\]"),
        (lambda: gaap(parents=1), ValueError, "'parents': expected a number >= 2"),
        (lambda: gaap(count=0), ValueError, "'count': expected a number >= 1"),
        (lambda: gaap(generations=-1), ValueError, "'generations': expected a number >= 0"),
        (lambda: gaap(every=0), ValueError, "'every': expected a number >= 1"),
        (lambda: gaap(least_similarity=float("nan")), ValueError, "'least_similarity': expected a finite number"),
        (lambda: gaap()("Nothing here"), ValueError, "'text': expected a word that can be replaced.*'Nothing here'"),
        (lambda: gaap(delete=True)("Nothing"), ValueError, "a word that can be replaced"),
        (lambda: gaap()(""), ValueError, "GAAP.perturb: argument"),
        (lambda: gaap()(3), TypeError, r"'text\[0\]': expected a text, got int"),  # type: ignore[arg-type]
        (lambda: GAAP(lambda word: "abc", embed)(TEXT), TypeError, "substitutes.'Which'.*expected a list of texts"),
        (lambda: GAAP(lambda word: [1], embed)(TEXT), TypeError, r"substitutes.'Which'.\[0\]': expected a text"),
        (
            lambda: GAAP(substitutes, lambda t: torch.ones(1, 1), share=0.1)(TEXT),
            ValueError,
            "'embed': expected 7 rows",
        ),
    ):
        with pytest.raises(kind, match=text):
            call()  # type: ignore[no-untyped-call]
