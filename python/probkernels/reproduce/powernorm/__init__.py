"""PowerNorm against LayerNorm and BatchNorm: a language model trained on batches whose statistics fluctuate."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="PowerNorm: Rethinking Batch Normalization in Transformers",
    paper="Shen, Yao, Gholami, Mahoney, Keutzer. ICML 2020, arXiv:2003.07845",
    experiment=(
        "A causal transformer (two pre-norm layers of width 64, 4 heads) learns the characters of Python's own"
        " documentation. Each batch holds chunks of a single topic, so batch statistics fluctuate, which is what the"
        " paper blames for BatchNorm's loss in language. Only the norm differs between the runs of one seed."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains every norm with three seeds. ``quick`` trains only three norms, at batch size 2 only."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
