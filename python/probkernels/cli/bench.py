"""``probkernels bench``: times the ops against this machine's limits and against their peers, by pytest-benchmark."""

import itertools
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


def bench(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CASE...] [PYTEST OPTION...]", help="Cases, all without any; then options of pytest."),
    ] = None,
) -> None:
    """Time the ops, as a share of this machine's limits and beside their peers, by pytest-benchmark.

    Options are pytest's: --benchmark-autosave, --benchmark-compare, --benchmark-histogram, -k, ...
    """
    import probkernels.bench

    if find_spec("pytest_benchmark") is None:
        print(
            "bench: expected pytest-benchmark, which is not installed. Hint: pip install 'probkernels[bench]', or"
            " python -m probkernels.bench, which times without it",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    given = arguments or []
    cases = list(itertools.takewhile(lambda word: not word.startswith("-"), given))
    folder = str(Path(probkernels.bench.__path__[0]))
    command = [sys.executable, "-m", "pytest", folder, *(f"--case={case}" for case in cases), *given[len(cases) :]]
    raise typer.Exit(subprocess.call(command))
