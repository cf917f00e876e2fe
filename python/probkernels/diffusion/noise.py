"""Noise of a sampling run: a function of seed, step, row and index, so that any of it can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks, devices
from .._core.errors import message
from ..ops import philox

Generators = torch.Generator | Sequence[torch.Generator] | None


def mixed(seed: int, step: int) -> int:
    """The seed of one step, by SplitMix64: neighboring steps and seeds give unrelated seeds."""
    mask = (1 << 64) - 1
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & ((1 << 63) - 1)


class StepNoise:
    """Standard normal noise for the steps of a run, by :func:`philox_normal`: nothing is stored.

    The noise of a row depends only on its seed, the step and, if rows share one seed, on its number: not on the other
    rows, nor on how many there are.

    Args:
        like: (B, *S), a tensor with the noise's shape, dtype and device.
        generator: draws the seed, once; or a list of B generators, one for each row. None for torch's default one.
        given: (N, B, *S), noise to return instead of drawing; may require a gradient.
        seeds: the seed itself, an int; or (B,) int64, a seed for each row.
        draws: whether the run needs noise. If not, the generator is not used.

    Raises:
        TypeError, ValueError: ``given`` or ``seeds`` has the wrong dtype or shape, or more than one of ``generator``,
            ``seeds`` and ``given`` is there.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import StepNoise
        >>> noise = StepNoise(torch.zeros(2, 3), torch.Generator().manual_seed(0))
        >>> bool((noise(5) == noise(5)).all()), bool((noise(5) == noise(6)).any())
        (True, False)
    """

    def __init__(
        self,
        like: Tensor,
        generator: Generators = None,
        given: Tensor | None = None,
        *,
        seeds: int | Tensor | None = None,
        draws: bool = True,
    ) -> None:
        self.given = given
        self.like = like.new_empty(1).expand(like.shape)  # has no memory of its own
        self.seed = 0
        self.seeds: Tensor | None = None  # (B,) int64, of the rows
        sources = {"generator": generator, "seeds": seeds, "given": given}
        named = [name for name, source in sources.items() if source is not None]
        if len(named) > 1:
            expected = f"none, as '{named[1]}' is given"
            raise ValueError(message("StepNoise", named[0], expected, checks.describe(sources[named[0]])))
        if given is not None:
            checks.float_tensor("StepNoise", "given", given)
            if given.shape[1:] != like.shape:
                got = f"shape {tuple(given.shape)}"
                raise ValueError(message("StepNoise", "given", f"shape (N, {', '.join(map(str, like.shape))})", got))
        elif seeds is not None or draws:
            self._seed(generator, seeds)

    def _seed(self, generator: Generators, seeds: int | Tensor | None) -> None:
        rows = len(self.like)
        if seeds is not None:
            philox.check_counter("StepNoise", seeds, 0, 0, rows, 0)
        elif generator is None or isinstance(generator, torch.Generator):
            seeds = _drawn(generator)
        else:
            if not isinstance(generator, (list, tuple)) or not all(isinstance(g, torch.Generator) for g in generator):
                expected = "a torch.Generator, or a list of them"
                raise TypeError(message("StepNoise", "generator", expected, checks.describe(generator)))
            if len(generator) != rows:
                expected = f"{rows} generators, one for each row"
                raise ValueError(message("StepNoise", "generator", expected, str(len(generator))))
            seeds = torch.tensor([_drawn(g) for g in generator], device="cpu")
        if isinstance(seeds, Tensor):
            self.seeds = seeds.to(self.like.device, copy=True)  # the caller may change them during the run
        else:
            self.seed = seeds

    def __call__(self, step: int) -> Tensor:
        """The noise (B, *S) of a step."""
        if self.given is not None:
            return self.given[step]
        return philox.normal(self.like, self.seeds, self.seed, step)

    def at(self, step: int) -> Tensor | Draw:
        """The noise of a step as a value of :mod:`.solvers.mixing`, which draws it where it is used."""
        return Draw(self, step) if self.given is None else self.given[step].to(self.like.dtype)


class Draw(NamedTuple):
    """Noise of a step that is yet to be drawn."""

    source: StepNoise
    step: int

    def tensor(self) -> Tensor:
        """(B, *S)."""
        return self.source(self.step)


def _drawn(generator: torch.Generator | None) -> int:
    devices.refuse_baked("sample", "seed that is drawn for the noise")
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))
