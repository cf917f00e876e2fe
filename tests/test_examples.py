"""Every script in examples/ runs to its end, and its figures say what they should."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"


@functools.cache
def output(name: str) -> str:
    command = [sys.executable, "-W", "error::UserWarning", str(FOLDER / f"{name}.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_example_runs(name: str) -> None:
    assert len(re.findall(r"\d\.\d", output(name))) >= 3


def test_transformer_learns_and_folds() -> None:
    printed = output("power_norm_transformer")
    accuracies = [float(figure) for figure in re.findall(r"accuracy (\d\.\d+)", printed)]
    assert len(accuracies) == 2 and min(accuracies) > 0.9
    assert float(re.search(r"at most (\S+)", printed).group(1)) < 1e-4


def test_function_approaches_the_exact_gradient() -> None:
    gaps = [float(figure) for figure in re.findall(r"\d\.\d+e[+-]\d+", output("power_norm_function"))]
    assert gaps == sorted(gaps, reverse=True)
    first, at_50 = gaps[0], gaps[-2]  # by step 100 float32's rounding shows
    assert at_50 / first == pytest.approx(0.9**49, rel=0.01)


def test_delta_switches_between_both_models() -> None:
    printed = output("sara_finetune")
    rows = [tuple(map(float, row)) for row in re.findall(r"old classes (\S+)   on the new one (\S+)", printed)]
    before, tuned, none, half, whole = rows
    assert none == before and whole == tuned
    assert tuned[1] < 0.5 * before[1]
    assert before[0] < half[0] < tuned[0]
    saved, all_of_it = (float(size) for size in re.search(r"(\S+) kB instead of (\S+) kB", printed).groups())
    assert saved < 0.12 * all_of_it


def test_guidance_makes_the_digit_that_is_asked_for() -> None:
    shares = [float(figure) for figure in re.findall(r"(\d+\.\d)% look", output("diffusion_guided"))]
    assert len(shares) == 4 and shares == sorted(shares)
    assert shares[0] < 20 and shares[1] > 70 and shares[3] > 95


def test_a_circuit_over_a_flow_beats_both() -> None:
    rows = re.findall(r"(\d\.\d{3}) bits a pixel", output("codec_flow"))
    single, circuit, flow, both = map(float, rows)
    assert both < min(circuit, flow) - 0.7
    assert max(circuit, flow) < single - 0.2  # single pixels' chunks are stored by DEFLATE, which beats such a model


def test_noise_is_moved_by_the_exact_gradient_alone() -> None:
    rows = re.findall(r"seen (\d+\.\d+) -> (\d+\.\d+), (\d+\.\d)% right", output("diffusion_noise"))
    (before, after, right), (_, astray, wrong) = [tuple(map(float, row)) for row in rows]
    assert after < 0.05 * before < astray
    assert right > 50 > 20 > wrong


def test_an_embedding_is_found_from_its_pictures() -> None:
    printed = output("diffusion_inversion")
    errors = [tuple(map(float, row)) for row in re.findall(r"pictures (\d\.\d+) -> (\d\.\d+)", printed)]
    assert len(errors) == 2 and all(after < 0.05 * before for before, after in errors)
    shares = [float(figure) for figure in re.findall(r"(\d+\.\d)% look", printed)]
    assert max(shares[::2]) < 30 and min(shares[1::2]) > 65


def test_a_reward_tunes_the_network() -> None:
    shares = [float(figure) for figure in re.findall(r"(\d+\.\d)% .*look", output("diffusion_reward"))]
    assert shares[0] < 15 and min(shares[1:]) > 70 and shares[3] > shares[1] - 2
