"""Training: averaged weights, conditions left out at random, and a loop that goes on where it stopped."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .._core import checks, digests, files
from .._core.errors import CorruptStreamError, ModelMismatchError, message
from ._net import check_state
from .denoiser import Denoiser
from .losses import dsm_loss
from .noise import mixed

FORMAT = "probkernels.diffusion-training"
HALF = (torch.float16, torch.bfloat16)


class EMA:
    """An exponential moving average of a module's parameters; buffers are copied.

    Averages of half precision are kept in float32, in ``wide``, as theirs would stand still: an update of less than
    half a rounding step changes nothing. ``module`` has them rounded.

    Args:
        module: what is averaged; is not changed.
        decay: in [0, 1), reached at once or, with ``warm_up``, as (1 + n) / (10 + n) after n updates.
        warm_up: early averages forget the start sooner.

    Raises:
        TypeError, ValueError: decay out of range.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import EMA
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> torch.nn.init.constant_(net.weight, 1.0).item()
        1.0
        >>> ema = EMA(net, decay=0.9)
        >>> torch.nn.init.constant_(net.weight, 2.0).item()
        2.0
        >>> ema.update(net)
        >>> round(ema.module.weight.item(), 6)
        1.1
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, *, warm_up: bool = False) -> None:
        checks.fraction("EMA", "decay", decay)
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay, self.warm_up, self.updates = decay, warm_up, 0
        self.wide = {name: p.float() for name, p in self.module.named_parameters() if p.dtype in HALF}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards ``module``, 1 - decay of the way."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay
        self.updates += 1
        for (name, mine), theirs in zip(self.module.named_parameters(), module.parameters(), strict=True):
            if mine.dtype in HALF:
                self.wide[name] = self._precise(name, mine).lerp_(theirs.detach().float(), 1 - decay)
                mine.copy_(self.wide[name])
            else:
                mine.lerp_(theirs.detach(), 1 - decay)
        for ours, other in zip(self.module.buffers(), module.buffers(), strict=True):
            ours.copy_(other)

    def _precise(self, name: str, rounded: Tensor) -> Tensor:
        """The float32 average of a parameter; where something else was written to the module, that."""
        kept = self.wide.get(name)
        if kept is None:
            return rounded.float()
        kept = kept.to(rounded.device)
        return torch.where(kept.to(rounded.dtype) == rounded, kept, rounded.float())

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on with the same averages."""
        return {"module": self.module.state_dict(), "wide": dict(self.wide), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave.

        Raises:
            ModelMismatchError: it is of another module.
        """
        halves = {name for name, p in self.module.named_parameters() if p.dtype in HALF}
        if set(state["wide"]) != halves:
            theirs = sorted(state["wide"])[:3]
            raise ModelMismatchError(
                f"EMA: averages of another module: float32 ones of {theirs}, not {sorted(halves)[:3]}"
            )
        self.module.load_state_dict(state["module"])
        self.wide = {name: t.detach().float().clone() for name, t in state["wide"].items()}
        self.updates = state["updates"]


