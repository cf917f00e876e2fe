"""Inv-Entropy of strings: plain and async functions, equal texts, determinism, other libraries' objects, bad input."""

from __future__ import annotations

import asyncio
import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.uncertainty import (
    InvEntropy,
    as_llm,
    blackbox_uncertainty,
    inv_entropy,
    responses_of,
    similarity_matrix,
)
from torch import Tensor

QUESTION = "Who wrote Faust?"
OTHERS = ["Faust was written by whom?", "Name the author of Faust.", "Faust: its author?"]
ANSWERS = [["Goethe", "Goethe"], ["Goethe", "Marlowe"], ["Mann", "Goethe"], ["Marlowe", "Goethe"]]


def embed(texts: list[str]) -> Tensor:
    rows = [[1.0] + [float(text.lower().count(c)) for c in "aeghmnotuw?"] for text in texts]
    return torch.tensor(rows, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Llm:
    """Answers each version in turn, and counts the calls that run at the same time."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running = self.most = 0

    def __call__(self, text: str) -> str:
        self.asked.append(text)
        return ANSWERS[[QUESTION, *OTHERS].index(text)][self.asked.count(text) - 1]

    async def wait(self, text: str) -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        reply = self(text)
        await asyncio.sleep(0.002 * (len(text) % 3))  # they do not end in order
        self.running -= 1
        return reply


async def later(texts: list[str]) -> Tensor:
    await asyncio.sleep(0)
    return embed(texts)


def test_score_is_that_of_the_matrices() -> None:
    found = InvEntropy(embed, bootstraps=7, generator=seeded()).from_responses([QUESTION, *OTHERS], ANSWERS)
    sx = similarity_matrix(embed([QUESTION, *OTHERS]))
    rows = torch.arange(4) * 2 + found.picks
    sy = similarity_matrix(embed([text for row in ANSWERS for text in row]))
    draws = torch.stack([inv_entropy(sx, sy[row][:, row]) for row in rows])
    torch.testing.assert_close(found.draws(), draws)
    assert found.value == pytest.approx(draws.mean().item())
    low, high = found.interval(0.5)
    assert [low, high] == pytest.approx(np.quantile(draws.numpy(), [0.25, 0.75]))
    assert found.interval(1.0) == pytest.approx((draws.min().item(), draws.max().item()))
    first = torch.tensor([0, 2, 4, 6])
    assert found.of("nr") == pytest.approx(inv_entropy(sx, sy[first][:, first]).item())
    assert found.of("ni") == pytest.approx(
        torch.stack([inv_entropy(sx, sy[row][:, row], "ni") for row in rows]).mean().item()
    )
    assert found.blackbox("eigv", all_versions=True) == pytest.approx(blackbox_uncertainty(sy, "eigv").item())
    assert found.blackbox() == 0  # both replies to the original are equal
    assert found.questions == [QUESTION, *OTHERS] and found.answers == ANSWERS


def test_plain_and_async_functions_give_the_same() -> None:
    expected = InvEntropy(embed, generator=seeded()).score(Llm(), QUESTION, OTHERS, 2)
    assert expected.answers == ANSWERS

    async def reworded(question: str) -> list[str]:
        return OTHERS

    for llm, perturb, embedder in (
        (Llm().wait, OTHERS, embed),
        (Llm().wait, reworded, later),
        (Llm(), lambda question: OTHERS, later),
        (functools.partial(Llm().wait), tuple(OTHERS), embed),
    ):
        found = InvEntropy(embedder, generator=seeded()).score(llm, QUESTION, perturb, 2)
        assert found.answers == ANSWERS and found.value == expected.value


def test_inside_a_running_event_loop() -> None:
    async def notebook() -> None:
        method = InvEntropy(later, concurrency=3)
        llm = Llm()
        found = await method.ascore(llm.wait, QUESTION, OTHERS, 2)
        assert found.answers == ANSWERS and llm.most == 3 and llm.running == 0
        assert (await method.afrom_responses([QUESTION, *OTHERS], ANSWERS)).answers == ANSWERS
        hidden = Llm()
        assert (await method.ascore(lambda text: hidden.wait(text), QUESTION, OTHERS, 2)).answers == ANSWERS
        assert InvEntropy(embed).score(Llm(), QUESTION, OTHERS, 2).answers == ANSWERS  # nothing waits
        with pytest.raises(RuntimeError, match=r"InvEntropy.score: .*Hint: await ascore\(...\) instead"):
            method.score(llm.wait, QUESTION, OTHERS, 2)
        with pytest.raises(RuntimeError, match=r"await afrom_responses\(...\) instead"):
            method.from_responses([QUESTION, *OTHERS], ANSWERS)

    asyncio.run(notebook())


def test_a_plain_function_may_start_event_loops() -> None:
    llm = Llm()
    assert InvEntropy(embed).score(lambda text: asyncio.run(llm.wait(text)), QUESTION, OTHERS, 2).answers == ANSWERS


def test_hidden_coroutines_are_named() -> None:
    llm = Llm()
    with pytest.raises(TypeError, match=r"'llm': expected a function that returns its result, got a coroutine.*async"):
        InvEntropy(embed).score(lambda text: llm.wait(text), QUESTION, OTHERS)


def test_errors_of_functions_pass_and_end_other_calls() -> None:
    def broken(text: str) -> str:
        raise ConnectionError("no quota")

    with pytest.raises(ConnectionError, match="no quota"):
        InvEntropy(embed).score(broken, QUESTION, OTHERS)
    canceled = []

    async def breaks(text: str) -> str:
        if text == OTHERS[0]:
            raise ConnectionError("no quota")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            canceled.append(text)
            raise
        return text

    with pytest.raises(ConnectionError, match="no quota"):
        InvEntropy(embed).score(breaks, QUESTION, OTHERS, 1)
    assert sorted(canceled) == sorted([QUESTION, *OTHERS[1:]])


def test_equal_texts_are_handed_over_once() -> None:
    seen: list[list[str]] = []

    def counting(texts: list[str]) -> Any:
        seen.append(texts)
        return embed(texts).numpy()  # an array will do

    found = InvEntropy(counting).from_responses([QUESTION, *OTHERS], ANSWERS)
    assert seen == [[QUESTION, *OTHERS], ["Goethe", "Marlowe", "Mann"]]
    assert found.sy.shape == (8, 8) and found.sy[0, 1] == 1


def test_similarity_of_texts() -> None:
    def same(texts: list[str]) -> Tensor:
        return 0.5 + 0.5 * torch.eye(len(texts))

    found = InvEntropy(similarity=same).from_responses([QUESTION, QUESTION, OTHERS[0]], [["ja"], ["ja"], ["ja"]])
    assert found.sx.tolist() == [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]]
    assert found.sy.tolist() == [[1] * 3] * 3
    with pytest.raises(ValueError, match="'similarity': expected symmetric matrices"):
        InvEntropy(similarity=lambda texts: torch.ones(len(texts), len(texts)).tril() + 1).from_responses(
            [QUESTION, *OTHERS], ANSWERS
        )
    with pytest.raises(ValueError, match="'similarity': expected square matrices"):
        InvEntropy(similarity=lambda texts: torch.ones(len(texts), 2)).from_responses([QUESTION, *OTHERS], ANSWERS)


def test_generator_makes_the_draws() -> None:
    draws = [InvEntropy(embed, generator=seeded(s)).from_responses([QUESTION, *OTHERS], ANSWERS) for s in (0, 0, 1)]
    assert torch.equal(draws[0].picks, draws[1].picks) and not torch.equal(draws[0].picks, draws[2].picks)
    torch.manual_seed(3)
    one = InvEntropy(embed).from_responses([QUESTION, *OTHERS], ANSWERS)
    torch.manual_seed(3)
    assert torch.equal(one.picks, InvEntropy(embed).from_responses([QUESTION, *OTHERS], ANSWERS).picks)


def test_one_reply_and_unicode() -> None:
    found = InvEntropy(lambda texts: embed(texts) + 1, bootstraps=1000).score(
        lambda text: text[::-1], "質問は?", ["😀 e\u0301", "é"], replications=1
    )
    assert found.interval()[0] == pytest.approx(found.interval()[1], abs=1e-14)
    assert found.answers[1] == ["\u0301e 😀"]


def test_models_of_other_libraries() -> None:
    class Polygraph:
        def generate_texts(self, input_texts: list[str], **options: Any) -> list[str]:
            return [f"{text} {options}" for text in input_texts]

    class Chat:
        async def ainvoke(self, prompt: str) -> Any:
            return SimpleNamespace(content=f"reply to {prompt}")

    class Plain:
        def invoke(self, prompt: str) -> str:
            return prompt.upper()

    assert as_llm(Polygraph(), temperature=1)("a") == "a {'temperature': 1}"
    assert as_llm(Plain())("a") == "A"
    assert as_llm(str.title)("a b") == "A B"
    found = InvEntropy(embed).score(as_llm(Chat()), QUESTION, OTHERS, 1)
    assert found.answers[0] == [f"reply to {QUESTION}"]
    with pytest.raises(TypeError, match="as_llm: argument 'model': expected a model with generate_texts, ainvoke"):
        as_llm(3)


def test_results_of_other_libraries() -> None:
    uqlm = SimpleNamespace(data={"prompts": ["a", "b"], "responses": ["1", "2"], "sampled_responses": [["3"], ["4"]]})
    assert responses_of(uqlm) == (["a", "b"], [["1", "3"], ["2", "4"]])
    statistics = {"input_texts": np.array(["a", "b"]), "sample_texts": [["1"], ["2"]], "other": 3}
    assert responses_of(statistics) == (["a", "b"], [["1"], ["2"]])
    with pytest.raises(TypeError, match=r"'result': expected prompts and sampled_responses.*got responses"):
        responses_of({"responses": []})


def test_bad_input() -> None:
    method, ok = InvEntropy(embed), [QUESTION, *OTHERS]
    for call, kind, text in (
        (lambda: InvEntropy(), TypeError, "'embed': expected a function, got NoneType"),
        (lambda: InvEntropy(embed, "cos"), ValueError, "'similarity': expected one of 'cos01', 'abscos'"),
        (lambda: InvEntropy(embed, embed), ValueError, "'embed': expected None"),
        (lambda: InvEntropy(embed, bootstraps=0), ValueError, "'bootstraps': expected a number >= 1"),
        (lambda: InvEntropy(embed, concurrency=1.5), TypeError, "'concurrency': expected a whole number"),
        (lambda: method.from_responses(QUESTION, ANSWERS), TypeError, "'questions': expected a list of texts, got str"),
        (lambda: method.from_responses([], []), ValueError, "'questions': expected at least 2 texts, got 0"),
        (lambda: method.from_responses([QUESTION], [["a"]]), ValueError, "at least 2 texts, got 1"),
        (lambda: method.from_responses(ok, ANSWERS[:3]), ValueError, "'answers': expected 4 lists.*got 3"),
        (lambda: method.from_responses(ok, "abcd"), TypeError, "'answers': expected a list of texts for each"),
        (lambda: method.from_responses(ok, list("abcd")), TypeError, r"'answers\[0\]': expected a list of texts"),
        (lambda: method.from_responses(ok, [[], [], [], []]), ValueError, r"'answers\[0\]': expected at least 1"),
        (lambda: method.from_responses(ok, [*ANSWERS[:3], ["a"]]), ValueError, r"2 replies .*got 1 in answers\[3\]"),
        (lambda: method.from_responses(ok, [["a"], [None], ["b"], ["c"]]), TypeError, r"'answers\[1\]\[0\]'.*NoneType"),
        (lambda: method.score("gpt", QUESTION, OTHERS), TypeError, "'llm': expected a function, got str"),
        (lambda: method.score(len, QUESTION, OTHERS), TypeError, r"'llm\[0\]': expected a text, got int.*as_llm"),
        (lambda: method.score(str, 3, OTHERS), TypeError, r"'question\[0\]': expected a text, got int"),
        (lambda: method.score(str, QUESTION, []), ValueError, "'perturb': expected at least 1 texts, got 0"),
        (lambda: method.score(str, QUESTION, "abc"), TypeError, "'perturb': expected a list of texts"),
        (lambda: method.score(str, QUESTION, OTHERS, 0), ValueError, "'replications': expected a number >= 1"),
        (
            lambda: InvEntropy(lambda texts: torch.ones(2, 2)).score(str, QUESTION, OTHERS),
            ValueError,
            r"InvEntropy.score: argument 'embed': expected 4 rows, one for each text, got shape \(2, 2\)",
        ),
        (lambda: InvEntropy(lambda texts: texts).score(str, QUESTION, OTHERS), TypeError, "'embed': expected a float"),
        (lambda: InvEntropy(lambda texts: None).score(str, QUESTION, OTHERS), TypeError, "'embed': .*got NoneType"),
        (lambda: method.from_responses(ok, ANSWERS).of("wasserstein"), ValueError, "'measure': expected one of"),
        (lambda: method.from_responses(ok, ANSWERS).interval(0), ValueError, "'level': expected a number in"),
    ):
        with pytest.raises(kind, match=text):
            call()  # type: ignore[no-untyped-call]
    nan = InvEntropy(lambda texts: embed(texts) * math.nan)
    with pytest.raises(ValueError, match=r"'embed.*': expected finite numbers, got nan at \[0, 0\]"):
        nan.score(str, QUESTION, OTHERS)
