"""Noise of a sampling run that can be drawn again, step by step and in any order."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

MASK = (1 << 64) - 1


def mixed(seed: int, step: int) -> int:
    """A seed for one step: SplitMix64, so that neighboring steps and seeds share nothing."""
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return (z ^ (z >> 31)) & ((1 << 63) - 1)


class StepNoise:
    """Standard normal noise: what step n draws depends on the seed and n alone, so that a reverse pass can repeat it.

    Args:
        like: (B, *S), whose shape, dtype and device the noise has.
        generator: gives one number, the seed; None for torch's own.
        given: (N, B, *S), returned in place of draws; may require a gradient.
        draws: False for a run that needs none, which then leaves the generator as it is.

    Raises:
        TypeError, ValueError: given noise that does not fit, or noise and generator both.

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
