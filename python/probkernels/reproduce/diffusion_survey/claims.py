"""Claims and tables of the experiment with tasks of diffusion models."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import (
    ANOMALY,
    DENOISING,
    EXPECTED,
    FOURIER,
    INPAINTING,
    MASKS,
    MEANS,
    SAMPLERS,
    TASKS,
    Photograph,
    Record,
    cases,
    of,
)

CAPTIONS = {
    SAMPLERS: "Frechet distance of samples to the data, in pixels, by sampler and steps.",
    DENOISING: "Mean squared error after noise of standard deviation 0.5.",
    FOURIER: "Mean squared error of reconstructions from half of the Fourier rows.",
    INPAINTING: "Mean squared error on the missing right half.",
    ANOMALY: "Area under the ROC curve for the pixels of a spoiled 3 × 3 patch; eight noises a level.",
    MASKS: "Dice's coefficient of masks of noisy digits; last, how well the spread tells wrong pixels.",
}


def claims(records: Sequence[Record]) -> list[Claim]:
    """Which of two methods is better; no figure as such."""
    return [claim for case in cases(records) for claim in _of_case(records, case)]


def _of_case(records: Sequence[Record], case: str) -> list[Claim]:
    def less(task: str, better: str, worse: str) -> Claim:
        seen, theirs = of(records, task, case).figures, EXPECTED[task]
        note = f"{seen[better]:.4f} ÷ {seen[worse]:.4f}; another program gave {theirs[better] / theirs[worse]:.2f}"
        text = f"{case}, {task}: error of {better} ÷ that of {worse}"
        return Claim(text, seen[better] / seen[worse], "< 1", seen[better] < seen[worse], note)

    def more(task: str, better: str, worse: str) -> Claim:
        seen, theirs = of(records, task, case).figures, EXPECTED[task]
        note = f"{seen[better]:.3f} − {seen[worse]:.3f}; another program gave {theirs[better] - theirs[worse]:.3f}"
        return Claim.above(f"{case}, {task}: {better} − {worse}", seen[better] - seen[worse], 0, note)

    fast = of(records, SAMPLERS, case).figures
    gap, spread = fast["++2M, 20"] - fast["DDIM, 50"], of(records, MASKS, case).figures["AUROC of the spread"]
    return [
        Claim.at_most(
            f"{case}: Frechet distance, 20 steps of ++2M − 50 of DDIM", gap, 0.1, "another program gave -0.1"
        ),
        less(DENOISING, "D", "Wiener"),
        less(DENOISING, "Wiener", "noisy"),
        less(FOURIER, f"repaint, {MEANS}", f"replacement, {MEANS}"),
        less(FOURIER, f"replacement, {MEANS}", "zero-filled"),
        less(INPAINTING, "dps", "replacement"),
        more(ANOMALY, "level 0.3", "level 2"),
        more(MASKS, "mean of 16", "1 mask"),
        Claim.above(f"{case}: AUROC of the masks' spread for wrong pixels", spread, 0.75, "another program gave 0.84"),
    ]


def tables(records: Sequence[Record]) -> list[Table]:
    """All figures, a table a task, and of real images."""
    found = cases(records)
    made = []
    for task in TASKS:
        rows = []
        for name, expected in EXPECTED[task].items():
            seen = [of(records, task, case).figures.get(name) for case in found]
            rows.append([name, f"{expected:.4g}", *("" if value is None else f"{value:.4g}" for value in seen)])
        made.append(Table(CAPTIONS[task], ["", "expected", *found], rows))
    images = of_kind(records, Photograph)
    if images:
        ways = [*images[0].psnr]
        rows = [[way, *(f"{image.psnr[way]:.2f}" for image in images)] for way in ways]
        made.append(Table("Twice the resolution, PSNR in dB.", ["", *(image.name for image in images)], rows))
    return made
