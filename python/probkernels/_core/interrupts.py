"""Handles Ctrl-C while libraries load, before there is anything to clean up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # what a shell calls a command that Ctrl-C ended


@contextmanager
def loading() -> Iterator[None]:
    """Within the block, Ctrl-C ends the process at once. Put imports in it.

    A half-imported library may turn a KeyboardInterrupt into another error, or print it where nobody can catch it. Use
    this only before anything was written. A handler that the caller has set stays.

    Example:
        >>> from probkernels._core.interrupts import loading
        >>> with loading():
        ...     import json
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _quit)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(number: int, frame: FrameType | None) -> None:
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)
