"""Trains the priors and does the tasks of the survey with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion import sample
from ...inverse import Downsample, Fourier, Mask, Measurement, Operator, anomaly_map, denoise, reconstruct, segment
from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import Workers
from . import model as models
from .model import TEST, TRAIN, Gaussian, State, auroc, dice, frechet
from .records import (
    ANOMALY,
    CASES,
    DENOISING,
    FOURIER,
    INPAINTING,
    LEVELS,
    MASKS,
    MEANS,
    SAMPLERS,
    SMALL,
    WHOLE,
    Measured,
    Photograph,
    Record,
)

# Steps and batch of the prior and of the masks, test images, samples, and steps of a reconstruction.
SIZES = {SMALL: (2500, 128, 1500, 100, 600, 50), WHOLE: (8000, 256, 5000, 200, 1000, 100)}
PHOTOGRAPHS = {"medical_images": "a brain's slice", "photos": "a photograph"}
PATCH_STEPS = 4000
DRAWS, STD = 8, 0.5
ROWS = torch.zeros(8, 1, dtype=torch.bool).index_fill_(0, torch.tensor([0, 1, 4, 7]), True)
LEFT = torch.arange(8) < 4


def jobs(quick: bool) -> list[tuple[str, str]]:
    """Task and case."""
    return [(task, case) for case in ((SMALL,) if quick else CASES) for task in TASKS]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Trains a prior for each case, then does all tasks in parallel; and the real images that are there."""
    datasets.require_sklearn()
    todo = jobs(quick)
    found_cases = list(dict.fromkeys(case for _, case in todo))
    real = [name for name in PHOTOGRAPHS if data_files.has(data, name)]
    first: list[tuple[Any, ...]] = [SIZES[case][:2] for case in found_cases]
    total = sum(steps for steps, _ in first) + len(todo) + PATCH_STEPS * len(real)
    advance = progress.bar("tasks", total)
    with Workers(len(todo)) as workers:
        states = dict(zip(found_cases, workers.run(models.train_digits, first, advance), strict=True))
        records = workers.run(work, [(task, case, states[case]) for task, case in todo], advance)
        records += workers.run(photograph, [(name, data, PATCH_STEPS) for name in real], advance)
    return records


def work(task: str, case: str, state: State, advance: Callable[[float], None]) -> Measured:
    """Does one task."""
    record = TASKS[task](case, state)
    advance(1)
    return record


def _test(case: str) -> Tensor:
    return models.digits()[0][TEST][: SIZES[case][3]].view(-1, 8, 8)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).square().mean())


def _some(images: Tensor) -> list[list[float]]:
    return [[round(v, 3) for v in image] for image in images[:8].flatten(1).tolist()]


# --- tasks ---


def _samplers(case: str, state: State) -> Measured:
    model, images = models.prior(state), models.digits()[0]
    count = SIZES[case][4]
    x_T = torch.randn(count, 8, 8, generator=_seeded())
    order = torch.randperm(len(images), generator=_seeded())
    figures = {"two halves of the data": frechet(images[order[::2]], images[order[1::2]])}
    runs: list[tuple[str, str, int, dict[str, Any]]] = [(f"DDIM, {n}", "ddim", n, {}) for n in (10, 20, 50)]
    runs += [(f"++2M, {n}", "dpmpp_2m", n, {"grid": "lambda"}) for n in (10, 20)]
    runs.append(("DDIM with eta 1, 100", "ddim", 100, {"eta": 1.0}))
    if case == WHOLE:
        runs.append(("ancestral, 1000", "ancestral", 1000, {}))
    for name, solver, steps, how in runs:
        x = sample(model, x_T, solver=solver, steps=steps, generator=_seeded(1), **how)
        figures[name] = frechet(x.flatten(1), images)
    return Measured(SAMPLERS, case, figures)


def _denoising(case: str, state: State) -> Measured:
    truth = _test(case)
    y = truth + STD * torch.randn(truth.shape, generator=_seeded())
    wiener = _gaussian().conditional(torch.eye(64), y.flatten(1), STD**2).view_as(y)
    found = {"noisy": y, "Wiener": wiener, "D": denoise(models.prior(state), y, STD)}
    return Measured(DENOISING, case, {name: _error(x, truth) for name, x in found.items()})


