"""Tables come back to the byte, or to the same cells for every reader of CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import CorruptStreamError
from probkernels.cli import _sources, _tables

ROWS = "1,2\n3,4\n5,6\n" * 10
EXACT = {
    "plain": "a,b\n" + ROWS,
    "bom": "\ufeffa,b\n" + ROWS,
    "bom before a quoted name": '\ufeff"a","b"\n' + ROWS,
    "bom before a quoted comma": '\ufeff"a, x",b\n' + ROWS,
    "ends of Windows": ("a,b\n" + ROWS).replace("\n", "\r\n"),
    "bare ends": ("a,b\n" + ROWS).replace("\n", "\r"),
    "blank lines at the end": "a,b\n" + ROWS + "\n\n",
    "no end at the end": ("a,b\n" + ROWS).rstrip(),
    "missing values of one column": "a\n1\n\n3\n" * 5 + "\n\n",
    "quoted missing values of one column": 'a\n1\n""\n3\n',
    "all missing": "a,b\n" + ",\n" * 30,
    "a bare CR in a cell": 'a,b\n"x\ry",2\n' + ROWS,
    "a bare CR in a name": '"a\rq",b\n' + ROWS,
    "CR LF in a cell": 'a,b\n"x\r\ny",2\n' + ROWS,
    "new lines in cells": 'a,b\n"\n",2\n"\n\n",3\n',
    "all in quotes": '"a","b"\n"1","2"\n"","x"\n',
    "texts in quotes, as R writes": '"a","b"\n1,"x"\n2,"y,z"\n',
    "a quote, then text": 'a,b\n"x"y,2\n' + ROWS,
    "an open quote": 'a\n"x\n3\n4\n',
    "semicolons": "a;b\n1,5;2\n3,5;4\n",
    "a long cell": f'a,b\n"{"x," * 70000}",2\n' + ROWS,
    "numbers as they were": "a,b\n1,x\n1.0,NaN\n01,nan\n,None\n 1,1e0\n",
    "other spaces": "ä,日本\n\u202e1,\U0001f600\n\u2028,\u0085\n\x0b,\x0c\n\x1c,\x1e\n",
    "no names": "1,2\n3,4\n",
    "one row": "a,b\n1,2\n",
    "names twice": "a,a\n1,2\n",
    "a bare CR at the end of a cell": 'a,b\n"x\r",2\n"y",3\n',
    "quotes that need not be": 'a,b\n"1",2\n3,4\n',
    "empty texts and missing values": 'a,b\n"",1\n,2\n"",3\n,""',
    "texts of digits in quotes": 'id,n,"t"\n"007",1,x\n"008",2,y\n' * 5 + "9,3,z\n\n",
}
TABS = {
    "inches": 'a\tb\n5" disk\t2\n1\t2\n',
    "a quote in front": 'a\tb\n"hello\t2\n1\t2\n',
    "quoted tabs": 'a\tb\n"x\ty"\t2\n1\t2\n',
}
ALIKE = {"ends of two kinds, and quotes": 'a,b\r\n"1",2\n3,4\n'}
KEPT = {
    "a blank line between": "a,b\n" + ROWS + "\n" + ROWS,
    "lengths of two kinds": "a,b\n1,2,3\n",
    "a space before a quote": 'a,b\n1, "x, y"\n',
    "bare ends and others": "a,b\n1\r2,3\n4,5\n",
    "nothing": "",
    "a blank line": "\n",
    "blank lines": "\n\n",
}


def there_and_back(here: Path, text: str, ending: str = ".csv", model: dict[str, object] | None = None) -> bytes:
    source, target = here / f"a{ending}", here / f"b{ending}"
    source.write_bytes(text.encode())
    items = _sources.read(source, model_note=model)
    note = model or items.model_note
    kept = np.arange(items.count)
    _sources.write(target, [items.whole()], items.shape, items.dtype, items.count, items.note, note, kept)
    return target.read_bytes()


def cells(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("name", EXACT)
def test_bytes_come_back(name: str, tmp_path: Path) -> None:
    assert there_and_back(tmp_path, EXACT[name]) == EXACT[name].encode()


@pytest.mark.parametrize("name", TABS)
def test_bytes_between_tabs_come_back(name: str, tmp_path: Path) -> None:
    assert there_and_back(tmp_path, TABS[name], ".tsv") == TABS[name].encode()


@pytest.mark.parametrize("name", ALIKE)
def test_cells_come_back(name: str, tmp_path: Path) -> None:
    back = there_and_back(tmp_path, ALIKE[name])
    assert cells(back) == cells(ALIKE[name].encode())
    assert b"\r" not in back.replace(b"\r\n", b"") and back.count(b'"') == ALIKE[name].count('"')


@pytest.mark.parametrize("name", [*KEPT, "names alone"])
def test_what_is_no_sure_table_is_kept_as_it_is(name: str, tmp_path: Path) -> None:
    model = {"kind": "table", "values": [["1", "3"], ["2"]]}
    text = KEPT.get(name, "a,b\n")
    assert there_and_back(tmp_path, text, model=model) == text.encode()
    with pytest.raises(ValueError, match=r"a\.csv': (empty|expected)"):
        there_and_back(tmp_path, text)
    if name in KEPT:
        items = _sources.read(tmp_path / "a.csv", model_note=model)
        for other in ("b.npy", "b.tsv"):
            with pytest.raises(ValueError, match=r"kept as its bytes.*ends in \.csv"):
                _sources.write(tmp_path / other, [], (2,), items.dtype, 0, items.note, model, np.arange(0))


TEXT = st.text(alphabet='ab1,;\t"\r\n \ufeff', max_size=40)


@settings(max_examples=300, deadline=None)
@given(TEXT, st.sampled_from(",\t"))
def test_every_text_comes_back_or_has_the_same_cells(text: str, delimiter: str) -> None:
    found = _tables.parse(text, delimiter)
    if found is None:
        assert _tables.unpack_raw(_tables.pack_raw(text)) == text.encode()
        return
    rows, style = found
    back = _tables.style_of(style.note(), delimiter).write(rows)
    if back != text:
        assert cells(back.encode()) == cells(text.encode()) or style.delimiter != ","


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.text(alphabet='ab1,"\r\n \ufeff', max_size=4), min_size=2, max_size=2), min_size=1))
def test_what_csv_writes_comes_back(rows: list[list[str]]) -> None:
    for quoting in (csv.QUOTE_ALL, csv.QUOTE_MINIMAL):
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator="\r\n", quoting=quoting).writerows(rows)
        found = _tables.parse(file.getvalue(), ",")
        assert found is not None and found[1].write(found[0]) == file.getvalue()


def test_another_kind_of_table_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\r\n"x,y",2\r\n', newline="")
    items = _sources.read(tmp_path / "a.csv")
    _sources.write(
        tmp_path / "b.tsv", [items.whole()], items.shape, items.dtype, 1, items.note, items.model_note, np.arange(1)
    )
    assert (tmp_path / "b.tsv").read_bytes() == b"a\tb\nx,y\t2\n"


def test_other_encodings_are_named_with_their_place(tmp_path: Path) -> None:
    for data, where, name in (("a,b\né,2\n".encode("latin1"), "0xe9 in line 2, byte 4", "latin1"),
                              (("a,b\n" + ROWS).encode("utf-16"), "0xff in line 1, byte 0", "utf-16")):  # fmt: skip
        (tmp_path / "a.csv").write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\.csv': expected UTF-8, got byte {where}.*iconv -f {name}"):
            _sources.read(tmp_path / "a.csv")


def test_quotes_stay_with_their_rows_where_others_are_lost(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a",b\n"1",2\n3,"4"\n5,6\n7,"8"\n')
    items = _sources.read(tmp_path / "a.csv")
    for kept, last in ((np.array([0, 3]), '7,"8"'), (np.array([0, 2]), "5,6")):
        _sources.write(
            tmp_path / "b.csv", [items.whole()[kept]], items.shape, items.dtype, 2, items.note, items.model_note, kept
        )
        assert (tmp_path / "b.csv").read_text() == f'"a",b\n"1",2\n{last}\n'


@pytest.mark.parametrize(
    "change",
    [
        {"delimiter": [","]},
        {"bom": 0.0},
        {"odd": 3},
        {"odd": [0]},
        {"odd": ["a"]},
        {"quotes": "x"},
        {"end": "x"},
        {"last": "x"},
        {"delimiter": 3},
        {"more": 1},
    ],
)
def test_impossible_styles_are_damage(change: dict[str, object]) -> None:
    with pytest.raises(CorruptStreamError, match="style"):
        _tables.style_of({**_tables.Style(",").note(), **change}, ",")
    for raw in ("%%", 3, _tables.pack_raw("abc")[:-4]):
        with pytest.raises(CorruptStreamError, match="damaged"):
            _tables.unpack_raw(raw)


def test_cells_that_need_quotes_are_not_odd() -> None:
    """One stray pair of quotes beside cells with a comma: one cell is noted down."""
    text = "a,b\n" + '"x,1",2\n' * 50 + '"t1",3\n'
    read = _tables.parse(text, ",")
    assert read is not None and read[1].write(read[0]) == text
    assert len(read[1].odd) == 1
