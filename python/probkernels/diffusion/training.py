"""Trains a denoiser by score matching, with dropped conditions and runs that resume from a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks, digests
from .._core.errors import ModelMismatchError, message
from ..training import EMA, Checkpoint, minimize
from ..training.loop import moving
from ._net import check_state
from .denoiser import Denoiser
from .gradients._inputs import undeclared
from .losses import dsm_loss
from .noise import mixed


def drop_condition(cond: Tensor, null: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replaces random rows of a condition by the null condition, to train for classifier-free guidance.

    Args:
        cond: (B, ...) conditions.
        null: (...) or (1, ...) null condition, in cond's dtype.
        share: probability in [0, 1] of replacing a row.
        generator: generator for the draws, on the CPU.

    Raises:
        TypeError, ValueError: ``share`` is not a number in [0, 1], or ``null`` has another dtype or shape.

    Reference:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import drop_condition
        >>> drop_condition(torch.tensor([1, 2, 3]), torch.tensor(0), 1.0)
        tensor([0, 0, 0])
    """
    checks.unit_interval("drop_condition", "share", share)
    _check_null("drop_condition", cond, null)
    gone = (torch.rand(len(cond), generator=generator, device="cpu") < share).to(cond.device)
    return torch.where(gone.view(-1, *[1] * (cond.ndim - 1)), null.to(cond), cond)


def _check_null(op: str, cond: Tensor, null: Tensor) -> None:
    """A null condition that ``cond`` can hold: converted to integers, 0.5 would be 0, perhaps a class."""
    if not isinstance(null, Tensor) or (null.dtype.is_floating_point and not cond.dtype.is_floating_point):
        raise TypeError(message(op, "null", f"a {cond.dtype} tensor, as cond is", checks.describe(null)))
    if null.ndim > cond.ndim or any(n not in (1, m) for n, m in zip(null.shape[::-1], cond.shape[::-1], strict=False)):
        checks.shape(op, "null", null, cond.shape[1:], "as a row of cond")


@dataclass
class Training:
    """The result of :func:`fit`.

    Args:
        model: the trained denoiser.
        average: a copy with averaged weights; sample from this one.
        losses: the loss of each step.

    Example:
        >>> from probkernels.diffusion import Training
        >>> len(Training.__dataclass_fields__)
        3
    """

    model: Denoiser
    average: Denoiser
    losses: list[float]


