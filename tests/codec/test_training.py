"""From data to a codec in one call, and tables of text as codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import CorruptStreamError, ModelMismatchError
from probkernels.codec import PCCodec, Vocabulary, train

texts = st.text(max_size=3) | st.integers(-20, 20).map(str)
tables = st.integers(0, 4).flatmap(lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), max_size=12))


@settings(max_examples=200, deadline=None)
@given(tables, tables, st.integers(1, 3))
def test_tables_come_back(known: list[list[str]], rows: list[list[str]], most: int) -> None:
    width = len(known[0]) if known else 0
    rows = [(row * width + ["x"] * width)[:width] for row in rows]
    vocabulary = Vocabulary.of(known, most)
    codes, others = vocabulary.encode(rows)
    assert vocabulary.decode(codes, others) == rows
    assert codes.size == 0 or (codes < np.array(vocabulary.categories)).all()
    assert all(len(column) <= most for column in vocabulary.values)


def test_numbers_are_in_their_order_and_come_first() -> None:
    rows = [[value] for value in ("10", "9", "b", "-1.5", "a", "nan", "")]
    assert Vocabulary.of(rows).values == [["-1.5", "9", "10", "", "a", "b", "nan"]]


def test_vocabularies_are_checked() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Vocabulary([["a", "a"]])
    with pytest.raises(ValueError, match="most"):
        Vocabulary.of([["a"]], most=0)
    with pytest.raises(ValueError, match="row 1"):
        Vocabulary.of([["a"], ["a", "b"]])
    vocabulary = Vocabulary([["a"]])
    with pytest.raises(ValueError, match="row 0"):
        vocabulary.encode([["a", "b"]])
    with pytest.raises(CorruptStreamError, match="cell 0"):
        vocabulary.decode(np.array([[1]]), {})
    with pytest.raises(CorruptStreamError, match="cell 0 has a code and a value"):
        vocabulary.decode(np.array([[0]]), {0: "b"})
    with pytest.raises(TypeError, match=r"'values\[0\]': expected a sequence of texts, got set"):
        Vocabulary([{"a", "b"}])  # type: ignore[list-item]
    with pytest.raises(CorruptStreamError, match="rows of 1"):
        vocabulary.decode(np.array([[1, 0]]), {})
    for code in (-1, 2):  # -1 is not the last value, as it would be in a list
        with pytest.raises(CorruptStreamError, match=f"codes below 2 in column 0, got {code} in row 0"):
            vocabulary.decode(np.array([[code]]), {0: "b"})
    with pytest.raises(TypeError, match="whole numbers"):
        vocabulary.decode(np.array([[0.5]]), {})
    with pytest.raises(TypeError, match="'most'"):
        Vocabulary.of([["a"]], most=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", [1, True, None, b"a"])
def test_cells_are_text(cell: Any) -> None:
    """To a dictionary, 1, 1.0 and True are one value."""
    calls: list[Callable[[Any], object]] = [Vocabulary, Vocabulary.of, Vocabulary([["a"]]).encode]
    for call in calls:
        with pytest.raises(TypeError, match="cells of text"):
            call([[cell]])


def rows(count: int, low: int = 0) -> np.ndarray:
    """Three equal numbers a row."""
    return np.random.default_rng(0).integers(low, low + 5, (count, 1)).repeat(3, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "int64"])
def test_negative_values_and_other_dtypes(dtype: str) -> None:
    x = rows(200, 0 if dtype.startswith("u") else -2).astype(dtype)
    model = train(x, latents=5, epochs=5, progress=False)
    blob = model.compress(x)
    assert (model.decompress(blob) == x).all() and model.decompress(blob).dtype == x.dtype
    assert len(blob) < x.size * x.itemsize


def test_the_same_call_gives_the_same_model_and_many_rows_are_sampled() -> None:
    x = rows(300).astype(np.uint8)
    models = [
        train(x, latents=2, epochs=2, most_rows=n, seed=s, progress=False) for n, s in ((50, 0), (50, 0), (50, 1))
    ]
    first, second, other = (model.to_bytes() for model in models)
    assert first == second != other


def test_tiles_are_learned_from(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 4, (5, 9, 8, 1), np.uint8).repeat(3, 3)
    model = train(x, latents=4, tile=(4, 4), epochs=3, most_rows=20, progress=False, note={"of": "tiles"})
    model.save(tmp_path / "m.pcm")
    loaded = PCCodec.load(tmp_path / "m.pcm")
    assert loaded.tile == (4, 4) and loaded.note == {"of": "tiles"}
    assert (loaded.decompress(model.compress(x)) == x).all()


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    """Data of one shape, with one tree: without their digest the model would never have seen the second."""
    x = rows(200)
    train(x, latents=2, epochs=1, checkpoint=tmp_path / "run", progress=False)
    with pytest.raises(ModelMismatchError, match=r"differs in x\. Hint: delete the file"):
        train(x[::-1], latents=2, epochs=1, checkpoint=tmp_path / "run", progress=False)


def test_arguments_are_checked() -> None:
    x = rows(10).astype(np.uint8)
    for change, words in (
        ({"latents": 0}, "latents"),
        ({"most_rows": 0}, "most_rows"),
        ({"categories": 2}, "at least 5"),
    ):
        with pytest.raises(ValueError, match=words):
            train(x, progress=False, **change)
    with pytest.raises(ValueError, match="at least one item"):
        train(x[:0])
    with pytest.raises(ValueError, match="at least one item"):
        train(np.zeros((), np.uint8))
    with pytest.raises(TypeError, match="dtype"):
        train(x.astype(np.float32))
    with pytest.raises(ValueError, match="quantize"):
        train(np.array([[0], [10**6]]))


def test_what_is_no_array_is_named() -> None:
    class DataFrame:
        """As pandas has it: no array."""

    for items in ([[0, 1], [1, 0]], DataFrame(), None, "x.npy"):
        with pytest.raises(TypeError, match="train: argument 'items': expected an array of whole numbers, got"):
            train(items, latents=2)  # type: ignore[arg-type]
    tensor = torch.from_numpy(rows(60))
    assert train(tensor, latents=2, epochs=1, progress=False).compress(tensor)
