"""Reads a diffusers scheduler: its process, the denoiser's arguments, and the times of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._device import on_cpu
from ._diffusers_keys import SPACINGS, Config, changed, own_settings
from ._diffusers_spacing import BY_NOISE, VPRho, quarter_log_rho, spaced, step_of_rho, table_of
from .adapted import AdaptedNet, learns_variance
from .chain import VPDiscrete
from .denoiser import Denoiser
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
        chain: the chain that the scheduler's steps number, if it has one. It is the process unless ``sigma_min`` or
            ``sigma_max`` reach beyond it.

    Example:
        >>> from probkernels.diffusion import from_diffusers
        >>> from_diffusers({"_class_name": "DDIMScheduler", "clip_sample": False}).denoiser
        {'pred': 'eps'}
    """

    process: Process
    denoiser: dict[str, Any]
    name: str
    config: Config
    chain: VPDiscrete | None = None

    @on_cpu
    def times(self, steps: int) -> Tensor:
        """The times (N+1,) that the scheduler visits in ``steps`` steps, float64.

        A last step that would change nothing is left out; N is then ``steps`` - 1.

        Raises:
            ValueError: the spacing is not supported. Pass times of :func:`grid` to :func:`sample` instead.
        """
        checks.integer("from_diffusers", "steps", steps)
        for key in sorted(SPACINGS - set(BY_NOISE) if self.chain else SPACINGS):
            if changed(key, self.config.get(key)):
                hint = "give sample() times of your own, for instance grid(process, steps, 'edm')"
                got = repr(self.config[key])
                raise ValueError(message("from_diffusers", "config", f"a spacing without '{key}'", got, hint))
        if self.chain is not None and _by_noise(self.config):
            visited, end = self._by_noise(self.chain, steps)
        elif self.chain is not None:
            visited, end = self._visited(self.chain, steps), self._end(len(self.chain))
        elif self.name in EDMS:
            exponent = self.config.get("rho", 7.0) if self.config.get("sigma_schedule", "karras") == "karras" else None
            visited = spaced(self.process.t_max, self.process.t_min, steps, exponent)
            end = float(visited[-1]) if self.config.get("final_sigmas_type") == "sigma_min" else 0.0
        else:
            visited, end = self._shifted(steps), 0.0
        last = torch.tensor([end] if end < float(visited[-1]) else [], dtype=torch.float64)
        times = torch.cat([visited, last])
        check_times("from_diffusers", self.process, times)
        return times

    def wrap(self, net: nn.Module, **options: Any) -> Denoiser:
        """A :class:`Denoiser` of a network of diffusers, or of one that is called alike: see :class:`AdaptedNet`.

        A network with twice as many output as input channels has learned variances (``variance=True``).

        Args:
            net: for instance ``pipeline.unet`` or ``pipeline.transformer``.
            options: arguments of :class:`Denoiser` that take the place of the scheduler's.

        Raises:
            TypeError: ``net`` is not a module.
        """
        adapted = AdaptedNet(net)
        learns = learns_variance(net)
        learned = {} if learns is None else {"variance": learns}
        return Denoiser(adapted, self.process, **{**self.denoiser, **learned, **options})

    def start_std(self, times: Tensor) -> float:
        """Standard deviation of the noise x_T from which pipelines start at ``times[0]``; ``process.prior_std`` is the
        training's."""
        at = times[0].detach()
        rho, alpha = float(self.process.rho(at)), float(self.process.alpha(at))
        if self.name in EDMS:
            return math.hypot(rho, 1) * alpha
        leading = self.config.get("timestep_spacing", CHAINS.get(self.name)) == "leading"
        return float(self.process.sigma(at)) if self.name.startswith("Euler") and not leading else 1.0

    def _by_noise(self, chain: VPDiscrete, steps: int) -> tuple[Tensor, float]:
        """Times of levels spaced by Karras et al. or in their logarithm. Euler spaces them between the steps that it
        would visit, others between the chain's ends."""
        ends = chain.rho(self._visited(chain, steps)) if self.name.startswith("Euler") else table_of(chain).flip(0)
        high, low = self.config.get("sigma_max"), self.config.get("sigma_min")
        high, low = float(ends[0]) if high is None else high, float(ends[-1]) if low is None else low
        if not math.isfinite(high):
            expected, hint = "a chain with some signal left at its end", "give sample() times of your own"
            raise ValueError(message("from_diffusers", "rescale_betas_zero_snr", expected, "True", hint))
        rho = spaced(high, low, steps, 7.0 if self.config.get("use_karras_sigmas") else None)
        visited, end = self.process.t_of_rho(rho), 0.0
        if self._end(len(chain)) > 0:  # DPM-Solver and Euler step to the chain's first level, others stay
            first = float(self.process.t_of_rho(table_of(chain)[0]))
            end = first if self.name.startswith(("DPM", "Euler")) else float(visited[-1])
        return visited, end

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
    process = _process(chain, config)
    timing = config.get("timestep_type", "discrete")
    checks.one_of("from_diffusers", "timestep_type", timing, ("discrete", "continuous"))
    if timing == "continuous" and kind == "v_prediction":  # with others diffusers does not use it
        denoiser["time"] = partial(quarter_log_rho, process)
    elif _by_noise(config):
        rounds = name.startswith(ONE_MORE) and bool(config.get("use_karras_sigmas"))
        rounds = rounds and not (name == "DPMSolverMultistepScheduler" and _schedule(config) == "squaredcos_cap_v2")
        denoiser["time"] = partial(step_of_rho, process, chain, rounds)
    if config.get("variance_type") == "learned_range":
        denoiser["variance"] = True
    elif config.get("variance_type") == "learned":
        raise ValueError(message("from_diffusers", "variance_type", "'learned_range', or none learned", "'learned'"))
    return SchedulerSettings(process, denoiser, name, config, chain)


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


