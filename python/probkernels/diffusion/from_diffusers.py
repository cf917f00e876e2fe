"""Reads a diffusers scheduler: its process, the denoiser's arguments, and the times of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._device import on_cpu
from ._diffusers_keys import SPACINGS, Config, changed, own_settings
from .chain import VPDiscrete
from .grids import check_times, grid
from .process import EDM, FlowMatching, Process

CHAINS = {
    "DDPMScheduler": "leading",  # and how its steps are spaced where the config does not say
    "DDIMScheduler": "leading",
    "DPMSolverMultistepScheduler": "linspace",
    "DPMSolverSinglestepScheduler": "linspace",
    "UniPCMultistepScheduler": "linspace",
    "DEISMultistepScheduler": "linspace",
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
}
ONE_MORE = ("DPM", "UniPC", "DEIS")  # these space one step more and leave out the last
EDMS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
FLOWS = ("FlowMatchEulerDiscreteScheduler",)
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@dataclass(frozen=True)
class SchedulerSettings:
    """What :func:`from_diffusers` found in a scheduler's config.

    Args:
        process: the process that adds noise to the data.
        denoiser: keyword arguments for :class:`Denoiser`.
        name: name of the scheduler's class.
        config: the settings that this class has.

    Example:
        >>> from probkernels.diffusion import from_diffusers
        >>> from_diffusers({"_class_name": "DDIMScheduler", "clip_sample": False}).denoiser
        {'pred': 'eps'}
    """

    process: Process
    denoiser: dict[str, Any]
    name: str
    config: Config

    @on_cpu
    def times(self, steps: int) -> Tensor:
        """The times (N+1,) that the scheduler visits in ``steps`` steps, float64.

        A last step that would change nothing is left out; N is then ``steps`` - 1.

        Raises:
            ValueError: the spacing is not supported. Pass times of :func:`grid` to :func:`sample` instead.
        """
        checks.integer("from_diffusers", "steps", steps)
        for key in sorted(SPACINGS):
            if changed(key, self.config.get(key)):
                hint = "give sample() times of your own, for instance grid(process, steps, 'edm')"
                got = repr(self.config[key])
                raise ValueError(message("from_diffusers", "config", f"a spacing without '{key}'", got, hint))
        if isinstance(self.process, VPDiscrete):
            visited, end = self._visited(self.process, steps), self._end(len(self.process))
        elif isinstance(self.process, EDM):
            visited = grid(self.process, steps - 1, "edm") if steps > 1 else torch.tensor([self.process.t_max]).double()
            end = float(visited[-1]) if self.config.get("final_sigmas_type") == "sigma_min" else 0.0
        else:
            visited, end = self._shifted(steps), 0.0
        last = torch.tensor([end] if end < float(visited[-1]) else [], dtype=torch.float64)
        times = torch.cat([visited, last])
        check_times("from_diffusers", self.process, times)
        return times

    def _visited(self, chain: VPDiscrete, steps: int) -> Tensor:
        """Steps of a chain; index i is the time (i + 1) / n."""
        n, spacing = len(chain), self.config.get("timestep_spacing", CHAINS[self.name])
        checks.one_of("from_diffusers", "timestep_spacing", spacing, ("leading", "trailing", "linspace"))
        more = 1 if self.name.startswith(ONE_MORE) else 0
        last = n - self._clipped(chain)
        if spacing == "trailing" and last == n:
            return grid(chain, steps, "trailing")[:-1]
        if spacing == "trailing":
            left = last - torch.arange(steps, dtype=torch.float64) * (n / steps)
            return left[left > 0].round() / n
        if spacing == "leading":
            index = torch.arange(more, steps + more, dtype=torch.float64) * (last // (steps + more))
            index = index + self.config.get("steps_offset", 0)
        else:
            index = torch.arange(steps + more, dtype=torch.float64) * ((last - 1) / max(steps + more - 1, 1))
            index = index.clamp_max(last - 1)[more:]  # numpy's linspace to the bit: halves are rounded below
            index = index if self.name.startswith("Euler") else index.round()
        return (index.flip(0) + 1) / n

    def _clipped(self, chain: VPDiscrete) -> int:
        """How many steps at the end of a chain are left out, as too little signal remains."""
        least = self.config.get("lambda_min_clipped")
        if least is None or least == -math.inf:
            return 0
        at = torch.arange(1, len(chain) + 1, dtype=torch.float64) / len(chain)
        return int((chain.lam(at) < least).sum())

    def _end(self, n: int) -> float:
        """Without noise, or at the chain's first step."""
        ending = self.config.get("final_sigmas_type", "sigma_min" if self.name.startswith("DEIS") else "zero")
        checks.one_of("from_diffusers", "final_sigmas_type", ending, ("zero", "sigma_min"))
        return 0.0 if self.config.get("set_alpha_to_one", True) and ending != "sigma_min" else 1 / n

    def _shifted(self, steps: int) -> Tensor:
        """Even times from the most noise of training to the least, moved towards noise; its ends are moved twice."""
        shift = self.config.get("shift", 1.0)
        t = torch.tensor([1.0, 1 / self.config.get("num_train_timesteps", 1000)], dtype=torch.float64)
        t = shift * t / (1 + (shift - 1) * t)
        t = torch.linspace(float(t[0]), float(t[1]), steps, dtype=torch.float64)
        return shift * t / (1 + (shift - 1) * t)


