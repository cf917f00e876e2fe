"""PowerNorm against LayerNorm and BatchNorm: a language model trained on batches whose statistics fluctuate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from .._core import backend
from ..nn import PowerNorm, PowerNormV
from ..ops import power_norm as power_norm_op
from ..ops.power_norm import FWD
from . import _char_lm
from ._method import Claim, Method, Progress, Result, Table
from ._workers import run_jobs

METHOD = Method(
    title="PowerNorm: Rethinking Batch Normalization in Transformers",
    paper="Shen, Yao, Gholami, Mahoney, Keutzer. ICML 2020, arXiv:2003.07845",
    experiment=(
        "A causal transformer (two pre-norm layers of width 64, 4 heads) learns the characters of Python's own"
        " documentation. Each batch holds chunks of a single topic, so batch statistics fluctuate, which is what the"
        " paper blames for BatchNorm's loss in language. Only the norm differs between the runs of one seed."
    ),
)

STEPS = 1200
SEEDS = (0, 1, 2)
TRACE_EVERY = 10  # steps between two looks at PowerNorm's state


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm over all tokens: x (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each feature over batch and time."""
        return super().forward(x.flatten(0, 1)).view_as(x)


def power_norm(width: int, **settings: Any) -> PowerNorm:
    """PowerNorm as the paper's models use it: a group a head, and a warm-up."""
    return PowerNorm(width, num_groups=4, warmup_iters=150, **settings)


def official_power_norm(width: int) -> PowerNorm:
    """PowerNorm with the official code's differences from the paper."""
    return power_norm(width, compat="official")


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "LayerNorm": nn.LayerNorm,
    "BatchNorm": TokenBatchNorm,
    "RMSNorm": nn.RMSNorm,
    "PN-V": PowerNormV,
    "PN (official mode)": official_power_norm,
    "PowerNorm": power_norm,
}

# Validation loss (nats/char), mean of three seeds, of another program that trained this set-up with the authors' own
# module. Its initial embeddings are not known, so levels may differ by some hundredths; see _char_lm.EMBEDDING_STD.
EXPECTED = {
    ("LayerNorm", 2): 2.589,
    ("BatchNorm", 2): 2.614,
    ("PN-V", 2): 2.587,
    ("PN (official mode)", 2): 2.576,
    ("PowerNorm", 2): 2.576,
    ("LayerNorm", 8): 2.037,
    ("BatchNorm", 8): 2.102,
    ("RMSNorm", 8): 2.031,
    ("PN-V", 8): 2.032,
    ("PN (official mode)", 8): 2.031,
    ("PowerNorm", 8): 2.031,
}


@dataclass
class Trace:
    """PowerNorm's state over time in one layer, each entry (C)."""

    steps: list[int] = field(default_factory=list)
    batch: list[list[float]] = field(default_factory=list)  # mean square of this batch
    psi2: list[list[float]] = field(default_factory=list)  # running mean square
    nu: list[list[float]] = field(default_factory=list)


