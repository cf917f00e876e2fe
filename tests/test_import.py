"""``import probkernels`` costs nothing and changes nothing."""

from __future__ import annotations

import subprocess
import sys

import probkernels
import pytest


def fresh(program: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_torch() -> None:
    loaded = fresh("import probkernels, sys; print(*(m for m in ('torch', 'numpy', 'tqdm') if m in sys.modules))")
    assert loaded == ""


def test_names_are_listed_and_unknown_ones_refused() -> None:
    assert set(probkernels.__all__) <= set(dir(probkernels))
    assert probkernels.nn.PowerNorm.__module__.startswith("probkernels.nn")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        probkernels.nonsense  # noqa: B018
