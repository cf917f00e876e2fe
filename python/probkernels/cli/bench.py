"""``probkernels bench``: times the ops against this machine's limits and against their peers."""

from pathlib import Path
from typing import Annotated

import typer

from .._core.interrupts import loading
from ._targets import Force, claim, errors


def bench(
    cases: Annotated[list[str] | None, typer.Argument(metavar="CASE...", help="Cases to run; all without any.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also compare with the last committed run.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every sample here.")] = None,
    force: Force = False,
) -> None:
    """Time the ops, as a share of this machine's limits and beside their peers."""
    with errors():
        if json_path is not None:
            json_path.absolute().parent.mkdir(parents=True, exist_ok=True)
            claim(json_path, [], force)
        with loading():
            from probkernels.bench import main
    raise typer.Exit(main(cases or [], compare, json_path))
