"""Inv-Entropy: whether a black-box language model is right, from paraphrases of the question and replies to them."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Inv-Entropy: A Fully Probabilistic Framework for Uncertainty Quantification in Language Models",
    paper="Song, Ji, Shi, Lai, Al Kontar. NeurIPS 2025, arXiv:2506.09684",
    experiment=(
        "A drawn language model knows half of 300 questions. Its replies to the others depend on the phrasing more than"
        " on chance. Each question has nine paraphrases, and each version five replies. Scores are judged by how well"
        " they tell right replies from wrong ones, and by how often they rise with the temperature. With --data: the"
        " same with English questions, of which GAAP makes versions with WordNet's synonyms."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Judges the scores with all seeds, and with GAAP if ``data`` has WordNet. ``quick`` takes three seeds, no data."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