def _by_noise(config: Config) -> bool:
    """Whether the steps are spaced by their noise."""
    return any(config.get(key) for key in BY_NOISE)


def _schedule(config: Config) -> Any:
    return config.get("beta_schedule", "linear")


def _process(chain: VPDiscrete, config: Config) -> Process:
    """The chain, or a process with its scaling that reaches the least and most noise of the config."""
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if low is None and high is None:
        return chain
    if not _by_noise(config):
        key = "sigma_min" if high is None else "sigma_max"
        expected, hint = "none without use_karras_sigmas or use_exponential_sigmas", "build the process by hand"
        raise ValueError(message("from_diffusers", key, expected, repr(config[key]), hint))
    table = table_of(chain)
    return VPRho(float(table[0]) if low is None else low, float(table[-1]) if high is None else high)


def _edm(name: str, config: Config) -> SchedulerSettings:
    kind, data = config.get("prediction_type", "epsilon"), config.get("sigma_data", 0.5)
    checks.one_of("from_diffusers", "prediction_type", kind, ("epsilon", "v_prediction"))
    checks.one_of("from_diffusers", "sigma_schedule", config.get("sigma_schedule", "karras"), ("karras", "exponential"))
    checks.positive("from_diffusers", "rho", config.get("rho", 7.0))
    low, high, clipping = config.get("sigma_min", 0.002), config.get("sigma_max", 80.0), _clipping(name, config)
    if kind == "epsilon":
        denoiser = {"pred": "edm", "sigma_data": data, **clipping}
        return SchedulerSettings(EDM(low, high), denoiser, name, config)
    if data != 1:  # theirs is v of data with standard deviation 1, scaled otherwise
        raise ValueError(message("from_diffusers", "sigma_data", "1 for prediction_type 'v_prediction'", repr(data)))
    process = VPRho(low, high)
    denoiser = {"pred": "v", "time": partial(quarter_log_rho, process), **clipping}
    return SchedulerSettings(process, denoiser, name, config)


def _chain(config: Config) -> VPDiscrete:
    n, start, stop = (
        config.get("num_train_timesteps", 1000), config.get("beta_start", 1e-4), config.get("beta_end", 0.02),
    )  # fmt: skip
    if config.get("trained_betas") is not None:
        chain = VPDiscrete(torch.as_tensor(config["trained_betas"], dtype=torch.float64))
    else:
        schedule = _schedule(config)
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
