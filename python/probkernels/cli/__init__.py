"""The command line: ``probkernels doctor | reproduce | bench | train | compress | decompress | test | inspect``."""

import typer

from .bench import bench
from .codec import compress, decompress, inspect, test, train
from .doctor import doctor
from .reproduce import reproduce

app = typer.Typer(
    help="Kernels for probabilistic deep learning: diagnosis, papers reproduced, benchmarks, lossless compression.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a plain traceback is what a bug report needs
)
for command in (doctor, reproduce, bench, train, compress, decompress, test, inspect):
    app.command()(command)
