"""Public ops. Each is one file here, with twins of its name in reference/, csrc/, triton_kernels/, tests/, bench/."""

from .magnitude_select import magnitude_histogram, magnitude_kth, magnitude_select
from .power_norm import power_norm, power_norm_v
from .sampled_matmul import sampled_conv, sampled_matmul
from .selection import Selection
from .sparse_adamw import dequantise_blocks, quantise_blocks, sparse_adamw_

__all__ = [
    "Selection",
    "dequantise_blocks",
    "magnitude_histogram",
    "magnitude_kth",
    "magnitude_select",
    "power_norm",
    "power_norm_v",
    "quantise_blocks",
    "sampled_conv",
    "sampled_matmul",
    "sparse_adamw_",
]