def drop_condition(cond: Tensor, null: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Rows of a condition replaced by the one that means none, at random: training for classifier-free guidance.

    Args:
        cond: (B, ...).
        null: (...) or (1, ...), of cond's dtype.
        share: in [0, 1], of the rows.
        generator: on the CPU.

    Raises:
        TypeError, ValueError: share out of range.

    Reference:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import drop_condition
        >>> drop_condition(torch.tensor([1, 2, 3]), torch.tensor(0), 1.0)
        tensor([0, 0, 0])
    """
    checks.unit_interval("drop_condition", "share", share)
    gone = (torch.rand(len(cond), generator=generator, device="cpu") < share).to(cond.device)
    return torch.where(gone.view(-1, *[1] * (cond.ndim - 1)), null.to(cond), cond)


@dataclass
class Training:
    """What :func:`fit` leaves.

    model: the trained denoiser. average: the same with averaged weights, the one to sample from. losses: of each step.

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
    """Trains a denoiser by score matching; the model is changed in place.

    Batches are drawn with replacement. What step n draws depends on ``seed`` and n alone, so a run that went on from a
    checkpoint ends with the very same weights.

    Args:
        model: what is trained, on its own device.
        x0: (N, *S) data, on any device.
        cond: (N, ...) of the data.
        null: the condition that means none, to train for guidance.
        drop: the share of conditions that ``null`` replaces, 0.1 by default.
        steps: in all, those before the checkpoint included.
        batch_size: rows a step.
        optimizer: of the model's parameters; by default Adam with rate 2e-3.
        lr: factor on the optimizer's rates, a function of the part of the training that is done; by default halved
            after each quarter.
        ema: decay of the averaged weights.
        weight: see :func:`dsm_loss`.
        times: see :func:`draw_times`; "stratified" by default.
        loss: called as ``loss(model, x0, cond, generator=...)`` in place of :func:`dsm_loss`, with its own weight and
            times.
        seed: of everything drawn.
        checkpoint: a file that is written whole or not at all while training; if it exists, training goes on from it.
        checkpoint_every: steps between writing it.
        progress: shows a bar.

    Raises:
        TypeError, ValueError: settings out of range; no data; a loss that is not finite, named with its step.
        CorruptStreamError: the checkpoint is damaged, or none.
        ModelMismatchError: the checkpoint is of another model, other settings or other data, whose digest it holds.

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
    drop, times = 0.1 if drop is None else drop, "stratified" if times is None else times
    device = next(model.parameters()).device
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=2e-3)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = EMA(model, ema)
    file = None if checkpoint is None else Path(checkpoint)
    facts: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "seed": seed, "drop": drop, "ema": ema}
    facts |= {"weight": weight, "times": times, "loss": loss is not None}
    if file is not None:
        facts |= {"optimizer": [type(optimizer).__name__, *rates]}
        facts |= {"x0": digests.of_data(x0), "cond": digests.of_data(cond), "null": digests.of_data(null)}
    losses: list[float] = []
    factors: list[float] = []  # on the rates, of the steps done
    factor = lr or _halving
    if file is not None and file.exists():
        losses, factors = _read(file, model, average, optimizer, facts)
        if factors != [float(factor(n / steps)) for n in range(len(factors))]:
            raise _another(file, ["lr"])
    if loss is None:

        def loss(model: Denoiser, x: Tensor, c: Tensor | None, generator: torch.Generator) -> Tensor:
            return dsm_loss(model, x, c, weight=weight, times=times, generator=generator)

    model.train()
    with tqdm(total=steps, initial=len(losses), disable=checks.hidden(progress), unit="step") as bar:
        for n in range(len(losses), steps):
            generator = torch.Generator("cpu").manual_seed(mixed(seed, n))
            rows = torch.randint(len(x0), (batch_size,), generator=generator, device="cpu")
            c = None if cond is None else cond[rows.to(cond.device)].to(device)
            if c is not None and null is not None:
                c = drop_condition(c, null, drop, generator)
            value = loss(model, x0[rows.to(x0.device)].to(device), c, generator=generator)
            number = value.item()
            if not torch.isfinite(value.detach()):
                raise ValueError(message("fit", "model", f"a finite loss in step {n}", repr(number), "smaller rates?"))
            factors.append(float(factor(n / steps)))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factors[-1]
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            average.update(model)
            losses.append(number)
            if file is not None and ((n + 1) % checkpoint_every == 0 or n + 1 == steps):
                _write(file, model, average, optimizer, losses, factors, facts)
            bar.set_postfix(loss=f"{number:.4f}", refresh=False)
            bar.update()
    model.eval()
    averaged = average.module
    assert isinstance(averaged, Denoiser)
    return Training(model, averaged, losses)


def _refuse_unused(cond: object, null: object, drop: object, loss: object, weight: object, times: object) -> None:
    """Arguments that nothing would look at."""
    if null is not None and cond is None:
        raise ValueError(message("fit", "null", "none, as there is no cond to replace", "a condition"))
    if drop is not None and null is None:
        hint = "null is what dropped conditions become"
        raise ValueError(message("fit", "drop", "none, as there is no null", repr(drop), hint))
    for name, value in (("weight", weight), ("times", times)):
        if loss is not None and value is not None:
            raise ValueError(message("fit", name, "none, as loss is given", repr(value), "the loss has its own"))


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
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(message("fit", name, "a whole number >= 1", checks.describe(count)))


# --- checkpoints ---


def _write(
    file: Path, model: nn.Module, average: EMA, optimizer: torch.optim.Optimizer, losses: list[float],
    factors: list[float], facts: Any,
) -> None:  # fmt: skip
    tensors = {f"model/{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"average/{name}": t for name, t in average.module.state_dict().items()}
    tensors |= {f"wide/{name}": t for name, t in average.wide.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64, device="cpu")
    tensors["factors"] = torch.tensor(factors, dtype=torch.float64, device="cpu")
    numbers: dict[str, Any] = {}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                numbers[f"{index}/{name}"] = value
    text = {"format": FORMAT, "facts": json.dumps(facts), "numbers": json.dumps(numbers)}
    files.write(file, {name: t.clone() for name, t in tensors.items()}, text)  # tied weights are two entries


def _another(file: Path, changed: list[str]) -> ModelMismatchError:
    differs = f"'{file}': a checkpoint of another training, which differs in {', '.join(changed)}"
    return ModelMismatchError(f"{differs}. Hint: name another file, or delete this one to start anew")


def _read(
    file: Path, model: nn.Module, average: EMA, optimizer: torch.optim.Optimizer, facts: Any
) -> tuple[list[float], list[float]]:
    """The losses and the factors on the rates so far; everything else is taken over."""
    tensors, text = files.read(file)
    if text.get("format") != FORMAT:
        raise CorruptStreamError(f"'{file}': no checkpoint of fit()")
    theirs = json.loads(text["facts"])
    changed = sorted(key for key in {*theirs, *facts} if theirs.get(key) != facts.get(key))
    if changed:
        raise _another(file, changed)
    parts: dict[str, dict[str, Tensor]] = {
        part: {} for part in ("model", "average", "wide", "optimizer", "losses", "factors")
    }
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*parts["optimizer"].items(), *json.loads(text["numbers"]).items()]:
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    try:
        model.load_state_dict(parts["model"])
        losses = parts["losses"][""].tolist()
        average.load_state_dict({"module": parts["average"], "wide": parts["wide"], "updates": len(losses)})
    except (RuntimeError, ModelMismatchError) as error:
        raise ModelMismatchError(f"'{file}': a checkpoint of another model: {error}") from None
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return losses, parts["factors"][""].tolist()
