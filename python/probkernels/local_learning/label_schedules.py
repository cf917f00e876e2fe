"""Noise levels of a diffusion from pure noise (t = 0) to a label (t = T): fixed steps, and a learned curve."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..diffusion import VP, VPDiscrete

LOWEST, HIGHEST = 0.001, 0.99  # of abar


class LabelSchedule:
    """Noise levels of T steps, and the exact coefficients that follow from them, in float64 on the CPU.

    With u the vector of a label, q(z_t | u) = N(sqrt(abar_t) u, (1 - abar_t) I). abar **rises** with t. A step is

        z_t = a_t uhat + b_t z_{t-1} + sqrt(c_t) noise

    Args:
        abar: (T + 1,) numbers in (0, 1) that do not fall, for t = 0 .. T; a tensor or a sequence. Where two are equal,
            the step changes nothing and its block has no loss.

    Attributes:
        abar: (T + 1,) share of the signal's variance.
        snr: (T + 1,) signal-to-noise ratio, abar / (1 - abar).
        a, b, c: (T,) coefficients of steps t = 1 .. T, at index t - 1.
        dsnr: (T,) growth of the signal-to-noise ratio in each step.

    Raises:
        ValueError: ``abar`` falls or does not rise at all, has fewer than two entries, or leaves (0, 1).

    Example:
        >>> from probkernels.local_learning import LabelSchedule
        >>> schedule = LabelSchedule.cosine(10)
        >>> print(*(f"{float(x[0]):.6f}" for x in (schedule.a, schedule.b, schedule.c)))
        0.148909 0.199042 0.936334
    """

    def __init__(self, abar: Tensor | list[float]) -> None:
        abar = torch.as_tensor(abar).detach().to(device="cpu", dtype=torch.float64).clone()
        inside = abar.ndim == 1 and bool(((abar > 0) & (abar < 1)).all())
        if not inside or len(abar) < 2 or not bool((abar.diff() >= 0).all()) or abar[0] == abar[-1]:
            wanted = "one axis of T + 1 >= 2 numbers in (0, 1) that rise"
            raise ValueError(message("LabelSchedule", "abar", wanted, checks.shown(abar.tolist())))
        before, after = abar[:-1], abar[1:]
        alpha = before / after  # alpha_{t-1}
        self.abar, self.snr = abar, abar / (1 - abar)
        self.a = after.sqrt() * (1 - alpha) / (1 - before)
        self.b = alpha.sqrt() * (1 - after) / (1 - before)
        self.c = (1 - after) * (1 - alpha) / (1 - before)
        self.dsnr = self.snr.diff()

    @classmethod
    def cosine(cls, steps: int = 10, offset: float = 0.008) -> LabelSchedule:
        """Squared cosine of 1 - t / T, clamped to [0.001, 0.99]: above 15 steps, several reach an end."""
        checks.integer("LabelSchedule.cosine", "steps", steps)
        at = 1 - torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        kept = ((at + offset) / (1 + offset) * (math.pi / 2)).cos().square()
        return cls(kept.clamp(LOWEST, HIGHEST))

    @classmethod
    def of_process(cls, process: VP | VPDiscrete, steps: int = 10) -> LabelSchedule:
        """Levels of a variance-preserving process of ``diffusion`` at equal steps of its time, which runs backward. Its
        ``t_min`` must leave some noise."""
        if not isinstance(process, (VP, VPDiscrete)):
            wanted = "a VP or VPDiscrete of probkernels.diffusion"
            raise TypeError(message("LabelSchedule.of_process", "process", wanted, checks.describe(process)))
        checks.integer("LabelSchedule.of_process", "steps", steps)
        at = torch.linspace(process.t_max, process.t_min, steps + 1, dtype=torch.float64, device="cpu")
        kept = process.alpha(at).square()
        if kept[-1] == 1:
            got, hint = f"t_min = {process.t_min:g}, where no noise is left", "dataclasses.replace(process, t_min=0.01)"
            raise ValueError(message("LabelSchedule.of_process", "process", "a t_min that leaves noise", got, hint))
        return cls(kept)

    @classmethod
    @torch.no_grad()
    def of_curve(
        cls, gamma: Callable[[Tensor], Tensor], steps: int, device: torch.device | str = "cpu"
    ) -> LabelSchedule:
        """Levels sigmoid(-gamma(t)) at t = 0, 1 / steps, .. 1 of a noise curve, for instance a LearnedSchedule."""
        checks.integer("LabelSchedule.of_curve", "steps", steps)
        at = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=device)
        return cls((-gamma(at).double()).sigmoid())

    def __len__(self) -> int:
        return len(self.a)

    def __repr__(self) -> str:
        """Number of steps, and the range of abar."""
        return f"LabelSchedule(steps={len(self)}, abar={self.abar[0]:.4g} to {self.abar[-1]:.4g})"

    def step(self, t: int, z: Tensor, uhat: Tensor, noise: Tensor | None = None) -> Tensor:
        """z_t of z_{t-1} (b, d) and a guess of the label's vector. Without noise: the mean."""
        mean = self.a[t - 1].item() * uhat + self.b[t - 1].item() * z
        return mean if noise is None else mean + math.sqrt(self.c[t - 1].item()) * noise

    def flow_step(self, t: int, z: Tensor, uhat: Tensor) -> Tensor:
        """z_t along the probability-flow ODE, exact for a guess that does not change in the step (DDIM)."""
        before, after = self.abar[t - 1].item(), self.abar[t].item()
        return math.sqrt(after) * uhat + math.sqrt((1 - after) / (1 - before)) * (z - math.sqrt(before) * uhat)


