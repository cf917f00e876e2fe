"""Damaged and hostile delta files raise CorruptStreamError: cut off, flipped, or forged with a valid digest."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import probkernels as pk
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probkernels._core import files
from probkernels.sparse import _rice
from torch import nn

FEW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=["threshold", "density"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "delta"
    rule = {"threshold": 0.05} if request.param == "threshold" else {"density": 0.3}
    pk.sparse.attach(nn.Linear(9, 7), **rule).save(path)
    return path.read_bytes()


def load(content: bytes, tmp_path: Path) -> Any:
    (tmp_path / "bad").write_bytes(content)
    return pk.sparse.Delta.load(tmp_path / "bad")


def test_every_truncation(good: bytes, tmp_path: Path) -> None:
    for length in {*range(0, len(good), 5), *range(len(good) - 9, len(good))}:
        with pytest.raises(pk.CorruptStreamError):
            load(good[:length], tmp_path)
    with pytest.raises(pk.CorruptStreamError):
        load(good + b"\0", tmp_path)


def test_every_flipped_bit(good: bytes, tmp_path: Path) -> None:
    for at in range(0, len(good), 3):
        bit = 1 << random.Random(at).randrange(8)
        damaged = bytearray(good)
        damaged[at] ^= bit
        with pytest.raises(pk.CorruptStreamError):
            load(bytes(damaged), tmp_path)


@FEW
@given(content=st.binary(max_size=200))
def test_noise(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(pk.CorruptStreamError):
        load(content, tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@FEW
@given(header=json_values, data=st.binary(max_size=40))
def test_headers_of_any_json(header: Any, data: bytes, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(pk.CorruptStreamError):
        load(len(text).to_bytes(8, "little") + text + data, tmp_path)


def forge(tmp_path: Path, tensors: dict[str, torch.Tensor], **metadata: Any) -> Any:
    """A file with a valid digest, and whatever it says."""
    text = {"format": "probkernels-sparse-delta", "version": "1", "threshold": "null"}
    text |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    files.write(tmp_path / "forged", tensors, text)
    return pk.sparse.Delta.load(tmp_path / "forged")


PART = {"shape": [4, 4], "dtype": "torch.float32", "checksum": "0" * 16, "low_bits": 0}
TENSORS = {
    "values/w": torch.ones(2),
    "unary/w": torch.tensor([0b10100000], dtype=torch.uint8),
    "low/w": torch.empty(0, dtype=torch.uint8),
}


def test_the_forger_can_forge(tmp_path: Path) -> None:
    delta = forge(tmp_path, TENSORS, parts={"w": PART})
    assert delta.parts["w"].positions.tolist() == [0, 2]


@FEW
@given(value=json_values, key=st.sampled_from(["shape", "dtype", "checksum", "low_bits", None]))
def test_forged_parts(value: Any, key: str | None, tmp_path: Path) -> None:
    part = value if key is None else {**PART, key: value}
    try:
        forge(tmp_path, TENSORS, parts={"w": part})
    except pk.CorruptStreamError:
        return
    assert (key, type(value)) in {("checksum", str), ("shape", list), ("low_bits", int)}


HUGE = [2**62, 2**63 - 1, 2**64, 10**30, -1, -(2**62)]


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("key", ["shape", "low_bits"])
def test_hostile_sizes(size: int, key: str, tmp_path: Path) -> None:
    value = [size, 4] if key == "shape" else size
    with pytest.raises(pk.CorruptStreamError):
        forge(tmp_path, TENSORS, parts={"w": {**PART, key: value}})


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("key", ["shape", "data_offsets"])
def test_hostile_tensor_sizes(size: int, key: str, tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    entry[key] = [size] if key == "shape" else [0, size]
    text = json.dumps({"x": entry}).encode()
    path = tmp_path / "bad"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(pk.CorruptStreamError):
        files.read(path, digest=False)


def test_a_hostile_header_length(tmp_path: Path) -> None:
    with pytest.raises(pk.CorruptStreamError, match="safetensors"):
        load(struct.pack("<Q", 2**63) + b"{}", tmp_path)


def test_deep_nesting_and_repeated_names(tmp_path: Path) -> None:
    for text in (b"[" * 100_000, b'{"__metadata__":{},"__metadata__":{}}'):
        with pytest.raises(pk.CorruptStreamError, match="safetensors"):
            load(len(text).to_bytes(8, "little") + text, tmp_path)


@pytest.mark.parametrize("threshold", ["-1", "NaN", '"a"', "[]", "{}", "true?"])
def test_forged_thresholds(threshold: str, tmp_path: Path) -> None:
    part = {k: v for k, v in PART.items() if k != "low_bits"}
    with pytest.raises(pk.CorruptStreamError):
        forge(tmp_path, {"values/w": torch.ones(2)}, threshold=threshold, parts={"w": part})


@FEW
@given(
    unary=st.binary(max_size=12),
    low=st.binary(max_size=6),
    count=st.integers(-1, 40),
    entries=st.integers(-1, 100),
    k=st.integers(-1, 50),
)
def test_forged_positions_decode_to_good_ones_or_raise(
    unary: bytes, low: bytes, count: int, entries: int, k: int
) -> None:
    streams = np.frombuffer(unary, dtype=np.uint8), np.frombuffer(low, dtype=np.uint8)
    try:
        positions = _rice.decode(*streams, count, entries, k)
    except pk.CorruptStreamError:
        return
    assert len(positions) == count
    assert (np.diff(positions, prepend=-1) > 0).all()
    assert count == 0 or positions[-1] < entries
    again = _rice.encode(positions, k)
    assert again[0].tobytes() == unary
    assert again[1].tobytes() == low


@FEW
@given(positions=st.sets(st.integers(0, 5000)), k=st.integers(0, 14))
def test_positions_round_trip_for_any_k(positions: set[int], k: int) -> None:
    ordered = np.array(sorted(positions), dtype=np.int64)
    assert (_rice.decode(*_rice.encode(ordered, k), len(ordered), 5001, k) == ordered).all()
