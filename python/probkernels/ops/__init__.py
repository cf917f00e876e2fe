"""Public ops. Each is one file here, with twins of its name in reference/, csrc/, triton_kernels/, tests/, bench/."""

from .power_norm import power_norm, power_norm_v

__all__ = ["power_norm", "power_norm_v"]
