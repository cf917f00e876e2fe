"""The PowerNorm experiment: its data, its model, a miniature run, its plots; the claims themselves are slow."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import Progress, _char_lm, _report
from probkernels.reproduce import powernorm as experiment
from probkernels.reproduce.powernorm import EXPECTED, NORMS, Run, Trace
from torch import nn


def test_text_is_split_by_topic() -> None:
    train, validation = _char_lm.load_topics()
    assert len(train) == len(validation) >= 20
    for head, tail in zip(train, validation, strict=True):
        assert len(head) + len(tail) > 3000 and abs(len(tail) / (len(head) + len(tail)) - 0.1) < 1e-3
        assert int(head.max()) < _char_lm.VOCABULARY and int(tail.max()) < _char_lm.VOCABULARY
        assert len(tail) > _char_lm.LENGTH + 1


def test_batch_is_chunks_of_one_topic() -> None:
    texts = [torch.arange(100), torch.arange(1000, 1100)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        inputs, targets = _char_lm.draw_batch(texts, 3, generator)
        assert inputs.shape == targets.shape == (3, _char_lm.LENGTH)
        assert torch.equal(targets, inputs + 1)
        assert len({int(value) // 1000 for value in inputs.flatten()}) == 1


def test_last_chunk_of_a_text_can_be_drawn() -> None:
    text = torch.arange(_char_lm.LENGTH + 1)
    inputs, targets = _char_lm.draw_batch([text], 2, torch.Generator())
    assert torch.equal(inputs[0], text[:-1]) and torch.equal(targets[1], text[1:])


def test_model_is_causal() -> None:
    model = _char_lm.CharTransformer(nn.LayerNorm)
    codes = torch.randint(_char_lm.VOCABULARY, (1, _char_lm.LENGTH))
    changed = codes.clone()
    changed[0, 40] = (codes[0, 40] + 1) % _char_lm.VOCABULARY
    moved = (model(codes) - model(changed)).abs().amax(-1)[0] > 1e-6
    assert not moved[:40].any() and moved[40:].all()


@pytest.mark.parametrize("norm", NORMS)
def test_norms_replace_all_but_the_last(norm: str) -> None:
    modules = _char_lm.CharTransformer(NORMS[norm]).modules()
    kinds = [type(module) for module in modules if type(module).__name__.endswith(("Norm", "NormV"))]
    assert len(kinds) == 5 and kinds[-1] is nn.LayerNorm and len(set(kinds[:4])) == 1


def test_batch_norm_is_over_all_tokens() -> None:
    y = experiment.TokenBatchNorm(3)(5 + 2 * torch.randn(2, 64, 3))
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.square().mean((0, 1)), torch.ones(3), atol=1e-4, rtol=0)


def test_miniature_run_is_deterministic_and_complete() -> None:
    class Sum(Progress):
        done, total = 0.0, 0.0

        def bar(self, text: str, total: float):
            self.total = total
            return self.advance

        def advance(self, amount: float) -> None:
            self.done += amount

    progress = Sum()
    runs = experiment.train_all(("LayerNorm", "BatchNorm", "PowerNorm"), (2,), 21, progress)
    assert progress.done == progress.total == 9 * 21
    again = experiment.train_one("PowerNorm", 2, 1, 21, lambda amount: None)
    assert again == next(run for run in runs if (run.norm, run.seed) == ("PowerNorm", 1))
    assert all(len(trace.steps) == 3 and len(trace.psi2[0]) == 64 for trace in again.traces)
    assert again.losses[-1] < again.losses[0]

    result = experiment.summarise(runs)
    gap, order = result.claims
    means = {norm: sum(experiment.validations(runs, norm, 2)) / 3 for norm in ("LayerNorm", "BatchNorm", "PowerNorm")}
    assert gap.measured == pytest.approx(means["BatchNorm"] - means["PowerNorm"])
    assert order.measured == pytest.approx(means["PowerNorm"] - means["LayerNorm"])
    assert (gap.expected, order.expected) == ("> 0.015", "≤ 0.005")
    assert [row[0] for row in result.tables[0].rows] == ["LayerNorm", "BatchNorm", "PowerNorm"]


def test_full_summary_and_plots() -> None:
    """On made-up runs that sit exactly at the expected losses."""
    trace = Trace([0, 10], [[1.0, 2.0]] * 2, [[1.0, 1.5]] * 2, [[0.1, -0.1]] * 2)
    runs = [
        Run(norm, batch, seed, [3.0, 2.5, 2.0] * 20, EXPECTED.get((norm, batch), 2.5), [trace] * 4)
        for norm in NORMS
        for batch in (2, 8)
        for seed in experiment.SEEDS
    ]
    result = experiment.summarise(runs)
    assert [claim.holds for claim in result.claims] == [True, True, True]
    assert len(result.tables[0].rows) == 2 * len(NORMS)
    pytest.importorskip("matplotlib")
    for figure in result.figures:
        assert _report.png(figure).startswith(b"\x89PNG")


def test_claims_fail_when_the_order_is_wrong() -> None:
    losses = {"LayerNorm": 2.0, "BatchNorm": 2.015, "PowerNorm": 2.006}
    runs = [Run(norm, 2, seed, [2.0], loss, []) for norm, loss in losses.items() for seed in experiment.SEEDS]
    assert [claim.holds for claim in experiment.summarise(runs).claims] == [False, False]


@pytest.mark.slow
def test_claims_hold() -> None:
    result = experiment.run(quick=True, data=None, progress=Progress())
    assert all(claim.holds for claim in result.claims), result.claims
