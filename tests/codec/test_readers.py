"""Readers: shared by threads and processes, pickled, and what they refuse."""

from __future__ import annotations

import copy
import io
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels import CorruptStreamError, codec
from probkernels.codec import CodecReader, PCCodec
from probkernels.codec import format as parts

from tests.codec.models import alike_rows as rows


def test_numbers_of_every_length() -> None:
    values = [0, 1, 127, 128, 300, 2**14 - 1, 2**14, 2**35, 2**56 - 1]
    packed = parts.pack_end(values[0], values[1:], values[:-1], b"12345678")
    items, sizes, crcs = parts.unpack_end(packed, b"12345678")
    assert crcs is not None and [items, *sizes.tolist()] == values and crcs.tolist() == values[1:-1]
    with pytest.raises(CorruptStreamError, match="index: its CRC32C"):
        parts.unpack_end(packed, b"12345679")
    for value in (*values, 2**64 - 1):
        assert parts.Cursor(parts.number(value), "").number() == value
    for bad in (b"", b"\x80", b"\x80\0", b"\xff" * 9 + b"\x02", b"\xff" * 2**16):
        with pytest.raises(CorruptStreamError):
            parts.Cursor(bad, "header").number()


def test_every_flipped_bit_of_a_sealed_part_shows() -> None:
    body = bytes(range(40))
    whole = parts.sealed(body)
    assert parts.opened(whole, "index") == body
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptStreamError, match="index: its CRC32C"):
            parts.opened(bytes(damaged), "index")


def test_a_decoder_that_gives_other_items_is_found_out(model: PCCodec, blob: bytes) -> None:
    class Wrong(codec.ProgramCoder):
        def decode(self, payloads, rows, lanes):  # type: ignore[no-untyped-def]
            items = super().decode(payloads, rows, lanes)
            items[-1] = (items[-1] + 1) % 5
            return items

    with pytest.raises(CorruptStreamError, match="chunk 4: the decoded items do not match"):
        CodecReader(blob, Wrong(model.program))[800:]


# --- readers that are shared, copied, and given other things ---


def read_much(reader: CodecReader, x: np.ndarray, seed: int) -> bool:
    starts = np.random.default_rng(seed).integers(0, len(x) - 20, 60)
    return all(np.array_equal(reader[i : i + 20], x[i : i + 20]) for i in starts.tolist())


def test_threads_and_forked_processes_share_a_reader(model: PCCodec, tmp_path: Path) -> None:
    x = rows(4000)
    (tmp_path / "x.pkc").write_bytes(model.compress(x, chunk_items=20, embed=True))
    with codec.open(tmp_path / "x.pkc") as reader:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda seed: read_much(reader, x, seed), range(4)))
        with (tmp_path / "x.pkc").open("rb") as file, ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda seed: read_much(model.open(file), x, seed), range(2)))
        children = []
        for seed in range(2):
            if (child := os.fork()) == 0:
                os._exit(0 if read_much(reader, x, seed) else 1)
            children.append(child)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)


def test_reading_moves_no_position_that_others_share(model: PCCodec, tmp_path: Path) -> None:
    """A forked process has the same position of a file; threads of other files wait for one another."""

    class Slow(io.BytesIO):
        def seek(self, *where: int) -> int:
            at = super().seek(*where)
            time.sleep(0.001)
            return at

    x = rows(400)
    blob = model.compress(x, chunk_items=20)
    (tmp_path / "x.pkc").write_bytes(blob)
    with model.open(tmp_path / "x.pkc") as reader:
        file = reader._bytes._file
        before = file.seek(7)
        assert np.array_equal(reader[50:90], x[50:90]) and file.tell() == before
    slow = model.open(Slow(blob))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda seed: read_much(slow, x, seed), range(4)))


