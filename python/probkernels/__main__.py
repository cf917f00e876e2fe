"""Entry point of ``python -m probkernels`` and of the console script ``probkernels``."""

from probkernels._core.interrupts import loading
from probkernels._core.outputs import hold_standard_streams


def main() -> None:
    """Runs the command line."""
    hold_standard_streams()
    with loading():
        from probkernels.cli import app

    app()


if __name__ == "__main__":
    main()
