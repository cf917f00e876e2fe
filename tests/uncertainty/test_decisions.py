"""Decision rules: minimum Bayes risk, abstention, sampling, rules as objects, and the processor of logits."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from probkernels import uncertainty as un
from torch import Tensor

INF, NAN = float("inf"), float("nan")
SCALES = [0.05, 0.5, 1.0, 3.0, 50.0]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log(*probs: float) -> Tensor:
    return torch.tensor([probs], dtype=torch.float64).log()


# --- minimum Bayes risk ---


@pytest.mark.parametrize("b", SCALES)
def test_bayes_rule_of_right_or_wrong_is_the_most_probable_option(b: float) -> None:
    u = drawn(40, 6)
    found = un.minimum_bayes_risk(un.gibbs(u, b), torch.eye(6, dtype=torch.float64))
    assert torch.equal(found.choice, u.argmax(1))
    torch.testing.assert_close(found.value, un.gibbs(u, b).exp().amax(1))


@pytest.mark.parametrize("b", SCALES)
def test_bayes_rule_of_equal_tokens_is_the_best_token_each(b: float) -> None:
    """Three independent tokens of three kinds; the gain of a sequence is how many tokens are those of another."""
    sequences = torch.cartesian_prod(*[torch.arange(3)] * 3)
    equal_tokens = (sequences[:, None] == sequences[None]).double().mean(-1)
    tokens = drawn(10, 3, 3).log_softmax(-1)
    scores = tokens[:, torch.arange(3), sequences].sum(-1)
    found = un.minimum_bayes_risk(un.gibbs_sequence(scores, b).log_probs, equal_tokens)
    assert torch.equal(sequences[found.choice], tokens.argmax(-1))


def test_bayes_rule_is_the_best_action_of_a_table() -> None:
    u, shared, each = drawn(3, 4, 5), drawn(7, 5, seed=1), drawn(3, 4, 7, 5, seed=2)
    log_probs = un.gibbs(u)
    for gain in (shared, each):
        expected = (gain * log_probs.exp()[..., None, :]).sum(-1)
        found = un.minimum_bayes_risk(log_probs, gain)
        assert torch.equal(found.choice, expected.argmax(-1))
        torch.testing.assert_close(found.value, expected.amax(-1))
    one = un.minimum_bayes_risk(log_probs[1, 2], each[1, 2])
    assert one.choice == found.choice[1, 2] and one.value == pytest.approx(found.value[1, 2].item())
    assert torch.autograd.gradcheck(
        lambda u, g: un.minimum_bayes_risk(un.gibbs(u), g).value, (u.requires_grad_(), each.requires_grad_())
    )


def test_bayes_rule_of_masked_candidates() -> None:
    scores, gain = drawn(4, 5).log_softmax(1), drawn(4, 5, 5, seed=1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    holes = torch.where(mask[:, None] & mask[..., None], gain, NAN)
    log_probs = un.gibbs_sequence(scores, 2.0, mask=mask).log_probs
    found = un.minimum_bayes_risk(log_probs, holes, mask=mask)
    for row in range(4):
        kept = mask[row].nonzero()[:, 0]
        few = un.minimum_bayes_risk(un.gibbs(scores[row, kept], 2.0), gain[row][kept][:, kept])
        assert found.choice[row] == kept[few.choice]
        assert found.value[row].item() == pytest.approx(few.value.item(), abs=1e-12)
    actions = torch.zeros(4, 5, dtype=torch.bool)
    actions[:, 0] = True
    assert (un.minimum_bayes_risk(scores, gain, action_mask=actions).choice == 0).all()
    assert un.minimum_bayes_risk(log(1.0), torch.ones(1, 1).double()).choice.tolist() == [0]  # one candidate
    assert un.minimum_bayes_risk(scores[:0], torch.eye(5).double()).choice.shape == (0,)


# --- abstention ---


def test_abstention_is_best_for_its_gain() -> None:
    log_probs = un.gibbs(drawn(50, 4))
    for cost in (0.0, 0.2, 0.5, 1.0):
        found = un.abstain(log_probs, cost)
        table = torch.cat([torch.eye(4), torch.full((1, 4), 1 - cost)]).double()  # the last action abstains
        best = un.minimum_bayes_risk(log_probs, table)
        assert torch.equal(found.choice, best.choice.masked_fill(best.choice == 4, -1))
        torch.testing.assert_close(found.value, best.value)
    assert un.abstain(log(0.75, 0.25), 0.25).choice.tolist() == [0]  # of a tie it answers
    assert un.abstain(log(1.0), 0.0).choice.tolist() == [0]
    mask = torch.tensor([[True, False, True]])
    assert un.abstain(un.gibbs(torch.tensor([[0.0, 9.0, 3.0]]), mask=mask), 0.1, mask=mask).choice.tolist() == [2]


# --- sampling ---


def test_draws_have_the_probabilities() -> None:
    u = drawn(2, 3, 4)
    mask = torch.ones_like(u, dtype=torch.bool)
    mask[1, 2, 1] = False
    generator = torch.Generator().manual_seed(0)
    draws = un.sample_gibbs(u, 0.7, count=20_000, mask=mask, generator=generator)
    assert draws.shape == (2, 3, 20_000)
    counts = torch.nn.functional.one_hot(draws, 4).double().mean(-2)
    torch.testing.assert_close(counts, un.gibbs(u, 0.7, mask=mask).exp(), rtol=0, atol=0.02)
    assert counts[1, 2, 1] == 0
    same = un.sample_gibbs(u, 0.7, count=20_000, mask=mask, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws, same)
    assert un.sample_gibbs(u[0, 0]).shape == (1,) and un.sample_gibbs(u[:0]).shape == (0, 3, 1)
    assert (un.sample_gibbs(u, 1e9, count=50) == u.argmax(-1, keepdim=True)).all()


NUCLEI = {0.1: [1], 0.4: [1], 0.41: [1, 3], 0.7: [1, 3], 0.71: [0, 1, 3], 1.0: [0, 1, 2, 3]}


@pytest.mark.parametrize("top_p", NUCLEI)
def test_top_p_keeps_the_fewest_options(top_p: float) -> None:
    kept = NUCLEI[top_p]
    probs = torch.tensor([0.2, 0.4 + 1e-9, 0.1, 0.3 + 1e-9], dtype=torch.float64)
    probs /= probs.sum()
    draws = un.sample_gibbs(probs.log(), top_p=top_p, count=500, generator=torch.Generator().manual_seed(0))
    assert draws.unique().tolist() == kept
    mean = un.SamplingRule(top_p).values(probs.log()[None], torch.eye(4).double()[:1])
    assert mean.item() == pytest.approx(probs[0].item() / probs[kept].sum().item() if 0 in kept else 0, abs=1e-12)


# --- rules as objects ---


def rules() -> list[un.DecisionRule]:
    generator = torch.Generator().manual_seed(0)
    return [
        un.ArgmaxRule(), un.SamplingRule(generator=generator), un.SamplingRule(0.6, generator),
        un.BayesRule(drawn(5, 5, seed=3)), un.AbstainRule(0.4),
    ]  # fmt: skip


def test_rules_that_need_no_scale_are_told_apart() -> None:
    u = drawn(300, 5)
    right = torch.nn.functional.one_hot(u.argmax(1), 5).double()
    for rule, row in zip(rules(), un.compare_rules(rules(), u, right, b=2.0), strict=True):
        changed = [not torch.equal(rule.choose(un.gibbs(x)), rule.choose(un.gibbs(u))) for x in (2 * u, u**3)]
        assert rule.ordinal_invariant == row.ordinal_invariant == (not any(changed))
        assert (row.at_one == row.at_b) == rule.ordinal_invariant
        assert row.rule == repr(rule)
        assert copy.deepcopy(rule).ordinal_invariant == rule.ordinal_invariant


def test_values_of_rules_are_those_of_their_choices() -> None:
    u, gain = drawn(6, 5), drawn(6, 5, seed=4)
    log_probs = un.gibbs(u)
    for rule in rules():
        choice = rule.choose(log_probs)
        assert choice.shape == (6,) and choice.dtype is torch.int64
        if not isinstance(rule, un.SamplingRule):
            expected = gain.gather(1, choice.clamp_min(0)[:, None])[:, 0].where(choice >= 0, 0.6)
            torch.testing.assert_close(rule.values(log_probs, gain), expected)
    torch.testing.assert_close(un.SamplingRule().values(log_probs, gain), un.expected_gain(u, gain))
    nucleus = un.SamplingRule(0.6, torch.Generator().manual_seed(0))
    many = torch.stack([gain.gather(1, nucleus.choose(log_probs)[:, None])[:, 0] for _ in range(3000)]).mean(0)
    torch.testing.assert_close(many, nucleus.values(log_probs, gain), rtol=0, atol=0.15)


def test_conversion_helps_rules_that_need_the_scale_alone() -> None:
    """The power family: sampling gains 61 points in exact match of six tokens, the most probable one nothing."""
    u = torch.tensor([[0.85, *[0.15 / 19] * 19]] * 6, dtype=torch.float64).log()
    gain = torch.eye(20, dtype=torch.float64)[:1].expand(6, -1)
    best, sampling = un.compare_rules([un.ArgmaxRule(), un.SamplingRule()], u, gain, b=2.0)
    assert best.at_one == best.at_b == 1
    assert sampling.at_b**6 - sampling.at_one**6 == pytest.approx(0.6130724, abs=1e-6)


# --- the processor of transformers ---


def test_processor_follows_the_protocol_of_transformers() -> None:
    processor = un.GibbsLogitsProcessor(b=2.0)
    assert list(inspect.signature(processor.__call__).parameters) == ["input_ids", "scores"]  # no further arguments
    ids, scores = torch.zeros(2, 1).long(), drawn(2, 9).float()
    scores[0, 3] = -INF  # banned by another processor
    before = scores.clone()
    found = processor(ids, scores)
    assert torch.equal(scores, before)
    torch.testing.assert_close(found, (2 * scores).log_softmax(1))
    assert torch.equal(found.argsort(1), scores.argsort(1))
    assert processor(ids, scores.bfloat16()).dtype is torch.bfloat16
    assert pickle.loads(pickle.dumps(processor)).b == 2.0 and repr(processor) == "GibbsLogitsProcessor(b=2.0)"


# --- bad input ---

UNSURE, EYE = log(0.5, 0.5), torch.eye(2, dtype=torch.float64)
NONE = torch.zeros(1, 2, dtype=torch.bool)
CASES: dict[str, tuple[Any, type, str]] = {
    "logits": (lambda: un.abstain(torch.tensor([[2.0, 1.0]]), 0.1), ValueError,
               r"'log_probs': expected log-probabilities.*got a sum of 10.1.*at \[0\].*gibbs\(utility\)"),
    "probabilities": (lambda: un.minimum_bayes_risk(UNSURE.exp(), EYE), ValueError, "a sum of 3.29"),
    "another mask": (lambda: un.abstain(UNSURE, 0.1, mask=torch.tensor([[True, False]])), ValueError, "the same mask"),
    "all masked": (lambda: un.abstain(UNSURE, 0.1, mask=NONE), ValueError, r"'mask'.*no option in row \[0\]"),
    "NaN": (lambda: un.abstain(UNSURE * NAN, 0.1), ValueError, r"'log_probs'.*got nan at \[0, 0\]"),
    "cost": (lambda: un.abstain(UNSURE, 1.5), ValueError, r"'cost': expected a number in \[0, 1\], got 1.5"),
    "gain's options": (lambda: un.minimum_bayes_risk(UNSURE, torch.ones(2, 3)), ValueError,
                       r"shape \(A, 2\) or \(1, A, 2\)"),
    "gain's rows": (lambda: un.minimum_bayes_risk(UNSURE, torch.ones(4, 2, 2)), ValueError, r"'gain'.*got shape \(4"),
    "no actions": (lambda: un.minimum_bayes_risk(UNSURE, torch.ones(0, 2)), ValueError, "'gain'"),
    "gain NaN": (lambda: un.minimum_bayes_risk(UNSURE, EYE * NAN), ValueError, "'gain': expected finite"),
    "actions masked": (lambda: un.minimum_bayes_risk(UNSURE, EYE, action_mask=NONE), ValueError,
                       r"no action in row \[0\]"),
    "actions' shape": (lambda: un.minimum_bayes_risk(UNSURE, EYE, action_mask=NONE[0]), ValueError, r"shape \(1, 2\)"),
    "count": (lambda: un.sample_gibbs(UNSURE, count=0), ValueError, "'count'"),
    "top_p": (lambda: un.SamplingRule(0.0), ValueError, r"'top_p': expected a number in \(0, 1\]"),
    "true gain": (lambda: un.ArgmaxRule().values(UNSURE, EYE), ValueError, r"ArgmaxRule: argument 'gain'.*\(1, A\)"),
    "few gains": (lambda: un.BayesRule(EYE).values(log(0.2, 0.8), EYE[:1, :1]), ValueError, "a gain for each action"),
    "no rows": (lambda: un.compare_rules([], UNSURE[:0], UNSURE[:0], 1.0), ValueError, "N >= 1"),
    "a class": (lambda: un.compare_rules([un.ArgmaxRule], UNSURE, UNSURE, 1.0), TypeError, "'rules': expected a list"),
    "one rule": (lambda: un.compare_rules(un.ArgmaxRule(), UNSURE, UNSURE, 1.0), TypeError, "'rules': expected a list"),
    "processor": (lambda: un.GibbsLogitsProcessor(-1.0), ValueError, "GibbsLogitsProcessor: argument 'b'"),
    "scores": (lambda: un.GibbsLogitsProcessor(1.0)(None, torch.tensor([[NAN, 0.0]])), ValueError, "'scores'.*nan"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str) -> None:
    call, kind, text = CASES[case]
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    u = drawn(3, 4)
    log_probs = un.gibbs(u).to(dtype)
    assert torch.equal(un.minimum_bayes_risk(log_probs, torch.eye(4, dtype=dtype)).choice, u.argmax(1))
    assert un.abstain(log_probs, 0.3).value.dtype is torch.float32
    assert un.sample_gibbs(u.to(dtype), count=2).shape == (3, 2)
