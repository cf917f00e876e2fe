"""Containers: round trips, random access, damage, and writers that die."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels import CorruptStreamError, ModelMismatchError, codec
from probkernels.circuits import factorized
from probkernels.codec import CodecReader, Layout, PCCodec
from probkernels.codec import format as parts
from probkernels.codec._checksums import crc32c

from tests.codec.models import alike_rows as rows


def bytewise(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_crc32c_has_its_check_value_and_equals_the_definition() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    data = np.random.default_rng(0).bytes(9000)
    for size in (*range(20), 1023, 1024, *range(1080, 1100), 4095, 4096, 4097, 8999, 9000):
        assert crc32c(data[:size]) == bytewise(data[:size])


@pytest.mark.parametrize("n", [0, 1, 199, 200, 201, 4000])
@pytest.mark.parametrize("lanes", [1, 16])
def test_round_trip(model: PCCodec, n: int, lanes: int) -> None:
    data = model.compress(rows(n), chunk_items=200, lanes=lanes)
    back = model.decompress(data)
    assert back.dtype == np.uint8
    assert np.array_equal(back, rows(n))


def test_every_slice_is_that_of_the_array(model: PCCodec, blob: bytes) -> None:
    x, reader = rows(900), codec.open(blob)
    assert len(reader) == 900
    assert {reader._payload(number)[0].kind for number in range(5)} == {parts.CODED}
    for low in range(0, 901, 100):
        for high in range(0, 901, 90):
            assert np.array_equal(reader[low:high], x[low:high])
    assert np.array_equal(reader[800:3:-7], x[800:3:-7])
    assert np.array_equal(reader[-1], x[-1])
    with pytest.raises(IndexError):
        reader[900]
    assert np.array_equal(np.concatenate(list(reader.chunks())), x)


def test_a_slice_decodes_only_its_chunks(model: PCCodec, blob: bytes) -> None:
    class Counting(codec.ProgramCoder):
        seen: list[int]

        def decode(self, payloads, rows, lanes):  # type: ignore[no-untyped-def]
            self.seen = list(rows)
            return super().decode(payloads, rows, lanes)

    coder = Counting(model.program)
    assert np.array_equal(CodecReader(blob, coder)[350:450], rows(900)[350:450])
    assert coder.seen == [200, 200]


def test_appending_in_pieces_gives_the_same_bytes(model: PCCodec, tmp_path: Path) -> None:
    x, path = rows(700), tmp_path / "x.pkc"
    with model.writer(path, chunk_items=20) as writer:
        for low in range(0, 700, 37):
            writer.append(x[low : low + 37])
    assert path.read_bytes() == model.compress(x, chunk_items=20)
    assert np.array_equal(model.open(path)[:], x)
    assert os.listdir(tmp_path) == ["x.pkc"]


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "uint32", "int32", "int64"])
def test_values_without_a_code_are_stored_without_the_model(dtype: str) -> None:
    x = rows(60).astype(np.int64) - 2
    codec_ = PCCodec(factorized(torch.from_numpy(rows(400)).long(), categories=5), offset=-2)
    if np.dtype(dtype).kind == "u":
        x = x + 2
    x = x.astype(dtype)
    x[25, 3], x[59, 0] = np.iinfo(dtype).max, np.iinfo(dtype).min
    data = codec_.compress(x, chunk_items=20)
    back = codec_.decompress(data)
    assert back.dtype == np.dtype(dtype)
    assert np.array_equal(back, x)


def test_headers_of_a_small_file_take_less_than_90_bytes(model: PCCodec) -> None:
    data = model.compress(rows(900))
    payload = model.open(data)._payload(0)[1]
    assert len(data) - len(payload) < 90


def test_noise_is_stored_as_it_is() -> None:
    x = np.random.default_rng(0).integers(0, 256, (4096, 6)).astype(np.uint8)
    data = PCCodec(factorized(torch.zeros(100, 6, dtype=torch.int64), categories=256)).compress(x, chunk_items=1024)
    assert len(data) <= x.size + 200 + parts.overhead(4)


@pytest.mark.parametrize("count", [200, 2000])
def test_what_deflate_makes_smaller_is_stored_without_the_model(count: int) -> None:
    """Blank images and rotated ones are within every alphabet, but a model of others makes them long."""
    noise = np.random.default_rng(0).integers(0, 12, (count, 16, 16))
    photos = (np.linspace(0, 200, 16)[None, :, None] + noise).astype(np.uint8)
    model = PCCodec(factorized(torch.from_numpy(photos.reshape(count, -1)).long(), categories=256), tile=(16, 16))
    repeated = np.repeat(photos[:1], count, 0)  # which the model makes smaller, and DEFLATE very small
    for items in (np.full_like(photos, 255), photos * 0 + 7, np.rot90(photos, axes=(1, 2)).copy() // 16, repeated):
        blob = model.compress(items)
        assert len(blob) <= len(zlib.compress(items.tobytes(), 9)) + 100
        assert np.array_equal(model.decompress(blob), items)
    assert len(model.compress(photos)) < len(zlib.compress(photos.tobytes(), 9))
    assert {model.open(model.compress(photos))._payload(0)[0].kind} == {parts.CODED}


@pytest.mark.parametrize("shape", [(7, 5), (8, 8, 3), (3, 2)])
def test_tiles(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).integers(0, 5, (11, *shape)).astype(np.uint8)
    variables = 12 * (shape[2] if len(shape) == 3 else 1)
    circuit = factorized(torch.randint(0, 5, (50, variables)), categories=5)
    model = PCCodec(circuit, tile=(3, 4))
    assert np.array_equal(model.decompress(model.compress(x, chunk_items=4)), x)


def test_arguments_are_checked(model: PCCodec) -> None:
    with pytest.raises(TypeError, match="integers"):
        model.compress(rows(3).astype(np.float32))
    with pytest.raises(ValueError, match="6 variables"):
        model.compress(np.zeros((3, 7), np.uint8))
    with pytest.raises(ValueError, match="tile"):
        Layout((5,), tile=(1, 1))
    with pytest.raises(ValueError, match="lanes"):
        model.compress(rows(3), lanes=0)
    writer = model.writer(io.BytesIO())
    with pytest.raises(TypeError, match="uint8"):
        writer.append(np.zeros((3, 6), np.int64))


def test_another_model_is_refused(model: PCCodec, blob: bytes) -> None:
    other = PCCodec(factorized(torch.from_numpy(rows(400)).long(), categories=5))
    with pytest.raises(ModelMismatchError, match="was written with model"):
        other.decompress(blob)
    with pytest.raises(ModelMismatchError, match="which it has not"):
        codec.open(model.compress(rows(3)))


def test_model_files(model: PCCodec, tmp_path: Path) -> None:
    model.save(tmp_path / "m.pcm")
    again = PCCodec.load(tmp_path / "m.pcm")
    assert again.model_id == model.model_id
    assert again.compress(rows(50)) == model.compress(rows(50))
    with pytest.raises(CorruptStreamError, match="max_bytes"):
        PCCodec.load(tmp_path / "m.pcm", max_bytes=100)


def test_limits_come_before_memory(model: PCCodec, blob: bytes) -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        model.decompress(blob, max_bytes=500)
    reader = model.open(blob, max_bytes=1300)
    with pytest.raises(CorruptStreamError, match=r"chunk 0.*max_bytes"):
        reader[:200]


# --- damage ---


def places(blob: bytes) -> list[int]:
    """Offsets of the chunks' heads."""
    return codec.open(blob)._offsets.tolist()


