"""Entry point of ``python -m probkernels`` and of the console script ``probkernels``."""

import os
import sys

from probkernels._core.interrupts import loading
from probkernels._core.outputs import hold_standard_streams


def main() -> None:
    """Runs the command line."""
    hold_standard_streams()
    sys.argv[1:] = [os.path.abspath(word) if word == "./-" else word for word in sys.argv[1:]]  # a Path drops the dot
    with loading():
        from probkernels.cli import app

    app()


if __name__ == "__main__":
    main()