def _gaussian() -> Gaussian:
    return Gaussian(models.digits()[0][TRAIN])


def _matrix(operator: Operator) -> Tensor:
    """The operator as a real matrix (M, 64)."""
    y = operator(torch.eye(64).view(64, 8, 8))
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1).T


def _reconstructions(
    operator: Operator, truth: Tensor, state: State, methods: dict[str, dict[str, Any]], steps: int
) -> dict[str, Tensor]:
    """By each method: one sample of each image, and the mean of eight."""
    found = {}
    for method, options in methods.items():
        seen = Measurement(operator, operator(truth), method=method, **options)
        how: dict[str, Any] = {"n_samples": DRAWS, "solver": "ddim", "eta": 1.0, "steps": steps}
        x = reconstruct(models.prior(state), seen, truth.shape, generator=_seeded(), **how)
        found[method], found[f"{method}, {MEANS}"] = x[0], x.mean(0)
    return found


def _fourier(case: str, state: State) -> Measured:
    truth, operator = _test(case), Fourier(ROWS, real=True)
    y = operator(truth)
    seen = torch.view_as_real(y).flatten(1)
    gaussian = _gaussian().conditional(_matrix(operator), seen, 1e-4).view_as(truth)
    methods: dict[str, dict[str, Any]] = {"replacement": {}, "repaint": {"resample": 5}, "ddnm": {}}
    found = {"zero-filled": operator.pinv(y), "Gaussian": gaussian}
    found |= _reconstructions(operator, truth, state, methods, SIZES[case][5])
    shown = {"truth": _some(truth)} | {name: _some(found[name]) for name in (*found,) if MEANS not in name}
    shown |= {f"repaint, {MEANS}": _some(found[f"repaint, {MEANS}"])}
    return Measured(FOURIER, case, {name: _error(x, truth) for name, x in found.items()}, shown)


def _inpainting(case: str, state: State) -> Measured:
    truth, operator, gaussian = _test(case), Mask(LEFT), _gaussian()
    y = operator(truth)
    best = gaussian.conditional(_matrix(operator), y.flatten(1), 1e-4).view_as(truth)
    found = {"mean image": gaussian.mean.float().view(8, 8).expand_as(truth), "Gaussian": best}
    methods: dict[str, dict[str, Any]] = {"replacement": {}, "repaint": {"resample": 5}, "dps": {"step": 1.0}}
    methods["pigdm"] = {}
    found |= _reconstructions(operator, truth, state, methods, SIZES[case][5])
    figures = {name: _error(x[..., 4:], truth[..., 4:]) for name, x in found.items()}
    names = ("Gaussian", "replacement", "repaint", "dps", "pigdm", f"dps, {MEANS}")
    shown = {"truth": _some(truth), "measured": _some(torch.where(LEFT, truth, 0.0))}
    return Measured(INPAINTING, case, figures, shown | {name: _some(found[name]) for name in names})


def _anomaly(case: str, state: State) -> Measured:
    clean, gaussian, model = _test(case), _gaussian(), models.prior(state)
    corner = torch.randint(0, 6, (len(clean), 2), generator=_seeded())
    place = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")) - corner[:, :, None, None]
    spoiled = ((place >= 0) & (place < 3)).all(1)
    x = torch.where(spoiled, 2 * torch.rand(clean.shape, generator=_seeded(1)) - 1, clean)
    maps = {"distance from the mean": (x - gaussian.mean.float().view(8, 8)).abs()}
    maps["Gaussian, leaving one out"] = gaussian.surprise(x.flatten(1)).view_as(x)
    for level in LEVELS:
        maps[f"level {level:g}"] = anomaly_map(model, x, level=level, n=DRAWS, steps=20, generator=_seeded(2))
    figures = {name: auroc(value, spoiled) for name, value in maps.items()}
    shown = {"clean": _some(clean), "spoiled": _some(x), "patch": _some(spoiled.float())}
    names = ("Gaussian, leaving one out", "level 0.3", "level 1")
    return Measured(ANOMALY, case, figures, shown | {name: _some(maps[name]) for name in names})


