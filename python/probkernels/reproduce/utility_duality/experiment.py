"""Decisions of a network that learned noisy digits, and of exact sequences of tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import uncertainty as un
from ..harness import datasets, image_jobs
from ..harness.method import Progress
from .records import LENGTH, NOISE, QUICK_SEEDS, RIGHT, SCALES, SEEDS, SHARES, TOKEN_SCALES, TOKENS, Digits, Sequences

EPOCHS, TRAIN, COST = 15, 1200, 0.2
Advance = Callable[[float], None]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Any]:
    """Runs all jobs in parallel."""
    datasets.require_sklearn()
    return image_jobs.run("decisions", work, jobs(quick), progress)


def jobs(quick: bool) -> list[tuple[Any, ...]]:
    """All jobs, the longest first. A job is a task, its number of progress steps, and its arguments."""
    shares, seeds = ((NOISE,), QUICK_SEEDS) if quick else (SHARES, SEEDS)
    return [*(("digits", EPOCHS, share, seed) for share in shares for seed in seeds), ("sequences", 1)]


def work(task: str, *arguments: Any) -> list[Any]:
    """Runs one job. The last argument advances the progress bar."""
    tasks: dict[str, Callable[..., list[Any]]] = {"digits": _digits, "sequences": _sequences}
    return tasks[task](*arguments)


def noisy(labels: Tensor, share: float) -> Tensor:
    """Labels, a share of which is replaced by uniform ones: a tenth of these is right by chance."""
    wrong = torch.rand(len(labels)) < share
    return torch.where(wrong, torch.randint(10, labels.shape), labels)


def _digits(epochs: int, share: float, seed: int, advance: Advance) -> list[Digits]:
    digits = datasets.digits()
    assert digits.test_labels is not None
    torch.manual_seed(seed)
    order = torch.randperm(len(digits.train) + len(digits.test))
    x = torch.cat([digits.train, digits.test])[order].float() / 16
    y = torch.cat([digits.labels, digits.test_labels])[order]
    net = _trained(x[:TRAIN], noisy(y[:TRAIN], share), epochs, advance)
    with torch.no_grad():
        return [judge(net(x[TRAIN:]), y[TRAIN:], share, seed)]


def _trained(x: Tensor, labels: Tensor, epochs: int, advance: Advance) -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
            optimizer.step()
        advance(1)
    return net


def judge(utility: Tensor, labels: Tensor, share: float, seed: int) -> Digits:
    """Decisions by utilities (N, 10), judged by clean labels (N,)."""
    gain = nn.functional.one_hot(labels, 10).to(utility.dtype)
    half = len(labels) // 2
    fitted = un.fit_b(utility[:half], labels[:half])
    drawing, abstaining = un.compare_rules(
        [un.SamplingRule(), un.AbstainRule(COST)], utility[half:], gain[half:], fitted.b
    )
    best = utility.argmax(1)
    return Digits(
        share,
        seed,
        drawn={b: un.expected_gain(utility, gain, b).mean().item() for b in SCALES},
        best=(best == labels).double().mean().item(),
        changed=sum(int((un.ArgmaxRule().choose(un.gibbs(utility, b)) != best).sum()) for b in SCALES),
        nll_b=un.fit_b(utility, noisy(labels, share), criterion="nll").b,
        fitted_b=fitted.b,
        held_out=(drawing.at_one, drawing.at_b),
        abstaining=(abstaining.at_one, abstaining.at_b),
    )


def _sequences(steps: int, advance: Advance) -> list[Sequences]:
    """One right token and equal others, six times. A sequence is right if each token is."""
    others = [(1 - RIGHT) / (TOKENS - 1)] * (TOKENS - 1)
    utility = torch.tensor([RIGHT, *others], dtype=torch.float64).log()
    right = torch.eye(TOKENS, dtype=torch.float64)[0]
    found = []
    for b in TOKEN_SCALES:
        token = un.expected_gain(utility, right, b).item()
        best = un.ArgmaxRule().values(un.gibbs(utility, b)[None], right[None]).item()
        found.append(Sequences(b, token, token**LENGTH, best**LENGTH))
    advance(steps)
    return found
