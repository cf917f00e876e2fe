"""Records: the results of an experiment's jobs, from which claims, tables and plots are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

Kind = TypeVar("Kind")


def of_kind(records: Sequence[Any], kind: type[Kind]) -> list[Kind]:
    """The records of one class, in order."""
    return [record for record in records if isinstance(record, kind)]
