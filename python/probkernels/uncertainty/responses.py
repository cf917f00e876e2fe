"""Inv-Entropy of strings: asks a language model through a function, and scores its replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._calls import Calls, callable_of, finish, texts_of
from ._similarity import KINDS, similarities, similarity_matrix
from .inv_entropy import MEASURES as OF_WALKS
from .inv_entropy import bootstrapped, draw_replies, walk
from .reply_similarity import blackbox_uncertainty

MEASURES = (*OF_WALKS, "nr")


@dataclass(frozen=True, eq=False)
class InvEntropyScore:
    """The score of one question, with everything it was made of.

    Attributes:
        questions: the N versions of the question, the original first.
        answers: r replies to each version.
        sx: (N, N) similarities of the questions.
        sy: (N r, N r) similarities of the replies, r in a row for each question.
        picks: (B, N) which reply each bootstrap took.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import InvEntropy
        >>> letters = lambda texts: torch.tensor([[float(text.count(c)) for c in "abcdefghijkl"] for text in texts])
        >>> found = InvEntropy(letters).from_responses(["a cab", "bad"], [["a", "a"], ["a", "b"]])
        >>> found.draws().shape, found.interval(0.9)[0] <= found.value <= found.interval(0.9)[1]
        (torch.Size([30]), True)
    """

    questions: list[str]
    answers: list[list[str]]
    sx: Tensor
    sy: Tensor
    picks: Tensor

    @property
    def value(self) -> float:
        """Inv-Entropy, the mean over bootstraps. Higher is more uncertain."""
        return self.of("inv")

    def of(self, measure: str) -> float:
        """Another measure, the mean over bootstraps: "inv", "ni", "wd", "max", or "nr", which takes first replies."""
        return self.draws(measure).mean().item()

    def draws(self, measure: str = "inv") -> Tensor:
        """The measure (B,) of every bootstrap, in float64."""
        checks.one_of("InvEntropyScore", "measure", measure, MEASURES)
        picks = torch.zeros_like(self.picks[:1]) if measure == "nr" else self.picks
        x = walk(self.sx.double())
        return bootstrapped(x, self.sy.double(), picks, len(self.answers[0]), "inv" if measure == "nr" else measure)

    def interval(self, level: float = 0.95, measure: str = "inv") -> tuple[float, float]:
        """Quantiles of the bootstraps: ``level`` of them are between the two numbers. It tells how much the choice of
        one reply for each question matters, not how far the score would be with other paraphrases."""
        checks.positive_fraction("InvEntropyScore.interval", "level", level)
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=self.sx.device)
        low, high = torch.quantile(self.draws(measure), ends).tolist()
        return low, high

    def blackbox(self, measure: str = "degmat", *, all_versions: bool = False, **options: float) -> float:
        """:func:`blackbox_uncertainty` of the replies to the original question, or to ``all_versions`` of it."""
        count = len(self.sy) if all_versions else len(self.answers[0])
        return blackbox_uncertainty(self.sy[:count, :count].double(), measure, **options).item()


class InvEntropy:
    """Scores how uncertain a black-box language model is about a question, by paraphrases of it.

    The model, the embedder and the paraphraser are functions of the caller's, plain or async; no client is in here.
    Equal texts are embedded once.

    Args:
        embed: gets a list of texts and returns their embeddings (texts, D), a tensor or an array.
        similarity: "cos01" ((1 + cos) / 2) or "abscos" (|cos|) of the embeddings; or, with ``embed=None``, a function
            that gets a list of texts and returns their similarities (texts, texts), such as the mean of both
            directions of an entailment model.
        bootstraps: number of draws of one reply for each version of the question.
        concurrency: how many calls of an async model run at the same time.
        generator: source of the random numbers; None takes torch's own.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a number out of range, an unknown ``similarity``, or an ``embed`` beside a similarity of texts.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import InvEntropy
        >>> def embed(texts):
        ...     return torch.tensor([[1.0] + [float(text.count(c)) for c in "aeioumn"] for text in texts])
        >>> def reworded(question):
        ...     return [f"{question} Answer in {n} words." for n in ("one", "two", "six", "nine", "ten")]
        >>> method = InvEntropy(embed, generator=torch.Generator().manual_seed(0))
        >>> sure = method.score(lambda question: "Paris", "What is the capital of France?", reworded)
        >>> unsure = method.score(lambda question: question[::7], "What is the capital of France?", reworded)
        >>> sure.value < unsure.value
        True
    """

    def __init__(
        self,
        embed: Callable[[list[str]], Any] | None = None,
        similarity: str | Callable[[list[str]], Any] = "cos01",
        *,
        bootstraps: int = 30,
        concurrency: int = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        self.similarity = TextSimilarity("InvEntropy", embed, similarity)
        self.bootstraps = checks.integer("InvEntropy", "bootstraps", bootstraps)
        self.concurrency = checks.integer("InvEntropy", "concurrency", concurrency)
        self.generator = generator

    def from_responses(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> InvEntropyScore:
        """Scores replies that are there already.

        Args:
            questions: N >= 2 versions of one question, the original first.
            answers: the replies to each version, as many to each.

        Returns:
            An :class:`InvEntropyScore`.

        Raises:
            TypeError: not lists of texts.
            ValueError: lists that do not match or are empty, and the errors of :func:`inv_entropy`.
        """
        op = "InvEntropy.from_responses"
        return finish(op, [self.similarity.function], lambda waits: self._from(op, waits, questions, answers))

    async def afrom_responses(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> InvEntropyScore:
        """:meth:`from_responses` inside a running event loop, such as a notebook's."""
        return await self._from("InvEntropy.afrom_responses", True, questions, answers)

    def score(
        self,
        llm: Callable[[str], Any],
        question: str,
        perturb: Callable[[str], Any] | Sequence[str],
        replications: int = 5,
    ) -> InvEntropyScore:
        """Asks a model all versions of a question several times, and scores the replies.

        Args:
            llm: gets a text and returns the reply, a text. Sample at a temperature above 0 (the paper: 0.7).
            question: the original question.
            perturb: gets the question and returns paraphrases of it, or is a list of them. The paper has nine.
                A :class:`GAAP` is such a function.
            replications: how often each version is asked.

        Returns:
            An :class:`InvEntropyScore`.

        Raises:
            TypeError: a function returned something else than texts or embeddings.
            ValueError: no paraphrases, and the errors of :func:`inv_entropy`.
            RuntimeError: async functions inside a running event loop: await :meth:`ascore` there.
            Exception: whatever a function raises. Calls that still run are canceled.
        """
        functions = [llm, perturb, self.similarity.function]
        op = "InvEntropy.score"
        return finish(op, functions, lambda waits: self._ask(op, waits, llm, question, perturb, replications))

    async def ascore(
        self,
        llm: Callable[[str], Any],
        question: str,
        perturb: Callable[[str], Any] | Sequence[str],
        replications: int = 5,
    ) -> InvEntropyScore:
        """:meth:`score` inside a running event loop, such as a notebook's."""
        return await self._ask("InvEntropy.ascore", True, llm, question, perturb, replications)

    async def _ask(
        self, op: str, waits: bool, llm: Any, question: str, perturb: Any, replications: int
    ) -> InvEntropyScore:
        calls = Calls(op, self.concurrency, waits)
        callable_of(op, "llm", llm)
        checks.integer(op, "replications", replications)
        texts_of(op, "question", [question])
        others = await calls.one("perturb", perturb, question) if callable(perturb) else perturb
        questions = [question, *texts_of(op, "perturb", others)]
        asked = [text for text in questions for _ in range(replications)]
        replies = texts_of(op, "llm", await calls.each("llm", llm, asked))
        answers = [replies[n : n + replications] for n in range(0, len(replies), replications)]
        return await self._from(op, waits, questions, answers)

    async def _from(
        self, op: str, waits: bool, questions: Sequence[str], answers: Sequence[Sequence[str]]
    ) -> InvEntropyScore:
        questions = texts_of(op, "questions", questions, 2)
        rows = _answers(op, answers, len(questions))
        calls = Calls(op, self.concurrency, waits)
        sx = await self.similarity.matrix(calls, questions)
        sy = await self.similarity.matrix(calls, [text for row in rows for text in row])
        replications = len(rows[0])
        picks = draw_replies((self.bootstraps, len(rows)), replications, self.generator, sx.device)
        return InvEntropyScore(questions, rows, sx, sy, picks)


