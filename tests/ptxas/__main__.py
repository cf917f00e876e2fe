"""Writes the record of every .cu file: ``python -m tests.ptxas``."""

import tempfile
from pathlib import Path

from tests.ptxas.test_ptxas import write_records

with tempfile.TemporaryDirectory() as folder:
    write_records(Path(folder))
