"""PSI: structure is read off the exact predictor of small worlds, and off transformers that learn these worlds."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="World Modeling with Probabilistic Structure Integration",
    paper="Kotar, Lee, Venkatesh, Chen, Bear, Watrous, Kim, Aw, ..., Yamins. 2025, arXiv:2509.09737",
    experiment=(
        "In worlds of patches one or two objects of 2 x 2 patches move between two frames, so that Bayes' rule answers"
        " every question exactly. All extractors are measured on it. Then a transformer of 168,000 parameters learns a"
        " world from frames and a few flow tokens in random order, and the same extractors are measured on it: motion,"
        " segments by pokes and, in a world where it must copy codes, KL tracing. A flow token that is given with the"
        " first frame must gain ln 9 nats, the whole uncertainty about the motion."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Measures the exact predictor and trains on three worlds. ``quick`` trains on the smallest world only."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
