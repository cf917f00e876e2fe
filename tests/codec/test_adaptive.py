"""The adaptive model in the codec's files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from probkernels import CorruptStreamError, ModelMismatchError
from probkernels.codec import AdaptiveCoder, CodecReader, CodecWriter, Layout
from probkernels.codec import adaptive as module


def written(coder: AdaptiveCoder, items: np.ndarray, chunk: int) -> bytes:
    file = io.BytesIO()
    with CodecWriter(file, coder, Layout(items.shape[1:], items.dtype.name), chunk_items=chunk) as writer:
        writer.append(items)
    return file.getvalue()


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_files(order: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    items = (np.arange(1200).reshape(100, 3, 4) ** 2 % 11).astype(dtype)
    items[70:] = 400 if dtype == "int16" else 200  # no code for 400
    coder = AdaptiveCoder(12, order)
    blob = written(coder, items, 15)
    with CodecReader(blob, coder) as reader:
        assert np.array_equal(reader[:], items) and np.array_equal(reader[20:33], items[20:33])
    monkeypatch.setattr(module, "GROUP", 12 * 15)
    assert written(coder, items, 15) == blob
    with pytest.raises(ModelMismatchError):
        CodecReader(blob, AdaptiveCoder(12, order + 1))


def test_damage_is_found_and_numbers_are_checked() -> None:
    coder = AdaptiveCoder(4, 1)
    (payload,) = coder.encode(np.arange(40, dtype=np.int32).reshape(10, 4), 10, 1)
    with pytest.raises(CorruptStreamError, match="stream 0"):
        coder.decode([payload + b"\1\1"], [10], 1)
    assert coder.decode([], [], 1).shape == (0, 4) and coder.encode(np.zeros((0, 4), np.int32), 5, 1) == []
    for variables, order in ((0, 1), (4, 8), (4, -1)):
        with pytest.raises(ValueError, match="AdaptiveCoder"):
            AdaptiveCoder(variables, order)


def test_streams_of_no_bytes() -> None:
    """A byte of ones is the lowest number of all, whose stream is empty."""
    coder = AdaptiveCoder(1, 1)
    assert coder.encode(np.array([[255]], np.int32), 1, 1) == [b""]
    assert coder.decode([b""], [1], 1).tolist() == [[255]]
    assert coder.decode([b"", b""], [1, 1], 1).tolist() == [[255], [255]]
    items = np.array([[255], [0], [255], [255]], np.uint8)
    for chunk in (1, 2, 4):
        for part in (items, items[:1]):
            with CodecReader(written(coder, part, chunk), coder) as reader:
                assert np.array_equal(reader[:], part) and not reader.test().chunks
