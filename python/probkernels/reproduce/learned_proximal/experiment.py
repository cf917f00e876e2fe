"""Trains three networks on Laplace samples and looks at what they compute, and at the prior they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...inverse import ICNN, LPN, GammaSchedule, Stage, fit_lpn
from ..harness.method import Progress
from ..harness.workers import run_jobs
from .records import CASES, L1, L2, PM, POINTS, PRIOR_POINTS, SMALL, WHOLE, Trained, soft

Parts = list[tuple[int, str | float, float]]  # steps, loss, learning rate

SQUARED: Parts = [(2500, "l2", 1e-3), (1000, "l2", 1e-4)]
ABSOLUTE: Parts = [(2500, "l1", 1e-3), (500, "l1", 1e-4)]
MATCHING: Parts = [
    (1000, 0.5, 1e-3),
    (500, 0.5, 1e-4),
    (1000, 0.4, 1e-4),
    (1500, 0.3, 1e-4),
    (2000, 0.2, 1e-4),
    (1500, 0.1, 1e-5),
]
SIZES = {SMALL: (3, 400), WHOLE: (1, 1000)}  # what numbers of steps are divided by, and batches


def jobs(quick: bool) -> list[tuple[str, str]]:
    """Loss that begins, and case."""
    return [(way, case) for case in ((SMALL,) if quick else CASES) for way in (L1, L2)]


def stages(parts: Parts, divisor: int) -> list[Stage]:
    """Stages with a part of the steps."""
    return [Stage(max(steps // divisor, 1), loss, lr) for steps, loss, lr in parts]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Trained]:
    """Runs all jobs in parallel."""
    todo = jobs(quick)
    each = {L1: ABSOLUTE + MATCHING, L2: SQUARED}
    total = sum(stage.steps for way, case in todo for stage in stages(each[way], SIZES[case][0]))
    found = run_jobs(work, todo, progress.bar("training", total))
    return [record for records in found for record in records]


def work(way: str, case: str, advance: Callable[[float], None]) -> list[Trained]:
    """Trains by squared error; or by absolute error, and from there by proximal matching with the same optimizer."""
    divisor, batch = SIZES[case]
    torch.manual_seed(0)
    lpn = LPN(ICNN(1, hidden=50, layers=4, beta=10.0))
    optimizer = torch.optim.Adam(lpn.parameters())

    def sample(generator: torch.Generator) -> Tensor:
        u = torch.rand(batch, 1, generator=generator, dtype=torch.float64) - 0.5
        return (-torch.sign(u) * torch.log1p(-2 * u.abs())).float()

    def trained(name: str, parts: Parts, seed: int) -> Trained:
        schedule = GammaSchedule(stages(parts, divisor))
        fit_lpn(lpn, sample, 1.0, schedule, optimizer=optimizer, seed=seed, after=lambda *_: advance(1))
        return judge(lpn, name, case)

    if way == L2:
        return [trained(L2, SQUARED, 0)]
    return [trained(L1, ABSOLUTE, 1), trained(PM, MATCHING, 2)]


def judge(lpn: LPN, way: str, case: str) -> Trained:
    """Compares a network with the truth."""
    y, at = torch.linspace(-4, 4, 401)[:, None], torch.tensor(POINTS)[:, None]
    x = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    with torch.no_grad():
        f, few = lpn(y)[:, 0].double(), lpn(at)[:, 0]
        value, found = lpn.prior(x, max_steps=30)
        some, _ = lpn.prior(torch.tensor([0.0, *PRIOR_POINTS], dtype=torch.float64)[:, None], max_steps=30)
    truth = torch.tensor([soft(v) for v in y[:, 0].tolist()], dtype=torch.float64)
    value, x = value - some[0], x[:, 0]
    return Trained(
        way,
        case,
        float((f - truth).square().mean().sqrt()),
        few.tolist(),
        (some[1:] - some[0]).tolist(),
        float((value - x.abs()).abs().max()),
        float(found.residual.max()),
        list(zip(y[::4, 0].tolist(), f[::4].tolist(), strict=True)),
        list(zip(x.tolist(), value.tolist(), strict=True)),
    )
