"""The Inv-Entropy experiment: its drawn model, the lemma, synonyms, a miniature run, its claims."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from probkernels.reproduce import inv_entropy
from probkernels.reproduce.inv_entropy import experiment, model
from probkernels.reproduce.inv_entropy.records import DRAWN, SCORES, WORDNET, Judged, Lemma

from tests.reproduce.made_up import of_inv_entropy
from tests.reproduce.support import Sum, run_here, still


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_drawn_questions_are_those_of_the_set_up() -> None:
    questions = model.draw(2000, seeded())
    assert questions.x.shape == (2000, 10, 24) and questions.logits.shape == (2000, 10, 6)
    torch.testing.assert_close(questions.x.norm(dim=-1), torch.ones(2000, 10, dtype=torch.float64))
    cosine = (questions.x[:, 1:] * questions.x[:, :1]).sum(-1).mean().item()
    assert cosine == pytest.approx((1 + (0.35 * 3) ** 2) ** -0.5, abs=0.03)
    others = questions.logits[..., 1:].flatten(1).std(1)
    known = others < 0.9  # deviations are 0.5 and 1.5, of 50 numbers each
    assert known.double().mean().item() == pytest.approx(0.5, abs=0.06)
    assert others[known].mean().item() == pytest.approx(0.5, abs=0.02)
    assert others[~known].mean().item() == pytest.approx(1.5, abs=0.05)
    assert questions.logits[known][..., 0].mean().item() == pytest.approx(3, abs=0.05)


def test_replies_follow_the_temperature() -> None:
    questions = model.draw(1, seeded())
    replies = questions.ask(0.7, 4000, seeded(1))[0]
    chances = (2 * questions.logits[0] / 0.7).softmax(-1)
    shares = torch.nn.functional.one_hot(replies, 6).double().mean(1)
    assert (shares - chances).abs().max() < 5 * 0.5 / 4000**0.5
    y = questions.embed(replies[None, :, :5], seeded())
    own = questions.answers[0][replies[:, :5].flatten()]
    assert ((y[0] * own).sum(-1) > 0.85).all()  # the noise has norm 0.25


def test_lemma_of_linear_functions_is_exact() -> None:
    generator = seeded()
    g, h = (torch.randn(5, dtype=torch.float64, generator=generator) for _ in range(2))
    keep = torch.eye(5, dtype=torch.float64) - torch.outer(h, h) / h.dot(h)
    covariance = 0.3**2 * keep @ keep.mT  # of the noise
    assert experiment.variance(g, h, 0.3) == pytest.approx((g @ covariance @ g).item(), rel=1e-12)
    assert experiment.variance(h, h, 0.3) == pytest.approx(0, abs=1e-15)
    sine = 1 - (g.dot(h) / g.norm() / h.norm()) ** 2
    assert experiment.variance(g, h, 0.3) == pytest.approx((0.3**2 * g.dot(g) * sine).item(), rel=1e-12)


def test_synonyms_of_lines() -> None:
    substitutes = model.synonyms("n\tcity metropolis urban_center\nv\trun go\nn\trun tally\n")
    assert substitutes("City") == ["metropolis", "urban center"]
    assert substitutes("run") == ["go", "tally"]
    assert substitutes("Urban Center") == ["city", "metropolis"] and substitutes("none") == []


def test_embeddings_of_texts() -> None:
    rows = model.ngrams(["Big city", "big city", "é 😀"])
    assert torch.equal(rows[0], rows[1]) and rows.sum(1).tolist() == [10, 10, 5]


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "QUESTIONS", 20)
    monkeypatch.setattr(experiment, "OF_TSU", 5)
    monkeypatch.setattr(experiment, "TEXTS", 6)
    monkeypatch.setattr(experiment, "DRAWS", 100)
    monkeypatch.setattr(experiment.image_jobs, "run_jobs", run_here)
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 6
    assert {(r.source, r.score) for r in records if isinstance(r, Judged)} == {(DRAWN, score) for score in SCORES}
    assert sum(isinstance(r, Lemma) for r in records) == 3
    assert experiment.measure(True, None, Sum()) == records
    with gzip.open(tmp_path / "wordnet_synsets.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("n\tcity town\nn\triver stream\na\tbig large\na\tsmall little\nv\tvisit see\n")
    job = experiment.jobs(False, tmp_path)[0]
    assert job[0] == "wordnet"
    assert {r.source for r in experiment.work(*job, still) if isinstance(r, Judged)} == {WORDNET}
    with pytest.raises(FileNotFoundError, match=r"wordnet_synsets.tsv.gz'.*wordnet.princeton.edu"):
        experiment.jobs(False, tmp_path / "none")


def test_claims_tell_what_was_measured() -> None:
    measured = [claim.measured for claim in inv_entropy.claims.claims(of_inv_entropy(worse=False))]
    assert measured[:4] == pytest.approx([0.899 - 0.727, 0.899 - 0.717, 0.713 - 0.393, 0.713 - 0.547])
