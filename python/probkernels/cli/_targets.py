"""What every command that writes asks first: nothing that somebody has may be lost."""

from __future__ import annotations

import os
import re
import signal
import stat
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
ARGUMENT = re.compile(r"[\w.]+: argument '(\w+)': ")
OPTIONS = {"most_rows": "--rows", "chunk_items": "--chunk-items"}  # that have other names than the library's arguments
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]


def claim(target: Path, sources: Iterable[Path | None], force: bool) -> None:
    """Asks whether a file may be written, before any work is done for it.

    Args:
        target: the file to write; a pipe or a device always may be.
        sources: what is read meanwhile, which it may not be even with ``force``.
        force: whether it may take the place of another file.

    Raises:
        ValueError: it is one of the sources, by whatever name or link; a folder; there is a file already.
        FileNotFoundError: there is no folder for it.
    """
    for source in sources:
        if source is not None and _same(target, source):
            raise ValueError(f"'{target}': expected a file to write, got '{source}', which is read. Hint: another name")
    if outputs.is_stream(target):
        return
    if target.is_dir():
        raise ValueError(f"'{target}': expected a file to write, got a folder")
    if target.exists() and not force:
        raise ValueError(f"'{target}': there is a file already. Hint: --force replaces it")
    folder = Path(os.path.realpath(target)).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"'{target}': there is no folder '{folder}'")


def _same(target: Path, source: Path) -> bool:
    """Whether they are one file; of open ones, such as the shell's redirections, what they lead to."""
    number = outputs.descriptor(target)
    try:
        written = os.stat(target) if number is None else os.fstat(number)
        read = os.fstat(0) if str(source) == "-" else os.stat(source)
    except OSError:  # one of them is not there
        return False
    return os.path.samestat(written, read) and (stat.S_ISREG(read.st_mode) or stat.S_ISDIR(read.st_mode))


def tell(target: Path, text: str) -> None:
    """Prints what was done; not among data that goes to the standard output."""
    print(text, file=sys.stderr if outputs.descriptor(target) == 1 else sys.stdout)


@contextmanager
def about(path: Path, *options: str) -> Iterator[None]:
    """Errors of the library as the shell's user knows things: with a file's name, or the option's.

    Args:
        path: of the file whose items the block works on.
        options: arguments of the library that the command has options for.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        text = str(error)
        found = ARGUMENT.match(text)
        text = text if found is None else text[found.end() :]
        if found is not None and found[1] in options:
            raise ValueError(f"{OPTIONS.get(found[1], '--' + found[1])}: {text}") from None
        named = text.startswith("'") or f"'{path}'" in text
        raise ValueError(text if named else f"'{path}': {text}") from None


@contextmanager
def errors(hint: str = "", target: Path | None = None) -> Iterator[None]:
    """Errors of files and arguments as one line, without a traceback; signals that end a command end it tidily.

    Args:
        hint: of what to do after an interruption.
        target: the file that is written, for errors of the system that name none, such as a full disk.
    """
    try:
        with _tidy():
            yield
    except (OSError, ValueError, TypeError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):  # torch has no class for it
            raise
        nameless = isinstance(error, OSError) and error.errno is not None and error.filename is None
        text = str(error) or type(error).__name__
        print(f"error: '{target}': {text}" if nameless and target is not None else f"error: {text}", file=sys.stderr)
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
