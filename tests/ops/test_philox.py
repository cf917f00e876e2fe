"""Random numbers by counter: known answers, bits on every backend, moments, and what they may not depend on."""

from __future__ import annotations

import math
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops import philox_normal, philox_uniform
from probkernels.reference import philox as reference
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# rows of one element and of a part of a counter, more than a block of elements, rows that blocks cut, more than a task
SHAPES = [(1, 1), (3, 7), (5, 1), (300, 3), (2, 1000), (7, 257), (3, 5, 41), (2, 20_000)]
DRAWS = {"normal": philox_normal, "uniform": philox_uniform}

# Random123's known answers (kat_vectors, philox4x32 10): counter, key, words
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_the_reference_gives_the_known_words(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    found = reference.philox_words(tuple(map(torch.tensor, counter)), (torch.tensor(key[0]), torch.tensor(key[1])))
    assert tuple(int(word) for word in found) == words


def test_every_backend_gives_the_known_words(on: torch.device) -> None:
    """float64 keeps all 32 bits. A seed's tensor is row 0; pi's digits need a key and a step above 2^63, as int64."""
    for counter, key, words in VECTORS:
        signed = torch.tensor([key[0] + (key[1] << 32)], dtype=torch.uint64).view(torch.int64).to(on)
        first = 4 * counter[0]
        if counter[1] or first or counter[3] >> 31:
            continue
        step = counter[2] + (counter[3] << 32)
        u = philox_uniform(signed, (1, 4), step=step, dtype=torch.float64, device=on)
        assert (u * 2**32).long().flatten().tolist() == list(words)
    # row 1234567 and step 2^62 + 5 under a seed of 63 bits, against the reference, which has the known words
    u = philox_uniform(2**62 + 9, (1, 8), step=2**62 + 5, first_row=1234567, dtype=torch.float64, device=on)
    parts = [torch.arange(2), torch.tensor(1234567), torch.tensor(5), torch.tensor(1 << 30)]
    expected = reference.philox_words(tuple(parts), (torch.tensor(9), torch.tensor(1 << 30)))
    assert torch.equal((u.cpu() * 2**32).long().view(2, 4), torch.stack([w.expand(2) for w in expected], 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_every_backend_gives_the_same_bits(on: torch.device, draw: Any, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for seeds in (2**62 + 11, torch.arange(shape[0]) * 2**41 - 5):
            there = seeds.to(on) if isinstance(seeds, Tensor) else seeds
            got = draw(there, shape, step=2**33 + 1, dtype=dtype, device=on)
            with pk.use_backend("reference"):
                expected = draw(seeds, shape, step=2**33 + 1, dtype=dtype)
            assert got.dtype is dtype
            assert torch.equal(got.cpu(), expected)


def test_normal_numbers_of_known_words(on: torch.device) -> None:
    """Against the math library: seed, step, row and index 0."""
    words = VECTORS[0][2]
    for dtype, error in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        z = philox_normal(0, (1, 4), dtype=dtype, device=on).flatten().tolist()
        for pair in (0, 2):
            u, turns = (words[pair] // 2 + 0.5) / 2**31, words[pair + 1] / 2**32
            radius = math.sqrt(-2 * math.log(u))
            assert z[pair] == pytest.approx(radius * math.cos(2 * math.pi * turns), abs=error)
            assert z[pair + 1] == pytest.approx(radius * math.sin(2 * math.pi * turns), abs=error)


def test_the_extreme_words() -> None:
    ends = torch.tensor([0, 1, 2**31 - 1, 2**31, 3037000499, 3037000500, 2**32 - 2, 2**32 - 1])
    words = torch.cartesian_prod(ends, ends).repeat(1, 2)
    u, turns = ((words[:, 0] >> 1).double() + 0.5) / 2**31, words[:, 1].double() / 2**32
    log = torch.where(u > 0.5, torch.log1p(-(((words[:, 0] ^ (2**32 - 1)) >> 1).double() + 0.5) / 2**31), u.log())
    expected = (-2 * log).sqrt() * (2 * math.pi * turns).cos()
    assert (reference.normals(words, torch.float64)[:, 0] - expected).abs().max() < 1e-14
    assert (reference.normals(words, torch.float32)[:, 0] - expected).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fused_rounds_once(dtype: torch.dtype) -> None:
    """1 + 2^-p squared minus its rounded square: zero without a fused multiply-add."""
    p = 12 if dtype is torch.float32 else 27
    a = torch.tensor(1 + 2.0**-p, dtype=dtype)
    assert (a * a - a * a).item() == 0
    assert reference.fused(a, a, -(a * a)).item() == 2.0 ** (-2 * p)
    one, half = torch.ones((), dtype=dtype), torch.tensor(torch.finfo(dtype).eps / 2, dtype=dtype)
    assert reference.fused(half, one, one).item() == 1  # a tie, to even
    assert reference.fused(half, one + 2 * half, one).item() == 1 + 2 * half.item()  # just above
    assert reference.fused(half, one + 2 * half, one + 2 * half).item() == 1 + 4 * half.item()
    assert reference.fused(half, one - half, one + 2 * half).item() == 1 + 2 * half.item()  # just below


def test_root_is_correctly_rounded() -> None:
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 44
    assert reference.root(x).tolist() == [math.sqrt(v) for v in x.tolist()]


def test_normal_numbers_are_normal(on: torch.device) -> None:
    z = philox_normal(1, (4, 50_000), step=2, device=on).cpu().double().flatten()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(z.pow(power).mean()) - expected) < 5 * math.sqrt(variance / len(z)), power
    ranks = torch.special.ndtr(z.sort().values)
    even = (torch.arange(len(z), dtype=torch.float64) + 0.5) / len(z)
    assert float((ranks - even).abs().max()) < 1.95 / math.sqrt(len(z))  # Kolmogorov and Smirnov, level 0.001


def test_uniform_numbers_are_uniform(on: torch.device) -> None:
    for dtype in DTYPES:
        u = philox_uniform(3, (4, 50_000), dtype=dtype, device=on).cpu()
        assert float(u.min()) >= 0
        assert float(u.max()) < 1
        ranks = u.double().flatten().sort().values
        even = (torch.arange(len(ranks), dtype=torch.float64) + 0.5) / len(ranks)
        coarse = 2.0 ** -reference.UNIFORM_BITS[dtype]
        assert float((ranks - even).abs().max()) < 1.95 / math.sqrt(len(ranks)) + coarse


def test_nothing_is_correlated() -> None:
    """Not neighbors, nor rows, steps, or seeds; and every element has its own draw."""
    draws = [philox_normal(*key, step=step).flatten() for key, step in (((0, (2, 20_000)), 0), ((1, (2, 20_000)), 0),
             ((2**32, (2, 20_000)), 0), ((0, (2, 20_000)), 1), ((0, (2, 20_000)), 2**32))]  # fmt: skip
    rows = [row for draw in draws for row in draw.view(2, -1)]
    limit = 5 / math.sqrt(20_000)
    for i, first in enumerate(rows):
        assert len(first.unique()) > 19_900
        assert all(abs(float((first[lag:] * first[:-lag]).mean())) < limit for lag in (1, 2, 3, 4))
        assert all(abs(float((first * second).mean())) < limit for second in rows[:i])


@pytest.mark.parametrize("n", [1, 6, 400])
def test_a_row_depends_on_nothing_but_itself(on: torch.device, n: int) -> None:
    """Not on the rows beside it, their number or order, nor on how many elements follow."""
    whole = philox_normal(9, (12, n), step=1, device=on)
    parts = [philox_normal(9, (k, n), step=1, first_row=first, device=on) for first, k in ((0, 1), (1, 4), (5, 7))]
    assert torch.equal(torch.cat(parts), whole)
    longer = philox_normal(9, (12, 2 * n + 3), step=1, device=on)
    assert torch.equal(longer[:, :n], whole)
    seeds = torch.tensor([3, 1, 4, 1, 5], device=on)
    own = philox_normal(seeds, (5, n), device=on)
    assert torch.equal(philox_normal(seeds.flip(0), (5, n), device=on), own.flip(0))
    assert torch.equal(own[1], own[3])
    assert torch.equal(philox_normal(4, (1, n), device=on)[0], own[2])  # a single seed's first row


def test_threads_do_not_change_a_bit() -> None:
    before, shapes = torch.get_num_threads(), [(3, 20_001), (20_001, 3)]
    expected = [philox_normal(5, shape) for shape in shapes]
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(philox_normal(5, s), e) for s, e in zip(shapes, expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_nothing_to_draw(on: torch.device) -> None:
    for shape in ((0, 3), (3, 0)):
        assert philox_normal(1, shape, device=on).shape == shape
    assert philox_uniform(torch.zeros(0, dtype=torch.int64, device=on), (0, 4)).shape == (0, 4)


SEEDS = torch.arange(3)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"seeds": 1.0}, TypeError, "argument 'seeds': expected an int or an int64 tensor, a seed for each row, got float"),
    ({"seeds": True}, TypeError, "argument 'seeds': expected an int or"),
    ({"seeds": SEEDS.int()}, TypeError, "argument 'seeds': expected an int or an int64 tensor"),
    ({"seeds": SEEDS[:2]}, ValueError, "argument 'seeds': expected shape \\(3,\\) \\(a seed for each row\\)"),
    ({"seeds": -1}, ValueError, "argument 'seeds': expected 0 to 9223372036854775807, got -1"),
    ({"seeds": SEEDS, "first_row": 2}, ValueError, "argument 'first_row': expected 0 beside a tensor of seeds"),
    ({"seeds": SEEDS, "device": "meta"}, ValueError, "argument 'seeds': expected the device of 'device'"),
    ({"step": 2**63}, ValueError, "argument 'step': expected 0 to"),
    ({"step": None}, TypeError, "argument 'step': expected a whole number"),
    ({"first_row": 2**32 - 1}, ValueError, "argument 'first_row': expected rows below 4294967296"),
    ({"shape": ()}, ValueError, "argument 'shape': expected \\(rows, ...\\)"),
    ({"shape": 5}, TypeError, "argument 'shape': expected \\(rows, ...\\), whole numbers, got int"),
    ({"shape": (2.5, 3)}, TypeError, "argument 'shape': expected \\(rows, ...\\), whole numbers, got tuple"),
    ({"shape": (3, -1)}, ValueError, "argument 'shape': expected \\(rows, ...\\)"),
    ({"shape": (1, 2**34 + 1)}, ValueError, "argument 'shape': expected at most 17179869184 elements a row"),
    ({"dtype": torch.int32}, TypeError, "argument 'dtype': expected float32, float64, float16 or bfloat16"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    for draw in DRAWS.values():
        with pytest.raises(error, match=text):
            draw(**{"seeds": 1, "shape": (3, 4), **change})
