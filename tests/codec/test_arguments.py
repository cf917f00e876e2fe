"""What a codec is given by mistake: nothing is cut off, dropped or written into a file that cannot be read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
