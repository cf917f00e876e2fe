"""``probkernels doctor``: shows what is installed and which backend runs each op, and tests every op."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .._core.interrupts import loading


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False) -> None:
    """Diagnose this installation; exit code 1 if something that should work does not."""
    with loading():
        from rich.console import Console

        from ._diagnosis import examine, text
    found = examine()
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        Console(highlight=False, soft_wrap=True).print(text(found))
    raise typer.Exit(0 if found["ok"] else 1)
