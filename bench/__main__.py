"""``python -m probkernels.bench [CASE...] [--json FILE] [--force]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import main
from .cases import names


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m probkernels.bench", description="Runs benchmarks without pytest.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(names())}; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample, machine and software facts")
    parser.add_argument("--force", action="store_true", help="replace a file that is there already")
    arguments = parser.parse_args()
    if arguments.json is not None and arguments.json.is_file() and not arguments.force:
        parser.error(f"'{arguments.json}': there is a file already. Hint: --force replaces it")
    return main(arguments.cases, arguments.json)


if __name__ == "__main__":
    sys.exit(_main())
