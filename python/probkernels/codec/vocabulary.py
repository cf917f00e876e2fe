"""Tables of text as codes: the known values of each column, and the unknown ones that turn up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

import numpy as np

from .._core import checks
from .._core.errors import CorruptStreamError, message

MOST = 4096
LARGEST = 65535  # a column's codes fit into uint16


class Vocabulary:
    """The values of each column of a table, as codes 0, 1, ... A column's last code stands for all values that are not
    listed.

    Args:
        values: distinct values of each column.

    Raises:
        TypeError: a column is a set, which has no order, or a value is no text. Numbers are texts here, because 1, 1.0
            and True are one value to a dictionary.
        ValueError: a column lists a value twice, or too many values.

    Example:
        >>> from probkernels.codec import Vocabulary
        >>> vocabulary = Vocabulary.of([["red", "7"], ["blue", "7"]])
        >>> vocabulary.categories
        [3, 2]
        >>> codes, others = vocabulary.encode([["red", "7"], ["green", "7"]])
        >>> codes.tolist(), others
        ([[1, 0], [2, 0]], {2: 'green'})
        >>> vocabulary.decode(codes, others)
        [['red', '7'], ['green', '7']]
    """

    def __init__(self, values: Sequence[Sequence[str]]) -> None:
        for place, column in enumerate(values):
            if isinstance(column, Set):  # its order, and with it the codes, would differ in the next process
                got, hint = checks.describe(column), "sorted(column)"
                raise TypeError(message("Vocabulary", f"values[{place}]", "a sequence of texts", got, hint))
        self.values = [list(column) for column in values]
        for column in self.values:
            _check_texts("Vocabulary", "values", column)
        self._codes = [{value: code for code, value in enumerate(column)} for column in self.values]
        for place, (column, codes) in enumerate(zip(self.values, self._codes, strict=True)):
            if len(codes) != len(column) or len(column) > LARGEST:
                wanted = f"at most {LARGEST} distinct values in column {place}"
                raise ValueError(message("Vocabulary", "values", wanted, f"{len(column)}, {len(codes)} distinct"))

    @classmethod
    def of(cls, rows: Sequence[Sequence[str]], most: int = MOST) -> Vocabulary:
        """The vocabulary of rows of text: the ``most`` most frequent values of each column, numbers in order.

        Raises:
            TypeError: a cell is no text, or ``most`` no whole number.
            ValueError: the rows differ in length, or ``most`` is out of range.
        """
        checks.integer("Vocabulary.of", "most", most)
        if not 1 <= most <= LARGEST:
            raise ValueError(message("Vocabulary.of", "most", f"a number in 1 .. {LARGEST}", str(most)))
        _check_lengths("Vocabulary.of", rows, len(rows[0]) if rows else 0)
        for row in rows:
            _check_texts("Vocabulary.of", "rows", row)
        columns = (Counter(column) for column in zip(*rows, strict=True))
        return cls([sorted((value for value, _ in found.most_common(most)), key=_order) for found in columns])

    @property
    def categories(self) -> list[int]:
        """Number of codes of each column."""
        return [len(column) + 1 for column in self.values]

    def encode(self, rows: Sequence[Sequence[str]]) -> tuple[np.ndarray, dict[int, str]]:
        """Converts rows to codes (N, columns) uint16. Also returns the values without a code, by their index in the
        flattened codes.

        Raises:
            TypeError: a cell is no text.
            ValueError: a row has another length.
        """
        _check_lengths("Vocabulary.encode", rows, len(self.values))
        for row in rows:
            _check_texts("Vocabulary.encode", "rows", row)
        codes = np.empty((len(rows), len(self.values)), np.uint16)
        for place, (known, column) in enumerate(zip(self._codes, self.values, strict=True)):
            codes[:, place] = [known.get(row[place], len(column)) for row in rows]
        rare = np.flatnonzero(codes == np.array([len(column) for column in self.values]))
        width = len(self.values)
        return codes, {at: rows[at // width][at % width] for at in rare.tolist()}

    def decode(self, codes: np.ndarray, others: dict[int, str]) -> list[list[str]]:
        """Converts the output of :meth:`encode` back to rows.

        Raises:
            TypeError: the codes are not whole numbers.
            CorruptStreamError: a column has no such code, or ``others`` are not the values of the cells without one.
        """
        width, codes = len(self.values), np.asarray(codes)
        if codes.dtype.kind not in "iu":
            raise TypeError(message("Vocabulary.decode", "codes", "whole numbers", checks.describe(codes)))
        if codes.ndim != 2 or codes.shape[1] != width:
            raise CorruptStreamError(f"table: expected rows of {width} codes, got shape {codes.shape}")
        wrong = np.argwhere((codes < 0) | (codes >= self.categories))
        if len(wrong):
            row, place = wrong[0].tolist()
            codes_of = self.categories[place]
            raise CorruptStreamError(
                f"table: expected codes below {codes_of} in column {place}, got {codes[row, place]} in row {row}"
            )
        rare = set(np.flatnonzero(codes == np.array(self.categories) - 1).tolist())
        if differ := sorted(rare ^ others.keys()):
            cell = differ[0]
            found = f"the value of cell {cell} is missing" if cell in rare else f"cell {cell} has a code and a value"
            raise CorruptStreamError(f"table: {found}")
        return [
            [
                column[code] if code < len(column) else others[row * width + place]
                for place, (column, code) in enumerate(zip(self.values, line, strict=True))
            ]
            for row, line in enumerate(codes.tolist())
        ]


def _order(value: str) -> tuple[bool, float, str]:
    """Sort key: numbers first, by size, so that values with neighboring codes are close."""
    try:
        number = float(value)
    except ValueError:
        return True, 0.0, value
    return (False, number, value) if number == number else (True, 0.0, value)


def _check_texts(op: str, name: str, cells: Sequence[str]) -> None:
    if not all(isinstance(cell, str) for cell in cells):
        wrong = next(cell for cell in cells if not isinstance(cell, str))
        hint = "str(value) of each cell"
        raise TypeError(message(op, name, "cells of text", checks.describe(wrong), hint))


def _check_lengths(op: str, rows: Sequence[Sequence[str]], width: int) -> None:
    for place, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(message(op, "rows", f"{width} values in row {place}", str(len(row))))
