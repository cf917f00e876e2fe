"""Made-up records of the experiment with tasks of diffusion models."""

from __future__ import annotations

from typing import Any

from probkernels.reproduce.diffusion_survey import records as survey


def of_diffusion_survey(worse: bool) -> list[Any]:
    """The expected figures; or the wrong way round, so that what should be better is worse."""
    images = [[0.1 * i - 0.3] * 64 for i in range(3)]
    found: list[Any] = []
    for case in survey.CASES:
        for task, expected in survey.EXPECTED.items():
            figures = {name: 1 - 0.1 * i for i, name in enumerate(expected)} if worse else dict(expected)
            if worse and task in (survey.DENOISING, survey.FOURIER, survey.INPAINTING):
                figures = {name: 1 / figure for name, figure in figures.items()}
            if worse and task == survey.SAMPLERS:
                figures["++2M, 20"] = 2.0
            if worse and task == survey.ANOMALY:
                figures["level 2"] = 0.9
            found.append(survey.Measured(task, case, figures, {"one": images, "two": images}))
    rows = [[-1.0, 1.0], [0.5, 0.0]]
    return [*found, survey.Photograph("a picture", {"bicubic": 20.0}, {"truth": rows, "bicubic": rows})]
