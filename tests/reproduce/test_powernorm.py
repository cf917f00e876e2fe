"""The PowerNorm experiment: its data, its model, a miniature run, its plots; the claims themselves are slow."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import powernorm
from probkernels.reproduce.harness.workers import run_jobs
from probkernels.reproduce.powernorm import experiment, model
from probkernels.reproduce.powernorm.experiment import NORMS
from probkernels.reproduce.powernorm.records import Run, validations
from torch import nn

from tests.reproduce.support import Sum, summarize


def test_text_is_split_by_topic() -> None:
    train, validation = model.load_topics()
    assert len(train) == len(validation) >= 20
    for head, tail in zip(train, validation, strict=True):
        assert len(head) + len(tail) > 3000 and abs(len(tail) / (len(head) + len(tail)) - 0.1) < 1e-3
        assert int(head.max()) < model.VOCABULARY and int(tail.max()) < model.VOCABULARY
        assert len(tail) > model.LENGTH + 1


def test_batch_is_chunks_of_one_topic() -> None:
    texts = [torch.arange(100), torch.arange(1000, 1100)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        inputs, targets = model.draw_batch(texts, 3, generator)
        assert inputs.shape == targets.shape == (3, model.LENGTH)
        assert torch.equal(targets, inputs + 1)
        assert len({int(value) // 1000 for value in inputs.flatten()}) == 1


def test_last_chunk_of_a_text_can_be_drawn() -> None:
    text = torch.arange(model.LENGTH + 1)
    inputs, targets = model.draw_batch([text], 2, torch.Generator())
    assert torch.equal(inputs[0], text[:-1]) and torch.equal(targets[1], text[1:])


def test_model_is_causal() -> None:
    net = model.CharTransformer(nn.LayerNorm)
    codes = torch.randint(model.VOCABULARY, (1, model.LENGTH))
    changed = codes.clone()
    changed[0, 40] = (codes[0, 40] + 1) % model.VOCABULARY
    moved = (net(codes) - net(changed)).abs().amax(-1)[0] > 1e-6
    assert not moved[:40].any() and moved[40:].all()


@pytest.mark.parametrize("norm", NORMS)
def test_norms_replace_all_but_the_last(norm: str) -> None:
    modules = model.CharTransformer(NORMS[norm]).modules()
    kinds = [type(module) for module in modules if type(module).__name__.endswith(("Norm", "NormV"))]
    assert len(kinds) == 5 and kinds[-1] is nn.LayerNorm and len(set(kinds[:4])) == 1


def test_batch_norm_is_over_all_tokens() -> None:
    y = experiment.TokenBatchNorm(3)(5 + 2 * torch.randn(2, 64, 3))
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.square().mean((0, 1)), torch.ones(3), atol=1e-4, rtol=0)


def test_miniature_run_is_deterministic_and_complete() -> None:
    progress = Sum()
    jobs = [(norm, batch, seed, 21) for norm, batch, seed, _ in experiment.jobs(quick=True)]
    runs: list[Run] = run_jobs(experiment.train_one, jobs, progress.bar("training", 9 * 21))
    assert progress.done == progress.total == 9 * 21
    again = experiment.train_one("PowerNorm", 2, 1, 21, lambda amount: None)
    assert again == next(run for run in runs if (run.norm, run.seed) == ("PowerNorm", 1))
    assert all(len(trace.steps) == 3 and len(trace.psi2[0]) == 64 for trace in again.traces)
    assert again.losses[-1] < again.losses[0]

    result = summarize(powernorm, runs)
    gap, order = result.claims
    means = {norm: sum(validations(runs, norm, 2)) / 3 for norm in ("LayerNorm", "BatchNorm", "PowerNorm")}
    assert gap.measured == pytest.approx(means["BatchNorm"] - means["PowerNorm"])
    assert order.measured == pytest.approx(means["PowerNorm"] - means["LayerNorm"])
    assert (gap.expected, order.expected) == ("> 0.015", "≤ 0.005")
    assert [row[0] for row in result.tables[0].rows] == ["LayerNorm", "BatchNorm", "PowerNorm"]
