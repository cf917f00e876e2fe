"""One experiment per method, which checks the paper's headline claim on real data in minutes.

``python -m probkernels reproduce NAME...`` runs them. Every folder here but ``harness`` is a method:

- ``__init__.py``: ``METHOD`` and ``run(quick, data, progress)``;
- ``experiment.py``: ``jobs(quick)`` and ``measure(quick, data, progress)``, which returns records;
- ``records.py``: the records' classes and the expected figures;
- ``claims.py``, ``plots.py``: what the records show;
- where needed, ``model.py`` and ``peers.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from .harness.method import Claim, Figure, Method, Outcome, Progress, Result, Table

__all__ = ["Claim", "Figure", "Method", "Outcome", "Progress", "Result", "Table", "load", "names"]


def names() -> list[str]:
    """Names of the methods with an experiment, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "harness")


def load(name: str) -> ModuleType:
    """The experiment's package, with ``METHOD`` and ``run``.

    Raises:
        ValueError: no method has this name.
    """
    if name not in names():
        raise ValueError(f"reproduce: no method is named '{name}'. Hint: use one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
