"""``probkernels reproduce``: runs the papers' experiments and prints measured beside expected."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .._core import outputs
from .._core.interrupts import loading
from ._targets import Force, errors


def reproduce(
    chosen: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Methods; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check the quick claims only.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="File with a row per claim.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", exists=True, file_okay=False, help="Folder with data sets.")
    ] = None,
    report: Annotated[Path, typer.Option("--report", metavar="FILE", help="File for the HTML report.")] = Path(
        "report.html"
    ),
    force: Force = False,
) -> None:
    """Check the headline claims of the papers on real data; exit code 1 if one does not hold."""
    with loading():
        from rich.console import Console

        from . import _experiments as work
    names = work.names()
    methods = list(dict.fromkeys(chosen or names))
    unknown = [name for name in methods if name not in names]
    if unknown:
        print(f"unknown method: {', '.join(unknown)}. Known: {', '.join(names)}", file=sys.stderr)
        raise typer.Exit(2)
    console = Console(stderr=1 in map(outputs.descriptor, filter(None, (json_path, report))))
    outcomes: list[work.Outcome] = []
    save = work.Saver(json_path, report)
    try:
        save.claim(force)  # a path that cannot be written shows now, not after the experiments
        save(outcomes)
    except (OSError, ValueError) as error:
        print(f"cannot write {' and '.join(map(str, save.paths))}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    code = work.run_all(methods, outcomes, save, quick, data, console)
    with errors():
        save(outcomes, last=True)
    claims = [each for outcome in outcomes for each in outcome.result.claims]
    held = sum(each.holds for each in claims)
    console.print(f"{held} of {len(claims)} claims hold. Report: {report}")
    raise typer.Exit(code or int(held < len(claims)))
