"""Entry point of ``python -m probkernels`` and of the console script ``probkernels``."""


def main() -> None:
    """Runs the command line."""
    from probkernels.cli import app

    app()


if __name__ == "__main__":
    main()