def fit(
    model: Denoiser,
    x0: Tensor,
    cond: Tensor | None = None,
    *,
    null: Tensor | None = None,
    drop: float | None = None,
    steps: int = 1000,
    batch_size: int = 256,
    optimizer: torch.optim.Optimizer | None = None,
    lr: Callable[[float], float] | None = None,
    ema: float = 0.999,
    weight: str | None = None,
    times: str | None = None,
    loss: Callable[..., Tensor] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> Training:
    """Trains a denoiser by score matching, in place.

    Batches are drawn with replacement. The draws of step n, also those of dropout, depend only on ``seed`` and n, so a
    run that resumes from a checkpoint ends with exactly the same weights. This does not hold for a network that draws
    from NumPy, Python or generators of its own.

    Args:
        model: the denoiser to train. Training runs on its device. A process that is a ``torch.nn.Module`` is trained,
            averaged and kept in checkpoints like the net.
        x0: (N, *S) data, on any device.
        cond: (N, ...) conditions of the data.
        null: the null condition, to train for classifier-free guidance.
        drop: probability that ``null`` replaces a condition, 0.1 by default.
        steps: total number of steps, including steps before the checkpoint.
        batch_size: rows per step.
        optimizer: optimizer of the model's parameters; by default Adam with learning rate 2e-3. Its learning rates are
            the same before and after.
        lr: learning-rate schedule: maps the finished fraction of the training to a factor on the learning rates. By
            default the rates are halved after each quarter.
        ema: decay of the averaged weights.
        weight: weight of the loss, see :func:`dsm_loss`.
        times: kind of :func:`draw_times`; "stratified" by default.
        loss: replaces :func:`dsm_loss`, ``weight`` and ``times``. Called as ``loss(model, x0, cond, generator=...)``.
        seed: seed of all draws.
        checkpoint: a file to write while training, atomically. If it exists, training resumes from it.
        checkpoint_every: steps between two writes of the checkpoint.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: an argument is out of range, there are no data, the loss of a step is not finite, the
            optimizer has none of the model's parameters, or a tensor of the process or of ``time`` requires a gradient
            and is not a parameter of the model.
        CorruptStreamError: the checkpoint is damaged, or the file is not a checkpoint.
        ModelMismatchError: the checkpoint belongs to another model, other settings or other data.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser, fit
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.scale = torch.nn.Parameter(torch.zeros(()))
        ...     def forward(self, x, t):
        ...         return self.scale * x
        >>> done = fit(Denoiser(Net(), VP(), pred="v"), torch.randn(100, 2), steps=3, progress=False)
        >>> len(done.losses)
        3
    """
    _check(model, x0, cond, steps, batch_size, checkpoint_every)
    _refuse_unused(cond, null, drop, loss, weight, times)
    _refuse_unregistered(model)
    drop, times = 0.1 if drop is None else drop, "stratified" if times is None else times
    device = next(model.parameters()).device
    optimizer = (
        moving("fit", model, optimizer) if optimizer is not None else torch.optim.Adam(model.parameters(), lr=2e-3)
    )
    average = EMA(model, ema)
    losses: list[float] = []
    factors: list[float] = []  # on the rates, of the steps done
    factor = lr or _halving
    saved = None
    if checkpoint is not None:
        facts: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "seed": seed, "drop": drop, "ema": ema}
        facts |= {"weight": weight, "times": times, "loss": loss is not None}
        facts |= {"optimizer": [type(optimizer).__name__, *(group["lr"] for group in optimizer.param_groups)]}
        facts |= {"x0": digests.of_data(x0), "cond": digests.of_data(cond), "null": digests.of_data(null)}
        saved = Checkpoint(checkpoint, "diffusion.fit", facts)
        if saved.exists():
            losses, factors = _resume(saved, model, average, optimizer)
            if factors != [float(factor(n / steps)) for n in range(len(factors))]:
                raise saved.mismatch(["lr"])
    if loss is None:

        def loss(model: Denoiser, x: Tensor, c: Tensor | None, generator: torch.Generator) -> Tensor:
            return dsm_loss(model, x, c, weight=weight, times=times, generator=generator)

    def step_loss(n: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(mixed(seed, n))
        rows = torch.randint(len(x0), (batch_size,), generator=generator, device="cpu")
        c = None if cond is None else cond[rows.to(cond.device)].to(device)
        if c is not None and null is not None:
            c = drop_condition(c, null, drop, generator)
        with _seeded(mixed(seed, ~n), device):
            return loss(model, x0[rows.to(x0.device)].to(device), c, generator=generator)

    def lr_schedule(fraction: float) -> float:
        factors.append(float(factor(fraction)))
        return factors[-1]

    def after(n: int, value: float) -> None:
        average.update(model)
        losses.append(value)

    def save() -> None:
        assert saved is not None
        parts = {"model": model.state_dict(), "average": average.state_dict()}
        saved.save({**parts, "optimizer": optimizer.state_dict()["state"], "losses": losses, "factors": factors})

    model.train()
    minimize(
        step_loss, optimizer, steps, lr_schedule=lr_schedule, start=len(losses), after=after,
        save=None if saved is None else save, save_every=checkpoint_every, progress=progress, name="fit",
    )  # fmt: skip
    model.eval()
    averaged = average.module
    assert isinstance(averaged, Denoiser)
    return Training(model, averaged, losses)


def _refuse_unused(cond: object, null: object, drop: object, loss: object, weight: object, times: object) -> None:
    """Refuses arguments that would have no effect."""
    if null is not None and cond is None:
        raise ValueError(message("fit", "null", "none, as there is no cond to replace", "a condition"))
    if drop is not None and null is None:
        hint = "null is what dropped conditions become"
        raise ValueError(message("fit", "drop", "none, as there is no null", repr(drop), hint))
    for name, value in (("weight", weight), ("times", times)):
        if loss is not None and value is not None:
            raise ValueError(message("fit", name, "none, as loss is given", repr(value), "the loss has its own"))


def _refuse_unregistered(model: Denoiser) -> None:
    """What is learned outside the model's parameters would be neither averaged nor in checkpoints."""
    process, device = model.process, next(model.parameters()).device
    with torch.enable_grad():
        t = torch.linspace(process.t_min, process.t_max, 65, dtype=torch.float64, device="cpu").to(device)
        values = [process.alpha(t), process.sigma(t), *([] if model.time is None else [model.time(t)])]
        found = undeclared(torch.stack([value.double().sum() for value in values]), [*model.parameters()])
    if found:
        expected = "a process and a 'time' whose tensors that require a gradient are parameters of the model"
        hint = "make the process a torch.nn.Module too, class Learned(torch.nn.Module, Process), or detach its tensors"
        raise ValueError(message("fit", "model", expected, checks.describe(found[0]), hint))


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's own generators, from which dropout draws, and restores them at the end."""
    module = torch.get_device_module(device) if device.type in ("cuda", "xpu") else None
    before, on_device = torch.get_rng_state(), None if module is None else module.get_rng_state(device)
    torch.default_generator.manual_seed(seed)
    if module is not None:
        with module.device(device):
            module.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if module is not None:
            module.set_rng_state(on_device, device)


def _halving(part: float) -> float:
    return 0.5 ** int(4 * part)


def _check(model: Denoiser, x0: Tensor, cond: Tensor | None, *counts: int) -> None:
    if not isinstance(model, Denoiser):
        raise TypeError(message("fit", "model", "a Denoiser", checks.describe(model)))
    check_state("fit", "x0", x0)
    if len(x0) == 0:
        raise ValueError(message("fit", "x0", "at least one row of data", "none"))
    if cond is not None and len(cond) != len(x0):
        raise ValueError(message("fit", "cond", f"{len(x0)} rows, as x0 has", f"{len(cond)}"))
    for name, count in zip(("steps", "batch_size", "checkpoint_every"), counts, strict=True):
        checks.integer("fit", name, count)


def _resume(
    saved: Checkpoint, model: nn.Module, average: EMA, optimizer: torch.optim.Optimizer
) -> tuple[list[float], list[float]]:
    """Loads a checkpoint into model, average and optimizer. Returns the losses and learning-rate factors so far."""
    state = saved.load()
    try:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
    except (RuntimeError, ModelMismatchError) as error:
        raise ModelMismatchError(f"'{saved.path}': a checkpoint of another model: {error}") from None
    optimizer.load_state_dict({"state": state["optimizer"], "param_groups": optimizer.state_dict()["param_groups"]})
    return state["losses"], state["factors"]
