"""The records of a judged score and of the lemma, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

QUICK_SEEDS, SEEDS = (0, 1, 2), (0, 1, 2, 3, 4, 5)
DRAWN, WORDNET = "drawn paraphrases", "GAAP with WordNet"
INV, NI, NR = "Inv-Entropy", "NI-Entropy", "NR-Inv-Entropy, one reply each"
MAX, WD = "largest P(y | x)", "distance of P(X) from P(Y)"
POOLED = "entropy of the replies to all versions"
DISPERSION, SEMANTIC = "dispersion of replies to the original", "semantic entropy of replies to the original"
DEGMAT, EIGV, KLE = "DegMat, original", "EigV, original", "kernel language entropy, original"
SCORES = (INV, NI, NR, MAX, WD, POOLED, DISPERSION, SEMANTIC, DEGMAT, EIGV, KLE)
REPLICATION = (DISPERSION, SEMANTIC)  # what sees replies to the original only

# AUROC, TSU of two and of four temperatures, that another program gave: means of three other seeds. None: not given.
EXPECTED: dict[str, tuple[float, float | None, float | None]] = {
    INV: (0.899, 0.713, 0.213), NI: (0.900, 0.393, 0.113), NR: (0.901, 0.547, 0.033), POOLED: (0.893, 0.927, 0.320),
    DISPERSION: (0.727, 0.520, 0.007), SEMANTIC: (0.717, 0.500, 0.007),
}  # fmt: skip


@dataclass
class Judged:
    """One score on the questions of one seed."""

    source: str
    score: str
    seed: int
    auroc: float  # of its negative, for right replies
    tsu_two: float  # temperatures 0.3, 1.4
    tsu_four: float  # temperatures 0.3, 0.7, 1, 1.4


@dataclass
class Lemma:
    """The variance of a function under perturbations that keep another function, and the lemma's prediction."""

    seed: int
    cosine: float  # of the angle between both gradients
    measured: float
    predicted: float


Record = Judged | Lemma


def judged(records: Sequence[Record], source: str, score: str) -> list[Judged]:
    """The records of one score, in order of the seeds."""
    found = [r for r in records if isinstance(r, Judged) and (r.source, r.score) == (source, score)]
    return sorted(found, key=lambda r: r.seed)


def mean_of(records: Sequence[Record], source: str, score: str, what: str) -> float:
    """A figure's mean over the seeds."""
    return fmean(getattr(record, what) for record in judged(records, source, score))


def sources(records: Sequence[Record]) -> list[str]:
    """The sources of paraphrases there are records of."""
    return [source for source in (DRAWN, WORDNET) if judged(records, source, INV)]
