"""One module per case. Every module without a leading underscore defines ``CASE`` and is found automatically."""

from __future__ import annotations

import importlib
import pkgutil

from ..case import Case


def names() -> list[str]:
    """All cases."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> Case:
    """The case called ``name``. Raises ValueError for an unknown one."""
    if name not in names():
        raise ValueError(f"bench: argument 'case': expected one of {', '.join(names())}, got {name!r}.")
    return importlib.import_module(f"{__name__}.{name}").CASE