class TextSimilarity:
    """Similarities of texts: the cosines of their embeddings, or what a function of the texts says."""

    def __init__(self, op: str, embed: Any, similarity: Any) -> None:
        if callable(similarity):
            if embed is not None:
                hint = "a similarity that is a function gets the texts themselves"
                raise ValueError(message(op, "embed", "None", checks.describe(embed), hint))
            self.kind, self.function = None, similarity
        else:
            checks.one_of(op, "similarity", similarity, KINDS)
            self.kind, self.function = similarity, callable_of(op, "embed", embed)
        self.name = "similarity" if self.kind is None else "embed"

    async def matrix(self, calls: Calls, texts: list[str]) -> Tensor:
        """Similarities (texts, texts). Equal texts are handed to the function once."""
        unique = list(dict.fromkeys(texts))
        found = _tensor(calls.op, self.name, await calls.one(self.name, self.function, list(unique)))
        if len(found) != len(unique):
            wanted = f"{len(unique)} rows, one for each text"
            raise ValueError(message(calls.op, self.name, wanted, f"shape {tuple(found.shape)}"))
        if self.kind is None:
            similarities(calls.op, self.name, found, least=1)
        else:
            found = similarity_matrix(found, self.kind)
        places = {text: n for n, text in enumerate(unique)}
        index = torch.tensor([places[text] for text in texts], device=found.device)
        return found.detach()[index[:, None], index]


