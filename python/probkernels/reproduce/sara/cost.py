"""Memory and time of fine-tuning methods, on a wide version of the SaRA experiment's diffusion model."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from ... import ops, optim
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from . import peers
from .records import COST_STEPS, COST_WIDTH, DENSITY, Cost

WAYS = ("full AdamW", "SaRA", "SaRA, 8-bit moments", "LoRA", "SHiRA (peft)")


def measure_all(progress: Progress, width: int = COST_WIDTH) -> list[Cost]:
    """Measures each method in its own process, one after another, so that none disturbs another."""
    ways = [way for way in WAYS if "peft" not in way or peers.has_shira()]
    advance = progress.bar("measuring costs", len(ways))
    return [run_jobs(measure, [(way, width)], advance)[0] for way in ways]


def measure(way: str, width: int, advance: Callable[[float], None]) -> Cost:
    """Trains a few steps and measures memory and time."""
    torch.manual_seed(0)
    model = toy.Net(width)
    toy.evaluate(model, toy.draw_new, toy.BATCH)
    alone, before = live(model), resident()
    optimizer, trained, file = prepare(way, model)
    times = []
    for step in range(COST_STEPS):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(step)
        loss = toy.noise_loss(model, toy.draw_new(toy.BATCH, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    peak, now = resident("VmHWM"), live(model)
    advance(1)
    grown = None if peak is None or before is None else peak - before
    return Cost(way, trained, now - alone, grown, median(times), file())


def prepare(way: str, model: nn.Module) -> tuple[torch.optim.Optimizer, int, Callable[[], int]]:
    """The optimizer, its number of trained parameters, and a function that returns the size of the saved file."""
    if way.startswith("SaRA"):
        parameters = [p.detach() for p in model.parameters()]
        limit = ops.magnitude_kth(parameters, int(DENSITY * sum(p.numel() for p in parameters)))
        moments = "int8" if "8-bit" in way else "float32"
        sara = optim.SaRAAdamW(model, threshold=limit, lr=1e-3, moments=moments)
        return sara, sara.adapter.count, lambda: saved(lambda folder: sara.adapter.save(folder / "delta.safetensors"))
    save = None
    if way != "full AdamW":
        save = getattr(peers.add(way.split()[0], model, DENSITY, seed=0), "save_pretrained", None)
    trained = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    size = (lambda: saved(save)) if save else (lambda: 4 * count)
    return torch.optim.AdamW(trained, lr=1e-3, fused=True), count, size


def saved(save: Callable[[Path], object]) -> int:
    """Bytes of the safetensors file that ``save`` writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def live(model: nn.Module) -> int:
    """Bytes of all tensors that Python can see, the gradients among them."""
    held = [p.grad for p in model.parameters()]  # alive only once asked for
    tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]  # isinstance would wake lazy objects
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.layout == torch.strided}
    del held
    return sum(sizes.values())


def resident(which: str = "VmRSS") -> int | None:
    """Bytes of memory that the process holds now (VmRSS), or held at most since the last call for VmRSS (VmHWM)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        if which == "VmRSS":
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # forgets the old maximum
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))
    except (OSError, StopIteration):  # not Linux
        return None
