"""The command line: ``probkernels doctor | reproduce | bench | train | compress | decompress | test | inspect``."""

from importlib import metadata
from typing import Annotated

import typer

from .bench import bench
from .codec import compress, decompress, inspect, test, train
from .doctor import doctor
from .reproduce import reproduce


def _version(asked: bool) -> None:
    if asked:
        print(f"probkernels {metadata.version('probkernels')}")
        raise typer.Exit


app = typer.Typer(
    help="Kernels for probabilistic deep learning: diagnosis, papers reproduced, benchmarks, lossless compression.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a plain traceback is what a bug report needs
)
for command in (doctor, reproduce, bench, train, compress, decompress, test, inspect):
    app.command(context_settings={"ignore_unknown_options": command is bench})(command)  # which are pytest's


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Kernels for probabilistic deep learning: diagnosis, papers reproduced, benchmarks, lossless compression."""
