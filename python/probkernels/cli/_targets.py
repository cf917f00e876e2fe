"""What every command that writes asks first: nothing that somebody has may be lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from .._core import outputs
from .._core.interrupts import INTERRUPTED

SIGNALED = 128  # what a shell calls a command that a signal ended, with the signal's number on top
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]


def claim(target: Path, sources: Iterable[Path | None], force: bool) -> None:
    """Asks whether a file may be written, before any work is done for it.

    Args:
        target: the file to write; ``-``, a pipe or a device always may be.
        sources: what is read meanwhile, which it may not be even with ``force``.
        force: whether it may take the place of another file.

    Raises:
        ValueError: it is one of the sources, by whatever name or link; a folder; there is a file already.
        FileNotFoundError: there is no folder for it.
    """
    if outputs.is_stream(target):
        return
    for source in sources:
        if source is not None and _same(target, source):
            raise ValueError(f"'{target}': expected a file to write, got '{source}', which is read. Hint: another name")
    if target.is_dir():
        raise ValueError(f"'{target}': expected a file to write, got a folder")
    if target.exists() and not force:
        raise ValueError(f"'{target}': there is a file already. Hint: --force replaces it")
    folder = Path(os.path.realpath(target)).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"'{target}': there is no folder '{folder}'")


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there, or is no file
        return False


def tell(target: Path, text: str) -> None:
    """Prints what was done; not among data that goes to the standard output."""
    print(text, file=sys.stderr if outputs.descriptor(target) == 1 else sys.stdout)


@contextmanager
def errors(hint: str = "") -> Iterator[None]:
    """Errors of files and arguments as one line, without a traceback; signals that end a command end it tidily."""
    try:
        with _tidy():
            yield
    except (OSError, ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print(f"interrupted{hint}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _tidy() -> Iterator[None]:
    """SIGTERM and SIGHUP raise, so that unfinished files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(SIGNALED + number)

    old: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's SIG_IGN stays
            old[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
