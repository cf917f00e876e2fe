"""Tables as text: parses a file into rows that reproduce its bytes exactly, or else keeps the bytes themselves."""

from __future__ import annotations

import base64
import csv
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, count
from pathlib import Path
from typing import Any

from .._core.errors import CorruptStreamError

BOM = "\ufeff"
ENDS, QUOTES = ("\n", "\r\n", "\r"), ("none", "some", "all", "texts")
MOST_RAW = 2**31  # bytes of a table that is stored as it is
Rows = list[list[str]]


@dataclass(frozen=True)
class Style:
    """The choices by which cells become text: quotes, line ends."""

    delimiter: str
    quotes: str = "some"  # cells in quotes: none, those that need them, all, or all but numbers
    end: str = "\n"  # of a line
    last: str = "\n"  # after the last line
    bom: bool = False
    odd: frozenset[int] = frozenset()  # cells with quotes against the rule, by their place in the flattened rows

    def write(self, rows: Rows) -> str:
        """The text of rows, names first."""
        special = self.special()

        def cell(place: int, text: str) -> str:
            if self.quotes == "none" or not (special.search(text) or self.quoted(text) != (place in self.odd)):
                return text
            return '"' + text.replace('"', '""') + '"'

        starts = accumulate(map(len, rows), initial=0)
        lines = (self.delimiter.join(map(cell, count(start), row)) for start, row in zip(starts, rows, strict=False))
        if self.quotes != "none":
            lines = (line or '""' for line in lines)  # a column's missing value, which is no blank line
        return BOM * self.bom + self.end.join(lines) + self.last

    def special(self) -> re.Pattern[str]:
        """Finds what puts a cell in quotes under every rule."""
        return re.compile(f'[{re.escape(self.delimiter)}"\r\n]')

    def quoted(self, text: str) -> bool:
        """Whether the rule puts a cell in quotes that it may do without."""
        return self.quotes == "all" or (self.quotes == "texts" and not _is_number(text))

    def of_rows(self, kept: Iterable[int], width: int) -> Style:
        """The style for a subset of the rows, given by their positions without the header."""
        new = {0: 0} | {row + 1: place + 1 for place, row in enumerate(kept)}
        odd = (divmod(place, width) for place in self.odd)
        return replace(self, odd=frozenset(new[row] * width + column for row, column in odd if row in new))

    def note(self) -> dict[str, Any]:
        """For JSON."""
        places = sorted(self.odd)
        gaps = [after - before for before, after in zip([-1, *places], places, strict=False)]
        return {name: value for name, value in vars(self).items() if name != "odd"} | ({"odd": gaps} if gaps else {})


def style_of(note: object, delimiter: str) -> Style:
    """The style that :meth:`Style.note` noted down; without one, that of the first version.

    Raises:
        CorruptStreamError: an impossible one.
    """
    if note is None:
        return Style(delimiter)
    try:
        gaps = note.get("odd", [])  # type: ignore[attr-defined]
        odd = frozenset(place - 1 for place in accumulate(gaps))
        style = replace(Style(**{**note, "odd": frozenset()}), odd=odd)  # type: ignore[arg-type, dict-item]
        fine = all(type(gap) is int and 0 < gap < 2**48 for gap in gaps)
        fine = fine and all(isinstance(text, str) for text in (style.delimiter, style.last, style.end))
        fine = fine and style.quotes in QUOTES and style.end in ENDS and isinstance(style.bom, bool)
        fine = fine and style.last.count(style.end) * len(style.end) == len(style.last) and len(style.delimiter) == 1
    except (TypeError, AttributeError):
        fine = False
    if not fine:
        raise CorruptStreamError("note: impossible style of a table")
    return style