class LearnedSchedule(nn.Module):
    """A noise curve on [0, 1] that is trained: gamma(t) falls, SNR = exp(-gamma), abar = sigmoid(-gamma).

    gamma runs from ``start`` at t = 0 to ``stop`` at t = 1, both trained, along a two-layer net of positive weights.
    Its parameters are float64.

    Args:
        hidden: width of the net.
        start: gamma at t = 0; the default is abar = 0.001.
        stop: gamma at t = 1; the default is abar = 0.99.
        generator: source of the random start.

    Raises:
        TypeError, ValueError: ``hidden`` < 1, or ``start`` is not above ``stop``.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import LearnedSchedule
        >>> gamma = LearnedSchedule()(torch.tensor([0.0, 1.0]))
        >>> print(*(f"{x:.3f}" for x in (-gamma).sigmoid()))
        0.001 0.990
    """

    def __init__(
        self,
        hidden: int = 32,
        start: float = math.log((1 - LOWEST) / LOWEST),
        stop: float = math.log((1 - HIGHEST) / HIGHEST),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        checks.integer("LearnedSchedule", "hidden", hidden)
        if not start > stop:
            raise ValueError(message("LearnedSchedule", "start", f"a number above 'stop' ({stop:.6g})", str(start)))

        def parameter(value: Tensor | float) -> nn.Parameter:
            return nn.Parameter(torch.as_tensor(value, dtype=torch.float64))

        self.stop, self.log_range = parameter(stop), parameter(math.log(start - stop))  # g0 < g1 whatever is learned
        self.inner = parameter(torch.randn(hidden, generator=generator, dtype=torch.float64))
        self.shift = parameter(torch.randn(hidden, generator=generator, dtype=torch.float64))
        self.outer = parameter(torch.randn(hidden, generator=generator, dtype=torch.float64))

    def _rising(self, t: Tensor) -> Tensor:
        """A line, which alone is the start of learning where the net is flat, plus a net of positive weights."""
        inner = nn.functional.softplus(self.inner)
        return t + (t[..., None] * inner + self.shift).sigmoid() @ nn.functional.softplus(self.outer)

    def forward(self, t: Tensor) -> Tensor:
        """gamma(t) of times (...)."""
        t = t.to(self.stop.dtype)
        ends = self._rising(torch.stack([torch.zeros_like(self.stop), torch.ones_like(self.stop)]))
        share = (self._rising(t) - ends[0]) / (ends[1] - ends[0])
        return self.stop + self.log_range.exp() * (1 - share)
