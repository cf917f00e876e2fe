"""Defers Ctrl-C to a point where nothing is half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class DeferredInterrupt:
    """Holds back Ctrl-C inside a ``with`` block until :meth:`check`. A second Ctrl-C takes effect at once.

    If the program has installed its own handler, or outside the main thread, it does nothing.

    Example:
        >>> from probkernels.training import DeferredInterrupt
        >>> with DeferredInterrupt() as interrupt:
        ...     for batch in range(3):
        ...         interrupt.check()  # raises KeyboardInterrupt here if Ctrl-C came before
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: Any = None

    def __enter__(self) -> DeferredInterrupt:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was held back."""
        if self.pending:
            raise KeyboardInterrupt
