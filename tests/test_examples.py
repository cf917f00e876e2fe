"""Every script in examples/ runs to its end, and its figures say what they should.

One test a script: two of the same script would each run it, as test workers share nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
Check = Callable[[str], None]
CHECKS: dict[str, Check] = {}


def check_of(name: str) -> Callable[[Check], Check]:
    """Decorates what must hold of the script's output."""

    def register(check: Check) -> Check:
        assert name in SCRIPTS and name not in CHECKS
        CHECKS[name] = check
        return check

    return register


def output(name: str) -> str:
    command = [sys.executable, "-W", "error::UserWarning", str(FOLDER / f"{name}.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_runs(name: str) -> None:
    printed = output(name)
    assert len(re.findall(r"\d\.\d", printed)) >= 3
    if name in CHECKS:
        CHECKS[name](printed)


@check_of("inv_entropy_questions")
def other_wordings_show_what_is_not_known(printed: str) -> None:
    scores = [float(figure) for figure in re.findall(r"Inv-Entropy (\d\.\d+)", printed)]
    assert len(scores) == 4
    assert max(scores[:2]) < min(scores[2:])


@check_of("noprop_digits")
def blocks_that_learn_alone_keep_up(printed: str) -> None:
    ours, quiet, theirs = (float(figure) for figure in re.findall(r"(\d+\.\d) % right", printed))
    assert min(ours, quiet) > 95 and quiet > theirs - 1


@check_of("power_norm_transformer")
def transformer_learns_and_folds(printed: str) -> None:
    accuracies = [float(figure) for figure in re.findall(r"accuracy (\d\.\d+)", printed)]
    assert len(accuracies) == 2 and min(accuracies) > 0.9
    assert float(re.search(r"at most (\S+)", printed).group(1)) < 1e-4


@check_of("power_norm_function")
def function_approaches_the_exact_gradient(printed: str) -> None:
    gaps = [float(figure) for figure in re.findall(r"\d\.\d+e[+-]\d+", printed)]
    assert gaps == sorted(gaps, reverse=True)
    first, at_50 = gaps[0], gaps[-2]  # by step 100 float32's rounding shows
    assert at_50 / first == pytest.approx(0.9**49, rel=0.01)


@check_of("sara_finetune")
def delta_switches_between_both_models(printed: str) -> None:
    rows = [tuple(map(float, row)) for row in re.findall(r"old classes (\S+)   on the new one (\S+)", printed)]
    before, tuned, none, half, whole = rows
    assert none == before and whole == tuned
    assert tuned[1] < 0.5 * before[1]
    assert before[0] < half[0] < tuned[0]
    saved, all_of_it = (float(size) for size in re.search(r"(\S+) kB instead of (\S+) kB", printed).groups())
    assert saved < 0.12 * all_of_it


@check_of("cape_digits")
def outcomes_are_memorized(printed: str) -> None:
    distances = [float(figure) for figure in re.findall(r"MSE_p (\d\.\d+)", printed)]
    every, early, longer, cape = distances
    assert every > 1.5 * early
    assert cape < longer


@check_of("psi_patches")
def a_patch_and_its_object_are_found(printed: str) -> None:
    found, truth = re.search(r"goes to (\d+); the truth is (\d+)", printed).groups()
    assert found == truth and "4 patches, all of the object: True" in printed
    first, last = (float(figure) for figure in re.findall(r"squared error (\S+)", printed))
    assert last < 0.4 * first


@check_of("prototypes_digits")
def new_digits_are_the_uncertain_ones(printed: str) -> None:
    assert float(re.search(r"accuracy on digits 0 to 7: (\S+)", printed).group(1)) > 0.88
    rows = re.findall(r"known digits (\S+)   new digits (\S+)   AUROC (\S+)", printed)
    assert len(rows) == 5
    assert all(float(known) < float(new) and float(auroc) > 0.65 for known, new, auroc in rows)


@check_of("diffusion_guided")
def guidance_makes_the_digit_that_is_asked_for(printed: str) -> None:
    shares = [float(figure) for figure in re.findall(r"(\d+\.\d)% look", printed)]
    assert len(shares) == 4 and shares == sorted(shares)
    assert shares[0] < 20 and shares[1] > 70 and shares[3] > 95


@check_of("codec_flow")
def a_circuit_over_a_flow_beats_both(printed: str) -> None:
    rows = re.findall(r"(\d\.\d{3}) bits a pixel", printed)
    single, circuit, flow, both = map(float, rows)
    assert both < min(circuit, flow) - 0.7
    assert max(circuit, flow) < single - 0.2  # single pixels' chunks are stored by DEFLATE, which beats such a model


@check_of("diffusion_noise")
def noise_is_moved_by_the_exact_gradient_alone(printed: str) -> None:
    rows = re.findall(r"seen (\d+\.\d+) -> (\d+\.\d+), (\d+\.\d)% right", printed)
    (before, after, right), (_, astray, wrong) = [tuple(map(float, row)) for row in rows]
    assert after < 0.05 * before < astray
    assert right > 50 > 20 > wrong


@check_of("diffusion_inversion")
def an_embedding_is_found_from_its_pictures(printed: str) -> None:
    errors = [tuple(map(float, row)) for row in re.findall(r"pictures (\d\.\d+) -> (\d\.\d+)", printed)]
    assert len(errors) == 2 and all(after < 0.05 * before for before, after in errors)
    shares = [float(figure) for figure in re.findall(r"(\d+\.\d)% look", printed)]
    assert max(shares[::2]) < 30 and min(shares[1::2]) > 65


@check_of("diffusion_reward")
def a_reward_tunes_the_network(printed: str) -> None:
    shares = [float(figure) for figure in re.findall(r"(\d+\.\d)% .*look", printed)]
    assert shares[0] < 15 and min(shares[1:]) > 70 and shares[3] > shares[1] - 2


@check_of("calibration_digits")
def calibration_makes_a_network_honest(printed: str) -> None:
    rows = re.findall(r"(\S+) % right, (\S+) % sure, ECE (\S+), KS (\S+), NLL (\S+)", printed)
    before, temperature, ours = [tuple(map(float, row)) for row in rows]
    assert before[0] == temperature[0] == ours[0]
    assert before[1] > before[0] + 20 and abs(ours[1] - ours[0]) < 8
    assert ours[2] < temperature[2] < before[2] / 2 and ours[4] < temperature[4] < before[4]


@check_of("blackbox_sequences")
def proposals_beat_all_given_sequences(printed: str) -> None:
    given, best = (float(figure) for figure in re.findall(r"the best scores (\d\.\d+)", printed))
    assert given < 0.4 and best > 0.5


@check_of("stochastic_gates")
def sparse_gates_learn(printed: str) -> None:
    rows = re.findall(r"accuracy (\S+), (\S+) of the gates on", printed)
    assert len(rows) == 3
    assert all(float(accuracy) > 0.75 and float(on) < 0.2 for accuracy, on in rows)


@check_of("scale_mixture")
def a_prior_adapts_the_scale(printed: str) -> None:
    scales, losses = zip(*re.findall(r"scale (\S+), test NLL (\S+),", printed), strict=True)
    assert float(scales[0]) == 1 and max(map(float, scales[1:])) < 0.5
    assert max(map(float, losses[1:])) < float(losses[0]) - 0.2


@check_of("permutations")
def means_of_networks_are_exact_as_often_as_the_closed_form_says(printed: str) -> None:
    shares = re.findall(r"share of (\S+), probability (\S+)", printed)
    assert len(shares) == 6
    assert all(abs(float(share) - float(probability)) < 0.2 for share, probability in shares)
    assert float(shares[0][0]) < 0.5 < float(shares[5][0])


@check_of("bayesian_optimization")
def expected_improvement_finds_the_top(printed: str) -> None:
    found = re.findall(r"looks: (\S+) by the exact model, (\S+) by the network, (\S+) at random", printed)
    informed, learned, blind = zip(*found, strict=True)
    assert float(informed[1]) < 0.1 < 0.2 < float(blind[1])
    assert float(learned[1]) < 0.2 and float(learned[2]) < 0.5 * float(blind[2])
    assert float(informed[2]) < 0.02 and float(re.search(r"top found: (\S+) %", printed).group(1)) > 90


@check_of("learned_proximal")
def a_learned_prior_denoises_and_reconstructs(printed: str) -> None:
    noisy, denoised, inverse, ours = (float(e) for e in re.findall(r"mean squared error (\d\.\d+)", printed))
    assert denoised < 0.85 * noisy and ours < 0.85 * inverse
    zero, axis, diagonal = (float(r) for r in re.findall(r"= (-?\d\.\d+)", printed))
    assert zero < axis < diagonal and "certified: True" in printed


@check_of("diffusion_reconstruction")
def one_prior_serves_every_measurement(printed: str) -> None:
    noisy, denoised, mean, one, eight, empty, scanned = map(float, re.findall(r"squared error (\d\.\d+)", printed))
    assert denoised < 0.5 * noisy and eight < one and eight < mean and scanned < 0.6 * empty
    assert float(re.search(r"the error (\S+)", printed).group(1)) > 0.3


@check_of("diffusion_anomaly")
def maps_and_ensembles_beat_what_is_simple(printed: str) -> None:
    mean, denoised, likelihood, spread = (float(a) for a in re.findall(r"AUROC (\d\.\d+)", printed))
    assert min(denoised, likelihood) > mean and spread > 0.75
    threshold, one, ensemble = (float(d) for d in re.findall(r"Dice (\d\.\d+)", printed))
    assert ensemble > one and ensemble > threshold
    assert "3 of 3 planted" in printed
