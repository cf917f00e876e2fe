"""Writes files atomically. Pipes and devices receive bytes as they come."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)")
STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
MOST_NAME = 200  # bytes of a name that its temporary one keeps: file systems allow 255


def descriptor(path: str | Path) -> int | None:
    """The file descriptor that a path such as ``-`` or ``/dev/stdout`` stands for. None for other paths.

    Example:
        >>> from probkernels._core.outputs import descriptor
        >>> descriptor("-"), descriptor("/dev/fd/5"), descriptor("a.npy")
        (1, 5, None)
    """
    found = DESCRIPTOR.fullmatch(str(path))
    return int(found[1] or found[2]) if found else STANDARD.get(str(path))


def hold_standard_streams() -> None:
    """Opens the standard streams that the caller closed, such as with ``>&-``, so that no other file takes their place.

    Otherwise the next file that is opened gets the descriptor, and what is printed to it lands in that file. Text that
    is printed is dropped. Data that is read from or written to the descriptor raises OSError.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number else os.O_WRONLY)  # gets the lowest free descriptor, this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w") if number else open(0, closefd=False))  # noqa: SIM115


def is_stream(path: str | Path) -> bool:
    """Whether a path cannot be replaced: an open file, a pipe or a device."""
    if descriptor(path) is not None:
        return True
    try:
        kind = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


class Output:
    """A file that replaces ``path`` when :meth:`commit` is called.

    Until then it has a temporary name in the same folder, and the old file stays at ``path``. Links are followed, and
    the mode and owner of the replaced file are kept. Pipes and devices cannot be replaced, so they are written to at
    once.

    Args:
        path: path of the file. ``-`` is the standard output.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fresh: str | None = None
        if is_stream(path):
            number = descriptor(path)
            if number == 1 and sys.stdout is not None:
                sys.stdout.flush()  # what was printed before comes first
            handle = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
            self.file: BinaryIO = os.fdopen(handle, "wb")
            return
        self._target = os.path.realpath(path)
        if os.path.islink(self._target):
            raise OSError(errno.ELOOP, "links that lead in circles", str(path))
        if os.path.isdir(self._target):
            raise IsADirectoryError(f"'{path}': expected a file to write, got a folder")
        self._open()

    def _open(self) -> None:
        folder, name = os.path.split(self._target)
        old = os.stat(self._target) if os.path.exists(self._target) else None
        mode = 0o666 if old is None else stat.S_IMODE(old.st_mode) & 0o777
        short = os.fsdecode(os.fsencode(name)[:MOST_NAME])
        fresh = os.path.join(folder, f".{short}.{secrets.token_hex(4)}")
        try:  # the system takes the umask off the mode: nobody has to ask for it, which would change it for a moment
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileNotFoundError:
            raise FileNotFoundError(f"'{self.path}': there is no folder '{folder}'") from None
        except OSError as error:  # of a name that nobody has given
            error.filename = str(self.path)
            raise
        self._fresh = fresh
        self._forget = weakref.finalize(self, _remove, fresh, os.getpid())
        self.file = os.fdopen(handle, "wb")
        if old is not None:
            with suppress(PermissionError):
                os.fchown(handle, old.st_uid, old.st_gid)
            os.fchmod(handle, mode)

    def commit(self) -> None:
        """Closes the file and puts it at ``path``."""
        self.file.flush()
        if self._fresh is not None:
            os.fsync(self.file.fileno())
        self.file.close()
        if self._fresh is not None:
            os.replace(self._fresh, self._target)
            self._forget.detach()

    def abort(self) -> None:
        """Removes the temporary file. The old file stays."""
        with suppress(OSError):  # of a pipe that nobody reads any more
            self.file.close()
        if self._fresh is not None:
            self._forget()


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a child that was forked meanwhile and ends first
        Path(path).unlink(missing_ok=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Yields a file that replaces ``path`` when the block ends, and is removed if the block raises."""
    output = Output(path)
    try:
        yield output.file
        output.commit()
    except BaseException:
        output.abort()
        raise


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file atomically."""
    with replacing(path) as file:
        file.write(content)