def text_of(path: Path) -> str:
    """The file's text.

    Raises:
        ValueError: not in UTF-8; the text says where and what it may be.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        other = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise ValueError(
            f"'{path}': expected UTF-8, got byte 0x{data[error.start]:02x} in line {line}, byte {error.start}. "
            f"Hint: convert it, e.g. iconv -f {other} -t utf-8 '{path}' > new{path.suffix}"
        ) from None


def parse(text: str, delimiter: str) -> tuple[Rows, Style] | None:
    """Rows, names first, and the style that gives the text again to the byte, or a text whose cells are the same to
    every reader of CSV.

    None if neither is sure: rows of unlike lengths, blank lines between them, ends of lines of several kinds.
    """
    found = _parse(text, delimiter)
    if delimiter == "," and (found is None or len(found[0][0]) == 1):  # what spreadsheets write where 1.5 is 1,5
        others = (_parse(text, other) for other in ";\t")
        found = next((other for other in others if other and len(other[0][0]) > 1), found)
    return found


def _parse(text: str, delimiter: str) -> tuple[Rows, Style] | None:
    bom = text.startswith(BOM)
    body = text[len(BOM) :] if bom else text
    mark = re.match(r'(?:"[^"]*"|[^"\r\n])*(\r\n|\n|\r)', body) or re.search(r"(\r\n|\n|\r)", body)
    end = mark.group(1) if mark else "\n"
    content = body
    while content.endswith(end):
        content = content[: -len(end)]
    style = Style(delimiter, "some", end, body[len(content) :], bom)
    if not content:
        return None
    found = _quoted(text, content, style) if '"' in content else None
    return found or _plain(text, content, style)


def _plain(text: str, content: str, style: Style) -> tuple[Rows, Style] | None:
    """Cells without quotes, or with such as are no quoting, as in 5"."""
    rows, last = [line.split(style.delimiter) for line in content.split(style.end)], style.last
    if len(rows[0]) == 1 and last:  # missing values of a single column, not blank lines
        rows += [[""]] * (len(last) // len(style.end) - 1)
        last = style.end
    exact = Style(style.delimiter, "none", style.end, last, style.bom)
    return (rows, exact) if _fits(rows) and not _strays(content, style.end) and exact.write(rows) == text else None


def _quoted(text: str, content: str, style: Style) -> tuple[Rows, Style] | None:
    with _long_cells(len(text)):
        try:
            rows = list(csv.reader(io.StringIO(content, newline=""), delimiter=style.delimiter, strict=True))
        except csv.Error:
            return None
    if not _fits(rows):
        return None
    for quotes in QUOTES[1:]:
        exact = Style(style.delimiter, quotes, style.end, style.last, style.bom)
        if exact.write(rows) == text:
            return rows, exact
    flags = _quotes_of(content, style.delimiter)
    if flags is None or len(flags) != len(rows) * len(rows[0]):
        return None
    exact = _nearest_rule(rows, flags, style)
    if exact.write(rows) == text:
        return rows, exact
    end = "\n" if style.end == "\r" else style.end
    return rows, replace(exact, end=end, last=end)


def _nearest_rule(rows: Rows, flags: list[bool], style: Style) -> Style:
    """The rule of quotes with the fewest cells that do not follow it, and which these are."""
    texts = [text for row in rows for text in row]
    special = style.special()

    def differs(rule: Style, text: str, flag: bool) -> bool:
        return not special.search(text) and rule.quoted(text) != flag

    def of(quotes: str) -> Style:
        rule = replace(style, quotes=quotes)
        pairs = enumerate(zip(texts, flags, strict=True))
        return replace(rule, odd=frozenset(place for place, (text, flag) in pairs if differs(rule, text, flag)))

    return min(map(of, QUOTES[1:]), key=lambda rule: len(rule.odd))


def _fits(rows: Rows) -> bool:
    return bool(rows) and all(len(row) == len(rows[0]) for row in rows)


def _strays(content: str, end: str) -> bool:
    """Whether there are ends of lines of another kind: some readers would see them, and others not."""
    rest = content.replace(end, "")
    return "\r" in rest or "\n" in rest


def _quotes_of(content: str, delimiter: str) -> list[bool] | None:
    """Whether each cell is in quotes; None unless each is quoted as in RFC 4180 or has no quotes, and each line has an
    end that all readers know."""
    bare, quoted, then = f'[^"{re.escape(delimiter)}\r\n]*', '"[^"]*(?:""[^"]*)*"', re.escape(delimiter)
    cell = re.compile(f"(?:({quoted})|{bare})({then}|\r\n|\n|$)")
    flags: list[bool] = []
    at, ended = 0, False
    while not ended:
        found = cell.match(content, at)
        if not found or found.end() == at < len(content):
            return None
        flags.append(found[1] is not None)
        at = found.end()
        ended = not found[2] or (at == len(content) and found[2] != delimiter)
    return flags


@contextmanager
def _long_cells(most: int) -> Iterator[None]:
    before = csv.field_size_limit(max(most, csv.field_size_limit()))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def why_not(text: str, delimiter: str) -> str:
    """What keeps a text from being a table, for an error."""
    body = text.removeprefix(BOM)
    if not body.strip("\r\n"):
        return "empty"
    with _long_cells(len(text)):
        reader, width = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter), 0
        for row in reader:
            width = width or len(row)
            if not row:
                return f"expected {width} values in line {reader.line_num}, got a blank line"
            if len(row) != width:
                return f"expected {width} values in line {reader.line_num}, as in line 1, got {len(row)}"
    return "expected a table, got quotes or ends of lines that readers of CSV take differently"


def pack_raw(text: str) -> str:
    """A text for a note."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack_raw(raw: object) -> bytes:
    """The bytes of :func:`pack_raw`.

    Raises:
        CorruptStreamError: damaged.
    """
    expander = zlib.decompressobj()
    try:
        data = expander.decompress(base64.b64decode(raw, validate=True), MOST_RAW)  # type: ignore[arg-type]
    except (ValueError, TypeError, zlib.error):
        data = b""
    if not expander.eof:
        raise CorruptStreamError("note: the table's bytes are damaged")
    return data