def _tensor(op: str, name: str, value: Any) -> Tensor:
    """What a user's function returned, as a tensor (texts, ...)."""
    try:
        found = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError):
        found = None
    if found is None or found.ndim != 2 or not found.is_floating_point():
        wanted = "a floating-point tensor or array with one row for each text"
        raise TypeError(message(op, name, wanted, checks.describe(value)))
    return found


def _answers(op: str, answers: Any, count: int) -> list[list[str]]:
    if isinstance(answers, (str, bytes)) or not isinstance(answers, Sequence):
        raise TypeError(message(op, "answers", "a list of texts for each question", checks.describe(answers)))
    if len(answers) != count:
        raise ValueError(message(op, "answers", f"{count} lists, one for each question", f"{len(answers)}"))
    rows = [texts_of(op, f"answers[{n}]", row) for n, row in enumerate(answers)]
    for n, row in enumerate(rows):
        if len(row) != len(rows[0]):
            hint = "ask again where a reply is missing, or drop replies from the longer lists"
            got = f"{len(row)} in answers[{n}]"
            raise ValueError(message(op, "answers", f"{len(rows[0])} replies to each question", got, hint))
    return rows


def as_llm(model: Any, **options: Any) -> Callable[[str], Any]:
    """A function from text to text, of a model of another library.

    Args:
        model: an lm-polygraph model (it has ``generate_texts``); a LangChain chat model, as uqlm takes them
            (``ainvoke``, else ``invoke``), whose messages have ``content``; or a function.
        options: arguments of every call.

    Returns:
        The function; it is async if the model has ``ainvoke``.

    Raises:
        TypeError: the model has none of these.

    Example:
        >>> from probkernels.uncertainty import as_llm
        >>> class Polygraph:
        ...     def generate_texts(self, input_texts, **options):
        ...         return [text.upper() for text in input_texts]
        >>> as_llm(Polygraph())("yes")
        'YES'
    """
    if hasattr(model, "generate_texts"):
        return lambda text: model.generate_texts([text], **options)[0]
    if hasattr(model, "ainvoke"):

        async def ask(text: str) -> Any:
            reply = await model.ainvoke(text, **options)
            return getattr(reply, "content", reply)

        return ask
    if hasattr(model, "invoke"):

        def invoke(text: str) -> Any:
            reply = model.invoke(text, **options)
            return getattr(reply, "content", reply)

        return invoke
    if callable(model):
        return (lambda text: model(text, **options)) if options else model
    wanted = "a model with generate_texts, ainvoke or invoke, or a function"
    raise TypeError(message("as_llm", "model", wanted, checks.describe(model)))


def responses_of(result: Any) -> tuple[list[str], list[list[str]]]:
    """Questions and replies of another library's result, for :meth:`InvEntropy.from_responses`.

    Args:
        result: uqlm's ``UQResult`` (its ``data`` has ``prompts``, ``responses`` and ``sampled_responses``), or
            lm-polygraph's dict of statistics (``input_texts`` and ``sample_texts``). Its prompts must be the versions
            of one question, the original first.

    Returns:
        Questions, and the replies to each. uqlm's first response is the first reply.

    Raises:
        TypeError: the result has none of these.

    Example:
        >>> from probkernels.uncertainty import responses_of
        >>> responses_of({"input_texts": ["2 + 2?", "Two and two?"], "sample_texts": [["4", "4"], ["4", "5"]]})
        (['2 + 2?', 'Two and two?'], [['4', '4'], ['4', '5']])
    """
    data = getattr(result, "data", result)
    has = data.keys() if hasattr(data, "keys") else ()
    if {"input_texts", "sample_texts"} <= set(has):
        return list(data["input_texts"]), [list(replies) for replies in data["sample_texts"]]
    if {"prompts", "sampled_responses"} <= set(has):
        sampled = [list(replies) for replies in data["sampled_responses"]]
        if "responses" in has:
            sampled = [[first, *rest] for first, rest in zip(data["responses"], sampled, strict=True)]
        return list(data["prompts"]), sampled
    wanted = "prompts and sampled_responses in its 'data', or input_texts and sample_texts"
    raise TypeError(message("responses_of", "result", wanted, ", ".join(has) or checks.describe(result)))