def _masks(case: str, state: State) -> Measured:
    steps = SIZES[case][2]
    known, truth = models.digits()[0][TRAIN], _test(case).flatten(1)
    x, right = models.noisy(truth, 0), models.masks(truth) > 0
    seen, wanted = models.noisy(known, 1), models.masks(known) > 0
    best = max(torch.linspace(-1, 1, 21).tolist(), key=lambda level: dice(seen > level, wanted))
    direct = models.train_direct(known, steps, 128)
    model = models.train_masks(known, steps, 128, lambda amount: None)
    figures = {"threshold": dice(x > best, right), "direct training": dice(direct(x) > 0, right)}
    shown = {"noisy": _some(x), "true mask": _some(right.float())}
    for n in (1, 5, 16):
        mean, std = segment(model, x.view(-1, 1, 8, 8), n, generator=_seeded())
        figures[f"mean of {n}" if n > 1 else "1 mask"] = dice(mean.flatten(1) > 0.5, right)
        shown[f"mean of {n}" if n > 1 else "1 mask"] = _some(mean)
    figures["AUROC of the spread"] = auroc(std, (mean.flatten(1) > 0.5) != right)
    return Measured(MASKS, case, figures, shown | {"spread of 16": _some(std)})


TASKS: dict[str, Callable[[str, State], Measured]] = {
    MASKS: _masks,
    FOURIER: _fourier,
    INPAINTING: _inpainting,
    SAMPLERS: _samplers,
    ANOMALY: _anomaly,
    DENOISING: _denoising,
}


# --- real images ---


def photograph(name: str, data: Path, steps: int, advance: Callable[[float], None]) -> Photograph:
    """Doubles the resolution of one real image, patch by patch; the prior is trained on patches of other images."""
    arrays = data_files.load(data, name)
    known, image = _medical(arrays) if name == "medical_images" else _photos(arrays)
    order = torch.randint(len(known), (20000,), generator=_seeded())
    state = models.train_prior(known[order], torch.full((20000,), 10), steps, 256, advance)
    truth, operator = _patches(image).view(-1, 8, 8), Downsample(2)
    y = operator(truth)
    gaussian = Gaussian(known[order]).conditional(_matrix(operator), y.flatten(1), 1e-4).view_as(truth)
    size = tuple(image.shape)
    found = _reconstructions(operator, truth, state, {"ddnm": {}, "pigdm": {}}, 50)
    small = _whole(y, (size[0] // 2, size[1] // 2))
    smooth = F.interpolate(small[None, None], size, mode="bicubic", align_corners=False)[0, 0]
    whole = {"bicubic": smooth, "Gaussian": _whole(gaussian, size)}
    whole |= {way: _whole(x, size) for way, x in found.items()}
    psnr = {way: float(10 * torch.log10(4 / (x - image).square().mean())) for way, x in whole.items()}
    names = ("bicubic", "Gaussian", "pigdm", f"pigdm, {MEANS}")
    shown = {"truth": image, "half": small, **{way: whole[way] for way in names}}
    return Photograph(
        PHOTOGRAPHS[name], psnr, {way: [[round(v, 3) for v in row] for row in x.tolist()] for way, x in shown.items()}
    )


def _scaled(image: Any) -> Tensor:
    return torch.as_tensor(image).float() / 127.5 - 1


def _medical(arrays: Any) -> tuple[Tensor, Tensor]:
    """Patches of slices below, and a slice 10 mm above them."""
    brain = _scaled(arrays["mni_t1"])
    known = torch.cat([_patches(brain[1:97, 2:114, z]) for z in range(25, 41)])
    return known, brain[1:97, 2:114, 45]


def _photos(arrays: Any) -> tuple[Tensor, Tensor]:
    """Patches of a cat and a cup of coffee, in gray; and the middle of the photographer."""
    grays = [_scaled(arrays[name]).mean(2)[:288, :400] for name in ("chelsea", "coffee")]
    return torch.cat([_patches(gray) for gray in grays]), _scaled(arrays["camera"])[64:192, 160:288]


def _patches(image: Tensor) -> Tensor:
    """All patches (N, 64) of 8 × 8 pixels side by side."""
    return image.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 64)


def _whole(patches: Tensor, size: tuple[int, ...]) -> Tensor:
    """The image of patches (N, k, k) side by side."""
    k = patches.shape[-1]
    return patches.view(size[0] // k, size[1] // k, k, k).transpose(1, 2).reshape(size)
