"""Noise of a sampling run, which can be drawn again for any step in any order."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

MASK = (1 << 64) - 1


def mixed(seed: int, step: int) -> int:
    """The seed of one step, by SplitMix64: neighboring steps and seeds give unrelated seeds."""
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return (z ^ (z >> 31)) & ((1 << 63) - 1)


class StepNoise:
    """Standard normal noise for the steps of a run. Step n depends only on the seed and n, so it can be drawn again.

    Args:
        like: (B, *S), a tensor with the noise's shape, dtype and device.
        generator: draws the seed, once; None for torch's default generator.
        given: (N, B, *S), noise to return instead of drawing; may require a gradient.
        draws: whether the run needs noise. If not, the generator is not used.

    Raises:
        TypeError, ValueError: ``given`` has the wrong dtype or shape, or comes with a generator.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import StepNoise
        >>> noise = StepNoise(torch.zeros(2, 3), torch.Generator().manual_seed(0))
        >>> bool((noise(5) == noise(5)).all()), bool((noise(5) == noise(6)).any())
        (True, False)
    """

    def __init__(
        self, like: Tensor, generator: torch.Generator | None = None, given: Tensor | None = None, *, draws: bool = True
    ) -> None:
        self.shape, self.dtype, self.device, self.given = like.shape, like.dtype, like.device, given
        self.seed = 0
        if given is not None:
            if generator is not None:
                hint = "it seeds the noise that is drawn where none is given"
                raise ValueError(message("StepNoise", "generator", "none, as noise is given", "a generator", hint))
            checks.float_tensor("StepNoise", "given", given)
            if given.shape[1:] != like.shape:
                got = f"shape {tuple(given.shape)}"
                raise ValueError(message("StepNoise", "given", f"shape (N, {', '.join(map(str, like.shape))})", got))
        elif draws:
            device = "cpu" if generator is None else generator.device
            self.seed = int(torch.randint(2**62, (), generator=generator, device=device))

    def __call__(self, step: int) -> Tensor:
        """The noise (B, *S) of a step."""
        if self.given is not None:
            return self.given[step]
        generator = torch.Generator(self.device).manual_seed(mixed(self.seed, step))
        # half precision is rounded from single: the same draws, whatever the dtype
        wide = torch.promote_types(self.dtype, torch.float32)
        return torch.randn(self.shape, generator=generator, device=self.device, dtype=wide).to(self.dtype)
