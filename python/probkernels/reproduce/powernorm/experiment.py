"""PowerNorm against LayerNorm and BatchNorm: a language model trained on batches whose statistics fluctuate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import PowerNorm, PowerNormV
from ...ops import power_norm as power_norm_op
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model
from .records import SEEDS, STEPS, TRACE_EVERY, Run, Trace


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm over all tokens: x (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes each feature over batch and time."""
        return super().forward(x.flatten(0, 1)).view_as(x)


def power_norm(width: int, **settings: Any) -> PowerNorm:
    """PowerNorm as in the paper's models: one group per head, and a warm-up."""
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


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Run]:
    """Trains all models in parallel."""
    planned = jobs(quick)
    return run_jobs(train_one, planned, progress.bar("training", sum(job[-1] for job in planned)))


def jobs(quick: bool) -> list[tuple[str, int, int, int]]:
    """(norm, batch size, seed, steps) of every run; the longest runs start first."""
    norms = ("LayerNorm", "BatchNorm", "PowerNorm") if quick else tuple(NORMS)
    return [(norm, batch, seed, STEPS) for batch in ((2,) if quick else (8, 2)) for norm in norms for seed in SEEDS]


def train_one(norm: str, batch: int, seed: int, steps: int, advance: Callable[[float], None]) -> Run:
    """Trains and validates one model on the CPU."""
    train_texts, validation_texts = model.load_topics()
    torch.manual_seed(seed)
    net = model.CharTransformer(NORMS[norm])
    layers = [module for module in net.modules() if isinstance(module, PowerNorm)]
    done = Run(norm, batch, seed, [], 0.0, [Trace() for _ in layers])
    for layer, trace in zip(layers, done.traces, strict=True):
        _watch(layer, trace, done.losses)

    def after(step: int, loss: float) -> None:
        done.losses.append(loss)
        if step % 20 == 19 or step == steps - 1:
            advance(step % 20 + 1)

    model.train(net, train_texts, batch, steps, seed, after)
    done.validation = model.validate(net, validation_texts)
    return done


def _watch(norm: PowerNorm, trace: Trace, losses: list[float]) -> None:
    """Records the state at every TRACE_EVERY-th training forward; ``losses`` has one entry per finished step."""

    @torch.no_grad()
    def look(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if norm.training and len(losses) % TRACE_EVERY == 0:
            mean_sq = power_norm_op(args[0], norm.running_psi2, num_groups=norm.num_groups, eps=norm.epsilon)[1]
            trace.steps.append(len(losses))
            trace.batch.append(mean_sq.tolist())
            trace.psi2.append(norm.running_psi2.tolist())
            trace.nu.append(norm.running_nu.tolist())

    norm.register_forward_pre_hook(look)