def test_damaged_chunks_are_named_and_skipped(blob: bytes) -> None:
    damaged, x = bytearray(blob), rows(900)
    damaged[places(blob)[2] + 30] ^= 4
    damaged[places(blob)[3] + 9] ^= 1
    reader = codec.open(bytes(damaged))
    assert np.array_equal(reader[:400], x[:400])
    with pytest.raises(CorruptStreamError, match="chunk 2"):
        reader[:]
    items, damage = reader.read(on_error="skip")
    assert [chunk[:3] for chunk in damage.chunks] == [(2, 400, 600), (3, 600, 800)]
    assert np.array_equal(items, x[damage.kept])
    assert len(items) == 500


def resealed(blob: bytes, number: int, flip: int) -> bytes:
    """Damage to a payload with a CRC that agrees with it: only the coder and the digest can notice."""
    at, size = places(blob)[number], int(codec.open(blob)._sizes[number])
    head = parts.Head.unpack(blob[at : at + size], 6, "")
    payload = bytearray(blob[at + head.length : at + size])
    payload[flip // 8 % len(payload)] ^= 1 << flip % 8
    sealed = blob[at : at + head.length - len(head.crc)] + bytes(payload)
    file_id = parts.Header.unpack(blob[: parts.Header.size(blob)]).file_id
    crc = crc32c(file_id + sealed).to_bytes(4, "little")[: len(head.crc)]
    reader = codec.open(blob)
    end = int(reader._offsets[-1] + reader._sizes[-1])
    chunks = blob[:at] + sealed[: -len(payload)] + crc + bytes(payload) + blob[at + size : end]
    return chunks + reindexed(blob, {number: int.from_bytes(crc, "little")})


def reindexed(blob: bytes, changed: dict[int, int]) -> bytes:
    """The file's index and trailer, with other CRCs for some chunks."""
    reader = codec.open(blob)
    assert reader._crcs is not None
    crcs = [changed.get(number, crc) for number, crc in enumerate([0, *reader._crcs.tolist()])]
    return parts.pack_end(len(reader), reader._sizes.tolist(), crcs, reader.header.file_id)


def test_damage_that_the_crc_agrees_with_is_found(blob: bytes) -> None:
    for flip in range(0, 400, 7):
        items, damage = codec.open(resealed(blob, 1, flip)).read(on_error="skip")
        assert [chunk[0] for chunk in damage.chunks] == [1]
        assert np.array_equal(items, rows(900)[damage.kept])


@pytest.mark.parametrize("kind", [parts.RAW, parts.DEFLATE])
def test_a_deflate_bomb_and_a_wrong_size_are_refused(model: PCCodec, kind: int) -> None:
    payload = zlib.compress(bytes(10**6)) if kind == parts.DEFLATE else bytes(121)
    file = io.BytesIO()
    writer = model.writer(file, chunk_items=20)
    writer._begin(bytes(120))
    head = parts.Head.pack(kind, 0, bytes(120), 20, payload, writer._header.file_id)
    crc = parts.Head.unpack(head, 6, "").check
    writer._sizes, writer._crcs, writer.items = [len(head) + len(payload)], [crc], 20
    writer._write(head + payload)
    writer.close()
    with pytest.raises(CorruptStreamError, match="chunk 0: expected 120 bytes"):
        model.decompress(file.getvalue())


@pytest.mark.parametrize("keep", [1, 3, 4])
def test_chunks_of_a_cut_file_are_found(model: PCCodec, blob: bytes, keep: int) -> None:
    cut = blob[: places(blob)[keep] - (keep == 3)]  # one byte too few for the chunk before
    with pytest.raises(CorruptStreamError, match="trailer"):
        codec.open(cut)
    reader = codec.open(cut, recover=True)
    whole = keep - (keep == 3)
    assert reader.recovered and not codec.open(blob, recover=True).recovered
    assert np.array_equal(reader[:], rows(900)[: 200 * whole])


def test_chunks_around_a_hole_are_found(model: PCCodec, blob: bytes) -> None:
    at = places(blob)
    holed = blob[: at[1] + 9] + parts.CHUNK + blob[at[2] + 7 : -3]
    reader = model.open(holed, recover=True)
    items, damage = reader.read(on_error="skip")
    assert [chunk[:3] for chunk in damage.chunks] == [(1, 200, 400), (2, 400, 600)]
    assert np.array_equal(items, rows(900)[damage.kept]) and len(items) == 500
    with pytest.raises(CorruptStreamError, match="chunk 1: not found"):
        reader[:300]
    assert np.array_equal(reader[600:], rows(900)[600:])


def test_false_marks_do_not_keep_a_reader_busy(model: PCCodec) -> None:
    start = model.compress(rows(0), chunk_items=2**31)[: -parts.TRAILER_BYTES - 1]
    head = parts.CHUNK + bytes([parts.RAW]) + parts.number(0) + parts.number(2**18) + parts.number(2**20)
    reader = model.open(start + (head + bytes(12)) * 2**16, recover=True)
    assert len(reader) == 0 and reader.recovered


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Bits flipped, bytes replaced, pieces cut, doubled or moved."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at, size = chance.randrange(max(1, len(out))), chance.randrange(1, 40)
        what = chance.randrange(6)
        if what == 0 and out:
            out[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            out[at : at + size] = chance.randbytes(len(out[at : at + size]))
        elif what == 2:
            del out[at : at + size]
        elif what == 3:
            out[at:at] = out[at : at + size]
        elif what == 4:
            out = out[: max(1, at)]
        else:
            out[at : at + 4] = b"\xff\xff\xff\xff"[: len(out[at : at + 4])]
    return bytes(out)


def reseal_start(data: bytes, size: int) -> bytes:
    """The header's CRC made right again, so that what lies behind it is reached."""
    return parts.sealed(data[: size - 4]) + data[size:] if len(data) > size else data


def fuzz(model: PCCodec, blob: bytes, x: np.ndarray, count: int) -> int:
    """Damaged files give the right items or a typed error; the number of those in which some items were read."""
    chance, read, size = random.Random(0), 0, parts.Header.size(blob)
    for turn in range(count):
        damaged = mutate(blob, chance)
        if turn % 3 == 0:
            damaged = reseal_start(damaged, size)
        try:
            open_ = codec.open if turn % 5 == 0 else model.open
            reader = open_(damaged, max_bytes=2**24, recover=turn % 2 == 0)
            items, damage = reader.read(on_error="skip")
        except (CorruptStreamError, ModelMismatchError):
            continue
        except ValueError as error:
            assert "max_bytes" in str(error)
            continue
        read += 1
        if reader.layout == Layout((6,)) and reader.header.chunk_items == 200:
            assert np.array_equal(items, x[damage.kept])
        else:  # a forged header: the digests were made of other bytes or of the same ones
            assert items.tobytes() in x.tobytes() or len(damage.chunks)
    return read


def in_one_lane(model: PCCodec) -> bytes:
    return model.compress(rows(900), chunk_items=200, lanes=1)


def test_fuzz(model: PCCodec, blob: bytes) -> None:
    assert fuzz(model, blob, rows(900), 2000) > 100
    assert fuzz(model, in_one_lane(model), rows(900), 1000) > 50


@pytest.mark.slow
def test_fuzz_long(model: PCCodec, blob: bytes) -> None:
    assert fuzz(model, blob, rows(900), 200_000) > 10_000
    assert fuzz(model, in_one_lane(model), rows(900), 100_000) > 5_000


def test_fuzzed_model_files_with_right_checksums(model: PCCodec) -> None:
    body, chance = model.to_bytes()[:-4], random.Random(1)
    for _ in range(500):
        try:
            PCCodec.from_bytes(parts.sealed(mutate(body, chance)), max_bytes=2**24)
        except CorruptStreamError:
            continue


KILLED = """
import sys, numpy as np
from probkernels.codec import PCCodec
codec = PCCodec.load(sys.argv[1])
writers = [codec.writer(path, chunk_items=20) for path in sys.argv[2:]]
while True:
    for writer in writers:
        writer.append(np.zeros((400, 6), np.uint8))
    print(writer.bytes, flush=True)
"""


def test_a_killed_writer_leaves_the_old_file_or_none(model: PCCodec, tmp_path: Path) -> None:
    model.save(tmp_path / "m.pcm")
    old, fresh = tmp_path / "old.pkc", tmp_path / "fresh.pkc"
    old.write_bytes(b"what was there")
    command = [sys.executable, "-c", KILLED, *map(str, (tmp_path / "m.pcm", old, fresh))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 200
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert old.read_bytes() == b"what was there"
    assert not fresh.exists()


def test_an_error_while_writing_leaves_nothing(model: PCCodec, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), model.writer(tmp_path / "x.pkc") as writer:
        writer.append(rows(50))
        raise RuntimeError
    assert os.listdir(tmp_path) == []
