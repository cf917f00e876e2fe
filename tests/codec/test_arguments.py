"""What a codec is given by mistake: nothing is cut off, dropped or written into a file that cannot be read."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probkernels import codec
from probkernels.circuits import factorized
from probkernels.codec import Layout, PCCodec, train

from tests.codec.models import alike_rows as rows


def test_a_writer_that_has_ended_stays_so(model: PCCodec, tmp_path: Path) -> None:
    """A second end, or items behind it, would make a file in memory that cannot be read."""
    for target in (io.BytesIO(), tmp_path / "x.pkc"):
        with model.writer(target) as writer:
            writer.append(rows(900))
            writer.close()
            writer.close()
            with pytest.raises(ValueError, match=r"CodecWriter.append: .*expected an open writer"):
                writer.append(rows(900))
        blob = target.getvalue() if isinstance(target, io.BytesIO) else target.read_bytes()
        assert np.array_equal(model.decompress(blob), rows(900))
    writer = model.writer(tmp_path / "y.pkc")
    writer.append(rows(900))
    writer.abort()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkc"]


def test_masks_are_not_dropped(model: PCCodec) -> None:
    items = np.ma.masked_array(rows(900), mask=rows(900) > 2)
    with model.writer(io.BytesIO()) as writer:
        for call in (model.compress, writer.append, train):
            with pytest.raises(TypeError, match=r"'items': expected an array .*MaskedArray.*items\.filled"):
                call(items)


@pytest.mark.parametrize(
    "items", [[[1, 2], [3]], torch.ones(3, 5).requires_grad_(), torch.ones(3, 5, dtype=torch.bfloat16)]
)
def test_what_is_no_array_is_shown(model: PCCodec, items: Any) -> None:
    with pytest.raises(TypeError, match=r"PCCodec.compress: argument 'items': expected an array of whole numbers, got"):
        model.compress(items)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile": (2.5, 3)}, r"Layout: argument 'tile': expected a whole number, got float 2.5"),
        ({"tile": "23"}, r"Layout: argument 'tile': expected a tuple of whole numbers, got str '23'"),
        ({"tile": 2}, r"Layout: argument 'tile': expected a tuple of whole numbers, got int 2"),
        ({"shape": (4, 6.5)}, r"Layout: argument 'shape': expected a whole number, got float 6.5"),
        ({"offset": 1.5}, r"Layout: argument 'offset': expected a whole number, got float 1.5"),
        ({"offset": True}, r"Layout: argument 'offset': expected a whole number, got bool True"),
    ],
)
def test_numbers_of_a_layout_are_whole(change: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Layout(**{"shape": (4, 6), **change})
    assert Layout((np.int64(4), 6), offset=np.int8(-3), tile=(np.uint8(2), 3)).variables == 6


@pytest.mark.parametrize("name", ["chunk_items", "lanes"])
def test_numbers_of_a_writer_are_whole(model: PCCodec, name: str) -> None:
    for value in (1.5, True, "3"):
        with pytest.raises(TypeError, match=rf"'{name}': expected a whole number, got"):
            model.compress(rows(90), **{name: value})
    assert np.array_equal(model.decompress(model.compress(rows(90), **{name: np.int64(7)})), rows(90))


def test_a_models_bytes_are_bytes(model: PCCodec) -> None:
    data = model.to_bytes()
    for given in (bytearray(data), memoryview(data)):
        assert PCCodec.from_bytes(given).model_id == model.model_id  # type: ignore[arg-type]
    for wrong in (None, "m.pcm", [1]):
        with pytest.raises(TypeError, match=r"PCCodec.from_bytes: argument 'data': expected bytes, got"):
            PCCodec.from_bytes(wrong)  # type: ignore[arg-type]


def test_limits_are_whole_numbers(model: PCCodec) -> None:
    blob, data = model.compress(rows(90), embed=True), model.to_bytes()
    calls: dict[str, Callable[[Any], Any]] = {
        "CodecReader": lambda most: model.open(blob, max_bytes=most),
        "CodecReader: ": lambda most: codec.open(blob, max_bytes=most),
        "CodecReader: a": lambda most: model.decompress(blob, max_bytes=most),
        "PCCodec.from_bytes": lambda most: PCCodec.from_bytes(data, max_bytes=most),
    }
    for op, call in calls.items():
        for value in ("1", 1e9, None, True):
            with pytest.raises(TypeError, match=rf"{op}.*'max_bytes': expected a whole number, got"):
                call(value)
        with pytest.raises(ValueError, match=r"'max_bytes': expected a number >= 1, got -1"):
            call(-1)
        call(np.int64(10**9))


@pytest.mark.parametrize("kind", ["none", "number", "bytes", "text", "text of tempfile", "to read"])
def test_what_cannot_be_written_to_is_named(model: PCCodec, tmp_path: Path, kind: str) -> None:
    """Before anything is coded, and before a text file holds the first bytes."""
    (tmp_path / "x").write_bytes(b"x")
    with tempfile.NamedTemporaryFile("w+") as text, (tmp_path / "x").open("rb") as read:
        targets = {"none": None, "number": 3, "bytes": b"x.pkc", "text": io.StringIO(), "to read": read}
        target: Any = targets.get(kind, text)
        with pytest.raises(TypeError, match="CodecWriter: argument 'target': expected a"):
            model.writer(target)
        if kind.startswith("text"):
            with pytest.raises(TypeError, match="CodecReader: argument 'source': expected a binary file, got a text"):
                model.open(target)


@pytest.mark.parametrize("value", [4.0, "4", True, [5.0] * 6, ["5"] * 6, {0: 5}])
def test_alphabets_are_whole_numbers(value: Any) -> None:
    with pytest.raises(TypeError, match=r"train: argument 'categories': expected a whole number, got"):
        train(rows(90), categories=value)


def test_what_a_codec_is_made_of_is_checked_before_it_is_saved() -> None:
    circuit = factorized(torch.from_numpy(rows(90)).long(), categories=5)
    for wrong in ({"offset": 1.5}, {"tile": "23"}, {"tile": (2.5, 3)}, {"flow": 3}, {"note": 3}, {"note": {"a": {1}}}):
        with pytest.raises(TypeError, match=f"PCCodec: argument '{next(iter(wrong))}': expected a"):
            PCCodec(circuit, **wrong)  # type: ignore[arg-type]
    model = PCCodec(circuit)
    for call in (PCCodec.load, model.save):
        for path in (None, 3, io.BytesIO()):
            with pytest.raises(TypeError, match=r"PCCodec\.(load|save): argument 'path': expected a path, got"):
                call(path)  # type: ignore[arg-type]
    for note in (3, {"a": {1}}):
        with pytest.raises(TypeError, match="CodecWriter: argument 'note': expected a dict that JSON can hold, got"):
            model.writer(io.BytesIO(), note=note)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="PCCodec: argument 'shape': expected a tuple of whole numbers, got int 6"):
        model.writer(io.BytesIO(), 6)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Layout: argument 'dtype': expected integers of at most 64 bits, got foo"):
        model.writer(io.BytesIO(), (6,), "foo")
