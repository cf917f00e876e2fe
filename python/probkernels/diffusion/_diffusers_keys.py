"""The settings of diffusers' schedulers, by how they are treated: read, left to the solver, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core.errors import message

Config = Mapping[str, Any]

BETAS = {
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "variance_type",
}  # fmt: skip
STEPS = {"timestep_spacing", "steps_offset"}
ZERO = {"rescale_betas_zero_snr"}
BOUNDS = {"clip_sample", "clip_sample_range"}
DYNAMIC = {"thresholding", "dynamic_thresholding_ratio", "sample_max_value"}
# options of dynamic shifting; unused without it
SHIFTS = {"time_shift_type", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"}
SPACINGS = {
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_dynamic_shifting",
    "shift_terminal", "invert_sigmas", "interpolation_type",
}  # fmt: skip
FORMULA = {
    "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "predict_x0",
    "disable_corrector", "solver_p",
}  # fmt: skip
OTHER_PROCESS = {"use_flow_sigmas", "flow_shift", "sigma_min", "sigma_max", "stochastic_sampling"}
ELUCIDATED = {
    "sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "num_train_timesteps", "prediction_type", "rho",
    "final_sigmas_type",
}  # fmt: skip
MULTISTEP = BETAS | STEPS | DYNAMIC | FORMULA | SPACINGS | SHIFTS | OTHER_PROCESS

KEYS = {
    "DDPMScheduler": BETAS | STEPS | ZERO | BOUNDS | DYNAMIC,
    "DDIMScheduler": BETAS | STEPS | ZERO | BOUNDS | DYNAMIC | {"set_alpha_to_one"},
    "DPMSolverMultistepScheduler": MULTISTEP | ZERO | {"final_sigmas_type", "lambda_min_clipped"},
    "DPMSolverSinglestepScheduler": (MULTISTEP - STEPS) | {"final_sigmas_type", "lambda_min_clipped"},
    "UniPCMultistepScheduler": MULTISTEP | ZERO | {"final_sigmas_type"},
    "DEISMultistepScheduler": MULTISTEP,
    "EulerDiscreteScheduler": BETAS | STEPS | ZERO | SPACINGS | OTHER_PROCESS | {"final_sigmas_type", "timestep_type"},
    "EulerAncestralDiscreteScheduler": BETAS | STEPS | ZERO,
    "EDMEulerScheduler": ELUCIDATED,
    "EDMDPMSolverMultistepScheduler": ELUCIDATED | DYNAMIC | FORMULA,
    "FlowMatchEulerDiscreteScheduler": SPACINGS | SHIFTS | {"num_train_timesteps", "shift", "stochastic_sampling"},
}

# diffusers drops these where a class lacks them; stored files often keep them from another class.
DROPPED = {"skip_prk_steps", "set_alpha_to_one", *STEPS, *BOUNDS, *FORMULA}
DEFAULTS: dict[str, Any] = {
    "beta_schedule": "linear", "prediction_type": "epsilon", "variance_type": "fixed_small",
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "final_sigmas_type": "zero",
    "lambda_min_clipped": float("-inf"), "timestep_type": "discrete", "interpolation_type": "linear",
    "flow_shift": 1.0, "shift": 1.0, "time_shift_type": "exponential", "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096, "num_train_timesteps": 1000,
}  # fmt: skip


def changed(key: str, value: Any) -> bool:
    """Whether a setting has an effect: it is neither absent nor at its default."""
    return not (value is None or value is False or value == [] or (key in DEFAULTS and value == DEFAULTS[key]))


def own_settings(name: str, config: Config) -> dict[str, Any]:
    """The settings in ``config`` that the scheduler class ``name`` has.

    Raises:
        ValueError: a setting has an effect, but is not supported or the class lacks it.
    """
    own = KEYS[name]
    for key, value in config.items():
        if key.startswith("_") or key in DROPPED or not changed(key, value):
            continue
        if key not in own:
            hint = "diffusers ignores settings that a class lacks; take it out if that is what you want"
            raise ValueError(message("from_diffusers", key, f"a setting of {name}", f"{value!r}, which it lacks", hint))
        if key in OTHER_PROCESS - {"flow_shift", "sigma_min", "sigma_max"} and not name.startswith("EDM"):
            hint = "build the process and times by hand"
            raise ValueError(message("from_diffusers", key, f"{name}'s default", repr(value), hint))
    return {key: value for key, value in config.items() if key in own}
