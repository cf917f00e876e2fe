"""Entry point of ``python -m probkernels`` and of the console script ``probkernels``."""

from probkernels._core.interrupts import loading


def main() -> None:
    """Runs the command line."""
    with loading():
        from probkernels.cli import app

    app()


if __name__ == "__main__":
    main()