def test_readers_pickle(model: PCCodec, blob: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pkc"
    path.write_bytes(blob)
    for source in (path, blob):
        reader = codec.open(source)
        for again in (pickle.loads(pickle.dumps(reader)), copy.deepcopy(reader)):
            assert np.array_equal(again[100:300], rows(900)[100:300])
    pickled = pickle.dumps(codec.open(path))
    path.write_bytes(model.compress(rows(500), embed=True))
    with pytest.raises(CorruptStreamError, match="has changed"):
        pickle.loads(pickled)
    with pytest.raises(TypeError, match="'source': expected a path or bytes"):
        pickle.dumps(codec.open(io.BytesIO(blob)))


def test_what_is_no_file_is_named(model: PCCodec, blob: bytes) -> None:
    for source in (bytearray(blob), memoryview(blob), np.frombuffer(blob, np.uint8), io.BytesIO(blob)):
        assert np.array_equal(model.decompress(source), rows(900))
    for wrong in (rows(900), torch.tensor(list(blob[:9])), [1, 2], None, io.StringIO("x")):
        with pytest.raises(TypeError, match="CodecReader: argument 'source': expected a"):
            model.decompress(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="CodecReader: argument 'source': expected a"):
            codec.open(wrong)  # type: ignore[arg-type]


def test_what_is_no_place_is_named(model: PCCodec, blob: bytes) -> None:
    reader = model.open(blob)
    assert np.array_equal(reader[np.int64(3)], rows(900)[3])
    for key in ([1, 2], np.array([1, 2]), np.ones(900, bool), 1.0, None, (1, 2), ..., True):
        with pytest.raises(TypeError, match="CodecReader: argument 'key': expected a whole number or a slice"):
            reader[key]  # type: ignore[index]
    with pytest.raises(IndexError, match="900 items"):
        reader[900]


@pytest.mark.parametrize("version", parts.VERSIONS)
def test_recovery_does_not_mix_two_files(model: PCCodec, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of another file of this model follows: its chunks have the right numbers and, in version 1, the right
    CRCs."""
    if version == 1:  # which knows no file id, and no CRCs in the index
        real = parts.pack_end
        monkeypatch.setattr(parts.Header, "named", lambda self, *_: self)
        monkeypatch.setattr(parts, "pack_end", lambda items, sizes, crcs, file_id: real(items, sizes, [], file_id))
    one, other = (model.compress(rows(count, seed), chunk_items=50) for count, seed in ((400, 0), (900, 1)))
    at, cut = (model.open(data)._offsets.tolist() for data in (one, other))
    header = cut[0]
    for data, count in (
        (one[: at[3]] + other[:-3], 150),  # cut, and another after it
        (one[: at[3]] + other[header:-3], 150),  # whose header is lost
        (one[: at[3]] + other[:header] + b"\0" * 9 + other[cut[1] :][:-3], 150),  # whose first chunk is lost
        (one + other[len(one) + 7 :], 400),  # written over a longer one
    ):
        items, _ = model.open(data, recover=True).read(on_error="skip")
        assert np.array_equal(items, rows(400)[:count]), count


def noise(seed: int) -> np.ndarray:
    """(200, 6) uint8, which is stored as it is: chunks of one size."""
    return np.random.default_rng(seed).integers(0, 256, (200, 6), np.uint8)


def test_chunks_of_another_file_are_none_of_this_one(model: PCCodec) -> None:
    """Of equal shapes, sizes and numbers, where this file's own are lost, with and without its index."""
    x, y = noise(0), noise(1)
    one, other = (model.compress(data, chunk_items=50) for data in (x, y))
    at = model.open(one)._offsets.tolist()
    assert at == model.open(other)._offsets.tolist()
    mixed = one[: at[2]] + other[at[2] : at[3]] + one[at[3] :]
    for data in (mixed, mixed[:-3]):
        items, damage = model.open(data, recover=True).read(on_error="skip")
        assert np.array_equal(items, x[[*range(100), *range(150, 200)]])
        assert [chunk[0] for chunk in damage.chunks] == [2]
    resumed = one[: at[2]] + other[at[2] :]  # a download that went on after the file had changed
    with pytest.raises(CorruptStreamError, match="index: its CRC32C"):
        model.open(resumed)
    assert np.array_equal(model.open(resumed, recover=True)[:], x[:100])


def test_the_index_tells_files_apart_that_begin_alike(model: PCCodec) -> None:
    x, y = noise(0), noise(0)
    y[60, 1] ^= 1
    one, other = (model.compress(data, chunk_items=50) for data in (x, y))
    at = model.open(one)._offsets.tolist()
    assert model.open(one).header == model.open(other).header
    items, damage = model.open(one[: at[1]] + other[at[1] : at[2]] + one[at[2] :]).read(on_error="skip")
    assert np.array_equal(items, x[[*range(50), *range(100, 200)]])
    assert damage.chunks == [(1, 50, 100, "chunk 1: not the one that the index was written for")]


def test_recovery_forgets_an_index_that_does_not_fit(model: PCCodec) -> None:
    """The chunks of a long file before the index of a short one, as a resumed download leaves them."""
    x = rows(200)
    long, short = (model.compress(data, chunk_items=50) for data in (x, x[:100]))
    end_of = [int(r._offsets[-1] + r._sizes[-1]) for r in (model.open(long), model.open(short))]
    assert model.open(long).header.file_id == model.open(short).header.file_id
    items, damage = model.open(long[: end_of[0]] + short[end_of[1] :], recover=True).read(on_error="skip")
    assert np.array_equal(items, x) and not damage.chunks


def test_a_note_that_no_reader_takes_is_refused(model: PCCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MOST_NOTE", 1000)
    with pytest.raises(ValueError, match="argument 'note': expected at most 1000 bytes of JSON, got 20"):
        model.writer(io.BytesIO(), note={"a": "x" * 2000})


def test_notes_and_models_are_in_the_name_of_a_file(model: PCCodec) -> None:
    names = set()
    for note, embed in (({"a": 1}, False), ({"a": 2}, False), ({"a": 1}, True)):
        file = io.BytesIO()
        with model.writer(file, note=note, embed=embed) as writer:
            writer.append(rows(9))
        names.add(model.open(file).header.file_id)
    assert len(names) == 3
