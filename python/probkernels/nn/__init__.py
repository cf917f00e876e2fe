"""Drop-in modules."""

from .convert import convert_layernorm
from .power_norm import PowerNorm, PowerNormV

__all__ = ["PowerNorm", "PowerNormV", "convert_layernorm"]