@dataclass
class Run:
    """One trained model."""

    norm: str
    batch: int
    seed: int
    losses: list[float]  # nats/char of each training step
    validation: float  # nats/char
    traces: list[Trace]  # one a PowerNorm, in order of depth


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains every norm with three seeds; ``quick`` leaves out batch size 8 and all norms but three."""
    norms = ("LayerNorm", "BatchNorm", "PowerNorm") if quick else tuple(NORMS)
    return summarise(train_all(norms, (2,) if quick else (2, 8), STEPS, progress))


def train_all(norms: Iterable[str], batches: Iterable[int], steps: int, progress: Progress) -> list[Run]:
    """Every norm with every batch size and seed, side by side; the longest runs start first."""
    jobs = [(norm, batch, seed, steps) for batch in sorted(batches, reverse=True) for norm in norms for seed in SEEDS]
    return run_jobs(train_one, jobs, progress.bar("training", len(jobs) * steps))


def train_one(norm: str, batch: int, seed: int, steps: int, advance: Callable[[float], None]) -> Run:
    """Trains and validates one model on the CPU."""
    train_texts, validation_texts = _char_lm.load_topics()
    torch.manual_seed(seed)
    model = _char_lm.CharTransformer(NORMS[norm])
    layers = [module for module in model.modules() if isinstance(module, PowerNorm)]
    done = Run(norm, batch, seed, [], 0.0, [Trace() for _ in layers])
    for layer, trace in zip(layers, done.traces, strict=True):
        _watch(layer, trace, done.losses)

    def after(step: int, loss: float) -> None:
        done.losses.append(loss)
        if step % 20 == 19 or step == steps - 1:
            advance(step % 20 + 1)

    _char_lm.train(model, train_texts, batch, steps, seed, after)
    done.validation = _char_lm.validate(model, validation_texts)
    return done


def _watch(norm: PowerNorm, trace: Trace, losses: list[float]) -> None:
    """Notes the state that every TRACE_EVERY-th training forward meets; ``losses`` has one entry a step done."""

    @torch.no_grad()
    def look(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if norm.training and len(losses) % TRACE_EVERY == 0:
            mean_sq = power_norm_op(args[0], norm.running_psi2, num_groups=norm.num_groups, eps=norm.epsilon)[1]
            trace.steps.append(len(losses))
            trace.batch.append(mean_sq.tolist())
            trace.psi2.append(norm.running_psi2.tolist())
            trace.nu.append(norm.running_nu.tolist())

    norm.register_forward_pre_hook(look)


# --- what the runs show ---


def validations(runs: Sequence[Run], norm: str, batch: int) -> list[float]:
    """Validation losses in order of the seeds."""
    chosen = [run for run in runs if run.norm == norm and run.batch == batch]
    return [run.validation for run in sorted(chosen, key=lambda run: run.seed)]


def summarise(runs: Sequence[Run]) -> Result:
    """Claims, the table of validation losses, and the plots."""
    from . import _powernorm_plots as plots

    claims = [_claim(Claim.above, runs, "BatchNorm", "PowerNorm", batch, 0.015) for batch in _batches(runs)]
    claims.insert(1, _claim(Claim.at_most, runs, "PowerNorm", "LayerNorm", 2, 0.005))
    return Result(claims, [_table(runs)], plots.figures(runs))


def _batches(runs: Sequence[Run]) -> list[int]:
    return sorted({run.batch for run in runs})


def _claim(
    kind: Callable[[str, float, float, str], Claim], runs: Sequence[Run], one: str, other: str, batch: int, bound: float
) -> Claim:
    """A claim about validation loss of ``one`` minus that of ``other``."""
    pairs = zip(validations(runs, one, batch), validations(runs, other, batch), strict=True)
    gaps = [a - b for a, b in pairs]
    text = f"{one} − {other}: validation loss at batch size {batch}, nats/char, mean of {len(gaps)} seeds"
    expected = EXPECTED[one, batch] - EXPECTED[other, batch]
    note = f"by seed {', '.join(f'{gap:+.4f}' for gap in gaps)}; the official code gave {expected:+.3f}"
    return kind(text, fmean(gaps), bound, note)


def _table(runs: Sequence[Run]) -> Table:
    ran = backend.choose(FWD, "cpu", torch.float32).name
    caption = f"Validation loss in nats/char, lower is better. PowerNorm's kernels: backend '{ran}'."
    rows = []
    for batch in _batches(runs):
        for norm in dict.fromkeys(run.norm for run in runs):
            losses = validations(runs, norm, batch)
            expected = EXPECTED.get((norm, batch))
            figures = [f"{loss:.4f}" for loss in (*losses, fmean(losses))]
            rows.append([norm, str(batch), *figures, "" if expected is None else f"{expected:.3f}"])
    return Table(caption, ["norm", "batch", *(f"seed {seed}" for seed in SEEDS), "mean", "expected"], rows)
