"""One experiment a method, showing the paper's headline claim on real data in minutes.

``python -m probkernels reproduce NAME...`` runs them; a new module here, written as :mod:`._method` says, is found
without being listed anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ._method import Claim, Figure, Method, Outcome, Progress, Result, Table

__all__ = ["Claim", "Figure", "Method", "Outcome", "Progress", "Result", "Table", "load", "names"]


def names() -> list[str]:
    """The methods that have an experiment, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The experiment's module, with ``METHOD`` and ``run``.

    Raises:
        ValueError: no method has this name.
    """
    if name not in names():
        raise ValueError(f"reproduce: no method is named '{name}'. Hint: use one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