@on_cpu
def from_diffusers(scheduler: Any) -> SchedulerSettings:
    """Reads a scheduler of the diffusers library, which need not be installed.

    Args:
        scheduler: the scheduler, or its config: a mapping with ``_class_name``, as in ``scheduler_config.json``. The
            ``config`` of a scheduler that was not loaded from a file lacks this name: pass the scheduler.

    Returns:
        The process (schedule or betas, zero terminal SNR), the arguments for :class:`Denoiser` (prediction type,
        clipping, dynamic thresholding, learned variances, the network's time input), and ``times(steps)``.

    Raises:
        TypeError: ``scheduler`` is neither a scheduler nor a mapping.
        ValueError: the scheduler, schedule or prediction type is not supported; an unsupported setting has an effect;
            a config does not name its class; or a scheduler's table or shift was changed and differs from its config.
            diffusers ignores settings that a class lacks: common ones are dropped here too; any other one raises
            unless it has its default.

    Reference:
        von Platen et al., Diffusers: State-of-the-art diffusion models, 2022, https://github.com/huggingface/diffusers.

    Example:
        >>> from probkernels.diffusion import from_diffusers
        >>> config = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        ...           "beta_end": 0.012, "clip_sample": False, "prediction_type": "v_prediction", "steps_offset": 1}
        >>> settings = from_diffusers(config)
        >>> settings.denoiser, settings.times(4)
        ({'pred': 'v'}, tensor([0.7520, 0.5020, 0.2520, 0.0020, 0.0000], dtype=torch.float64))
    """
    config = scheduler if isinstance(scheduler, Mapping) else getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        expected = "a diffusers scheduler, or its config as a mapping"
        raise TypeError(message("from_diffusers", "scheduler", expected, checks.describe(scheduler)))
    name = _class_name(config) if config is scheduler else type(scheduler).__name__
    checks.one_of("from_diffusers", "_class_name", name, (*CHAINS, *EDMS, *FLOWS))
    config = own_settings(name, config)
    if name in FLOWS:
        _refuse_changed("shift", getattr(scheduler, "shift", None), torch.tensor(config.get("shift", 1.0)))
        n = config.get("num_train_timesteps", 1000)
        return SchedulerSettings(FlowMatching(), {"pred": "flow", "time": partial(mul, n)}, name, config)
    if name in EDMS:
        return _edm(name, config)
    kind = config.get("prediction_type", "epsilon")
    checks.one_of("from_diffusers", "prediction_type", kind, tuple(PREDICTIONS))
    denoiser = {"pred": PREDICTIONS[kind], **_clipping(name, config)}
    chain = _chain(config)
    steps = torch.arange(1, len(chain) + 1, dtype=torch.float64) / len(chain)
    _refuse_changed("alphas_cumprod", getattr(scheduler, "alphas_cumprod", None), chain.alpha(steps).square())
    timing = config.get("timestep_type", "discrete")
    checks.one_of("from_diffusers", "timestep_type", timing, ("discrete", "continuous"))
    if timing == "continuous" and kind == "v_prediction":  # with others diffusers does not use it
        denoiser["time"] = partial(_quarter_log_rho, chain)
    if config.get("variance_type") == "learned_range":
        denoiser["variance"] = True
    elif config.get("variance_type") == "learned":
        raise ValueError(message("from_diffusers", "variance_type", "'learned_range', or none learned", "'learned'"))
    return SchedulerSettings(chain, denoiser, name, config)


