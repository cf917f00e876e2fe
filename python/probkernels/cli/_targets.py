"""Checks of every command that writes files: no existing data may be lost."""

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
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


def claim(target: Path, sources: Iterable[Path | None], force: bool) -> None:
    """Checks that a file may be written, before any work is done for it.

    Args:
        target: the file to write. A pipe or a device is always allowed.
        sources: files that are read meanwhile; ``target`` may be none of them, even with ``force``.
        force: whether ``target`` may replace an existing file.

    Raises:
        ValueError: ``target`` is one of the sources (by any name or link), a folder, or an existing file.
        FileNotFoundError: the folder of ``target`` does not exist.
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
    """Whether both names lead to one file. An open descriptor, such as a shell's redirection, is followed."""
    number = outputs.descriptor(target)
    try:
        written = os.stat(target) if number is None else os.fstat(number)
        read = os.fstat(0) if str(source) == "-" else os.stat(source)
    except OSError:  # one of them is not there
        return False
    return os.path.samestat(written, read) and (stat.S_ISREG(read.st_mode) or stat.S_ISDIR(read.st_mode))


def tell(target: Path, text: str) -> None:
    """Prints what was done, to standard error if standard output carries data."""
    print(text, file=sys.stderr if outputs.descriptor(target) == 1 else sys.stdout)


@contextmanager
def about(path: Path, *options: str) -> Iterator[None]:
    """Translates errors of the library for the shell's user: names the file, or the option.

    Args:
        path: the file whose items the block works on.
        options: arguments of the library for which the command has options.
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
    """Prints errors of files and arguments in one line, without a traceback, and cleans up after signals.

    Args:
        hint: what to do after an interruption.
        target: the file that is written, for system errors that name no file, such as a full disk.
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
