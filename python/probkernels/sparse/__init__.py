"""Sparse fine-tuning: train selected entries of a model's own weights."""

from .adapter import Adapter
from .attach import attach
from .delta import Delta
from .deltas import Deltas
from .importers import import_sara, import_shira
from .nuclear import nuclear_norm, polar

__all__ = ["Adapter", "Delta", "Deltas", "attach", "import_sara", "import_shira", "nuclear_norm", "polar"]
