"""Adaptive coding of bytes: the same streams from every backend, exact round trips, sizes, damage, bad arguments."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import ops, use_backend
from probkernels.reference import adaptive_code as reference
from torch import Tensor

# SHA-256 over the streams of text() for orders 0 to 3; see golden().
GOLDEN = "e2909726746dd63f87fa7a73756662f13e185d08efe46604e18a9b7d7b5a4aa9"


def text(n: int) -> Tensor:
    """Words of a small language, by a rule of whole numbers."""
    words = [b"lorem ", b"ipsum ", b"dolor ", b"sit ", b"amet, ", b"\xff\x00"]
    found, state = b"", 1
    while len(found) < n:
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        found += words[(state >> 16) % 6]
    return torch.tensor(list(found[:n]), dtype=torch.uint8)


def streams(data: Tensor, each: int, order: int) -> list[bytes]:
    payload, sizes = ops.adaptive_encode(data, each, order)
    rows = payload.cpu().numpy()
    assert all(not row[size:].any() for row, size in zip(rows, sizes.tolist(), strict=True))
    return [row[:size].tobytes() for row, size in zip(rows, sizes.tolist(), strict=True)]


def decode(found: list[bytes], lengths: list[int], order: int, on: str = "cpu") -> tuple[Tensor, list[int]]:
    joined = torch.tensor(list(b"".join(found)), dtype=torch.uint8, device=on)
    offsets = torch.tensor([0, *np.cumsum([len(f) for f in found])], device=on)
    starts = torch.tensor([0, *np.cumsum(lengths)], device=on)
    data, damage = ops.adaptive_decode(joined, offsets, starts, order, sum(lengths))
    return data.cpu(), damage.tolist()


def test_golden_bytes_and_back(on: torch.device) -> None:
    digest = hashlib.sha256()
    for order in (0, 1, 2, 3):
        found = streams(text(400).to(on), 150, order)
        digest.update(b"|".join(found))
        data, damage = decode(found, [150, 150, 100], order, str(on))
        assert torch.equal(data, text(400)) and damage == [0, 0, 0]
    assert digest.hexdigest() == GOLDEN


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 70), st.integers(0, 7))
def test_any_bytes_come_back(data: bytes, each: int, order: int) -> None:
    tensor = torch.tensor(list(data), dtype=torch.uint8)
    found = streams(tensor, each, order)
    assert len(found) == -(-len(data) // each)
    lengths = [len(data[i : i + each]) for i in range(0, len(data), each)]
    back, damage = decode(found, lengths, order)
    assert torch.equal(back, tensor) and not any(damage)
    assert found == [reference.encode(data[i : i + each], order) for i in range(0, len(data), each)]


def test_sizes_come_near_the_entropies_of_their_order() -> None:
    data = text(60_000).tolist()
    counts, pairs = Counter(data), Counter(itertools.pairwise(data))
    order_0 = -sum(n * math.log2(n / len(data)) for n in counts.values()) / 8
    order_1 = -sum(n * math.log2(n / counts[a]) for (a, _), n in pairs.items()) / 8
    sizes = [len(streams(text(60_000), 60_000, order)[0]) for order in range(5)]
    assert sizes[0] == pytest.approx(order_0, rel=0.02) and sizes[1] == pytest.approx(order_1, rel=0.04)
    assert sizes[0] > sizes[1] > sizes[2]


def test_constants_cost_little_and_noise_little_more_than_itself() -> None:
    (found,) = streams(torch.zeros(100_000, dtype=torch.uint8), 100_000, 0)
    assert len(found) < 100_000 * 8 * 0.0015
    noise = torch.tensor(np.random.default_rng(0).integers(0, 256, 50_000), dtype=torch.uint8)
    assert 50_000 < len(streams(noise, 50_000, 0)[0]) < 51_000


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_byte(threads: int) -> None:
    before, expected = torch.get_num_threads(), streams(text(5000), 300, 2)
    try:
        torch.set_num_threads(threads)
        assert streams(text(5000), 300, 2) == expected
        assert torch.equal(decode(expected, [300] * 16 + [200], 2)[0], text(5000))
    finally:
        torch.set_num_threads(before)


def test_only_what_the_encoder_makes_is_accepted(on: torch.device) -> None:
    (stream,) = streams(text(80), 80, 1)
    bad = [stream[:cut] for cut in range(0, len(stream) - 1, 5)]
    bad += [stream + b"\0", stream + b"\1\2", b"\xff" * 40, *[bytes([chance]) * 30 for chance in range(1, 200, 40)]]
    data, damage = decode(bad, [80] * len(bad), 1, str(on))
    for place, (claimed, part) in enumerate(zip(damage, data.split(80), strict=True)):
        assert claimed or streams(part, 80, 1) == [bad[place]]
    with use_backend("reference"):
        assert decode(bad, [80] * len(bad), 1)[1] == damage


def test_no_bytes() -> None:
    assert streams(torch.zeros(0, dtype=torch.uint8), 5, 1) == []
    assert decode([], [], 1)[1] == []
    data, damage = decode([b""], [1], 1)  # the lowest of all numbers: a byte of ones
    assert data.tolist() == [255] and damage == [0] and streams(data, 1, 1) == [b""]


def test_bad_arguments() -> None:
    data = text(10)
    with pytest.raises(TypeError, match="'data': expected a uint8 tensor"):
        ops.adaptive_encode(data.int(), 5, 1)
    with pytest.raises(ValueError, match="shape \\(N,\\)"):
        ops.adaptive_encode(data[None], 5, 1)
    for each, order, name in ((0, 1, "each"), (5, 8, "order"), (5, -1, "order")):
        with pytest.raises(ValueError, match=f"'{name}'"):
            ops.adaptive_encode(data, each, order)
    for each, order in ((1.0, 1), (5, True)):
        with pytest.raises(TypeError):
            ops.adaptive_encode(data, each, order)  # type: ignore[arg-type]
    wrong = ([0, 11], [0, 3]), ([0, 9], [0, 4]), ([-1, 9], [0, 3]), ([5, 2], [0, 3]), ([0, 9], [3, 3])
    for offsets, starts in (*wrong, ([0, 9], [1, 3]), ([0, 9], [0, 2])):  # the last two leave items out
        with pytest.raises(ValueError, match="rising numbers"):
            ops.adaptive_decode(data, torch.tensor(offsets), torch.tensor(starts), 1, 3)
    with pytest.raises(TypeError, match="'starts'"):
        ops.adaptive_decode(data, torch.tensor([0, 3]), torch.tensor([0, 3]).int(), 1, 3)