def _class_name(config: Config) -> Any:
    """The class that a config names: without it, defaults, steps and even the process would be guessed."""
    if "_class_name" not in config:
        hint = "pass the scheduler itself: its config names no class unless it was loaded from a file"
        raise ValueError(
            message("from_diffusers", "_class_name", "the name of a scheduler's class", "a config without it", hint)
        )
    return config["_class_name"]


def _refuse_changed(what: str, theirs: Any, ours: Tensor) -> None:
    """Refuses a scheduler of which ``theirs`` was set after it was built, which its config does not tell."""
    if theirs is None:
        return
    theirs = torch.as_tensor(theirs, dtype=torch.float64, device="cpu")
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours.double(), rtol=1e-3, atol=1e-5):
        hint = "build a scheduler whose config has what you set, for instance with trained_betas= or shift="
        raise ValueError(message("from_diffusers", what, "what the scheduler's config gives", "other values", hint))


def _quarter_log_rho(process: Process, t: Tensor) -> Tensor:
    """EDM's time input. It is a function of the module, so that denoisers can be pickled."""
    return process.rho(t).log() / 4


def _edm(name: str, config: Config) -> SchedulerSettings:
    if config.get("prediction_type", "epsilon") != "epsilon" or config.get("sigma_schedule", "karras") != "karras":
        expected = "prediction_type 'epsilon' and sigma_schedule 'karras'"
        raise ValueError(message("from_diffusers", "scheduler", expected, f"another of {name}'s"))
    if config.get("rho", 7.0) != 7.0:
        raise ValueError(message("from_diffusers", "rho", "7", repr(config["rho"])))
    process = EDM(config.get("sigma_min", 0.002), config.get("sigma_max", 80.0))
    denoiser = {"pred": "edm", "sigma_data": config.get("sigma_data", 0.5), **_clipping(name, config)}
    return SchedulerSettings(process, denoiser, name, config)


def _chain(config: Config) -> VPDiscrete:
    n, start, stop = (
        config.get("num_train_timesteps", 1000), config.get("beta_start", 1e-4), config.get("beta_end", 0.02),
    )  # fmt: skip
    if config.get("trained_betas") is not None:
        chain = VPDiscrete(torch.as_tensor(config["trained_betas"], dtype=torch.float64))
    else:
        schedule = config.get("beta_schedule", "linear")
        made = {
            "linear": lambda: VPDiscrete.linear(n, start, stop),
            "scaled_linear": lambda: VPDiscrete.scaled_linear(n, start, stop),
            "squaredcos_cap_v2": lambda: VPDiscrete.cosine(n),
            "sigmoid": lambda: VPDiscrete.sigmoid(n, start, stop),
        }
        checks.one_of("from_diffusers", "beta_schedule", schedule, tuple(made))
        chain = made[schedule]()
    return chain.zero_terminal_snr() if config.get("rescale_betas_zero_snr") else chain


def _clipping(name: str, config: Config) -> dict[str, Any]:
    if config.get("thresholding"):
        most = config.get("sample_max_value", 1.0)
        scaled = {"dynamic": (config.get("dynamic_thresholding_ratio", 0.995), most)} if most > 1 else {}
        return {"clip": 1.0, **scaled}
    if config.get("clip_sample", name in ("DDPMScheduler", "DDIMScheduler")):
        return {"clip": config.get("clip_sample_range", 1.0)}
    return {}
