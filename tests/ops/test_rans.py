"""Entropy coding of rows: the same streams from every backend, exact round trips, sizes, damage, bad arguments."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import CorruptStreamError, ops, use_backend
from torch import Tensor

# SHA-256 over the streams of rows(); see golden().
GOLDEN = "8fc3995df5022c1fa2db7fdd94548fda61a2c1b6cf3b2248ee03e881d98c8694"


def counts(*shape: int, k: int, precision: int) -> Tensor:
    """Cumulative counts (*shape, k + 1) by a rule of whole numbers."""
    places = torch.arange(int(np.prod(shape)) * k).reshape(*shape, k)
    widths = 1 + places * 7919 % 101
    widths = 1 + widths * ((1 << precision) - k) // widths.sum(-1, keepdim=True)
    widths[..., 0] += (1 << precision) - widths.sum(-1)
    return torch.nn.functional.pad(widths.cumsum(-1), (1, 0)).int()


def rows(b: int, n: int, k: int) -> Tensor:
    places = torch.arange(b * n).reshape(b, n)
    return (places * places % 10007 % k).int()


def cases(precision: int = 12) -> list[tuple[Tensor, Tensor, int]]:
    """One distribution, one a place, one a symbol; alphabets that are and are not powers of two; several states."""
    return [
        (rows(3, 40, 5), counts(k=5, precision=precision), precision),
        (rows(2, 600, 33), counts(600, k=33, precision=precision), precision),
        (rows(2, 50, 256), counts(2, 50, k=256, precision=precision), precision),
        (rows(2, 30, 1), counts(k=1, precision=precision), precision),
    ]


def streams(symbols: Tensor, cdf: Tensor, precision: int) -> list[bytes]:
    payload, sizes = ops.rans_encode(symbols, cdf, precision)
    found = payload.cpu().numpy()
    assert all(not row[size:].any() for row, size in zip(found, sizes.tolist(), strict=True))
    return [row[:size].tobytes() for row, size in zip(found, sizes.tolist(), strict=True)]


def decode(found: list[bytes], cdf: Tensor, n: int, precision: int) -> Tensor:
    joined = torch.tensor(list(b"".join(found)), dtype=torch.uint8, device=cdf.device)
    offsets = torch.tensor([0, *np.cumsum([len(f) for f in found])], device=cdf.device)
    return ops.rans_decode(joined, offsets, cdf, n, precision)


def test_golden_bytes_and_back(on: torch.device) -> None:
    digest = hashlib.sha256()
    for precision in (9, 16, 24):
        for symbols, cdf, bits in cases(precision):
            found = streams(symbols.to(on), cdf.to(on), bits)
            digest.update(b"|".join(found))
            assert torch.equal(decode(found, cdf.to(on), symbols.shape[1], bits).cpu(), symbols)
    assert digest.hexdigest() == GOLDEN


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3), st.integers(0, 300), st.integers(1, 40), st.integers(1, 24), st.integers(1, 3), st.randoms())
def test_any_symbols_come_back(b: int, n: int, k: int, precision: int, dims: int, chance) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    k = min(k, 1 << precision)
    pmf = torch.rand((*(b, n)[3 - dims :], k), generator=generator) ** 8 + 1e-12
    cdf = ops.quantize_cdf(pmf, precision)
    symbols = torch.randint(k, (b, n), generator=generator, dtype=torch.int32)
    found = streams(symbols, cdf, precision)
    assert torch.equal(decode(found, cdf, n, precision), symbols)
    with use_backend("reference"):
        assert streams(symbols, cdf, precision) == found


def test_sizes_are_those_of_the_probabilities() -> None:
    pmf = torch.rand(4, 4000, 50, generator=torch.Generator().manual_seed(0)) ** 6
    cdf = ops.quantize_cdf(pmf, 24)
    symbols = torch.multinomial(pmf.view(-1, 50), 1, generator=torch.Generator().manual_seed(1)).view(4, 4000).int()
    p = torch.gather(pmf / pmf.sum(-1, keepdim=True), 2, symbols.long().unsqueeze(-1)).double()
    for stream, ideal in zip(streams(symbols, cdf, 24), -p.log2().sum((1, 2)), strict=True):
        assert abs(8 * len(stream) - float(ideal) - 8 * 32) < 0.001 * float(ideal) + 8 * 16  # eight states of 32 bits


def test_dyadic_probabilities_cost_exactly_their_bits() -> None:
    cdf = torch.tensor([0, 8, 12, 14, 16], dtype=torch.int32)
    symbols = torch.tensor([0] * 4 + [1] * 2 + [2, 3], dtype=torch.int32).repeat(25)[None]
    (stream,) = streams(symbols, cdf, 4)
    assert len(stream) - 8 <= -(-25 * 14 // 32) * 4


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_and_batches_do_not_change_a_byte(threads: int) -> None:
    before, (symbols, cdf, bits) = torch.get_num_threads(), cases()[2]
    expected = streams(symbols, cdf, bits)
    try:
        torch.set_num_threads(threads)
        assert streams(symbols, cdf, bits) == expected
        assert streams(symbols[1:], cdf[1:], bits) == expected[1:]
        assert torch.equal(decode(expected, cdf, 50, bits), symbols)
    finally:
        torch.set_num_threads(before)


def test_non_contiguous_arguments() -> None:
    symbols, cdf, bits = cases()[1]
    expected = streams(symbols, cdf, bits)
    assert streams(symbols.T.contiguous().T, cdf.T.contiguous().T, bits) == expected


def test_damage_is_found_or_is_other_symbols(on: torch.device) -> None:
    symbols, cdf, bits = cases()[1]
    (stream, _), chance = streams(symbols, cdf, bits), np.random.default_rng(0)
    bad = [stream[:cut] for cut in range(0, len(stream), 37)] + [stream + b"\0", stream + bytes(4), bytes(len(stream))]
    bad += [chance.bytes(int(chance.integers(0, 900))) for _ in range(40)]
    for piece in bad:
        found = []
        for backend in ("reference", None):
            place = torch.device("cpu") if backend else on
            with use_backend(backend):
                try:
                    found.append(decode([piece], cdf.to(place), 600, bits).tolist())
                except CorruptStreamError as error:
                    found.append(str(error))
        assert found[0] == found[1] and isinstance(found[0], str)
    flipped = bytearray(stream)
    flipped[len(stream) // 2] ^= 16
    with pytest.raises(CorruptStreamError, match="row 1"):
        decode([stream, bytes(flipped)], cdf, 600, bits)


def test_counts_that_do_not_rise_are_refused(on: torch.device) -> None:
    symbols, cdf, bits = cases()[0]
    found = streams(symbols, cdf, bits)
    for place, value in ((2, 10**9), (2, -5), (2, 0)):
        wrong = cdf.clone()
        wrong[place] = value
        for each in (wrong, wrong.repeat(2, 1)):
            index = None if each.dim() == 1 else torch.ones(3, 40, dtype=torch.int64).to(on)
            for chosen in (rows(3, 40, 5), torch.zeros(3, 40, dtype=torch.int32)):  # also for symbols with good counts
                with pytest.raises(ValueError, match="'cdf': expected counts that rise, got "):
                    ops.rans_encode(chosen.to(on), each.to(on), bits, index=index)
        with pytest.raises(ValueError, match=r"'cdf': expected counts that rise, got .* at \[\d\]"):
            decode(found, wrong.to(on), 40, bits)
        coder = ops.RansCoder(3, bits, on)
        with pytest.raises(ValueError, match="'cdf': expected counts that rise"):
            coder.pop(wrong.to(on))
        with pytest.raises(ValueError, match="'cdf': expected counts that rise"):
            coder.push(rows(3, 1, 5)[:, 0].to(on), wrong.to(on))
        each = wrong.repeat(3, 40, 1).to(on)  # one for every symbol: only those of the given symbols are checked
        with pytest.raises(ValueError, match="symbols"):
            ops.rans_encode(rows(3, 40, 5).to(on), each, bits)
        with suppress(CorruptStreamError):  # never a crash; other symbols if these counts happen to allow the stream
            decode(found, each, 40, bits)
    for symbol in (-1, 5, 2**31 - 1):
        with pytest.raises(ValueError, match=rf"got {symbol} at \[1, 1\]"):
            ops.rans_encode(torch.tensor([[0, 1], [2, symbol]], dtype=torch.int32).to(on), cdf.to(on), bits)


@pytest.mark.parametrize("shape", [(), (40,), (3, 40)])
def test_counts_of_another_precision_are_refused(on: torch.device, shape: tuple[int, ...]) -> None:
    """They would be coded, and decoded, with the wrong number of bits."""
    symbols, cdf = rows(3, 40, 5).to(on), counts(*shape, k=5, precision=12).to(on)
    found = streams(symbols, cdf, 12)
    for precision, other in ((16, 65536), (8, 256)):
        wanted = rf"'cdf': expected counts that end at 2\*\*precision = {other}, got 4096"
        with pytest.raises(ValueError, match=wanted):
            ops.rans_encode(symbols, cdf, precision)
        with pytest.raises(ValueError, match=wanted):
            decode(found, cdf, 40, precision)


@pytest.mark.parametrize(("b", "n"), [(0, 0), (0, 1), (0, 600), (1, 0), (3, 0)])
@pytest.mark.parametrize("mode", ["one", "place", "symbol", "index", "pmf", "pmf of each"])
def test_no_rows_or_no_symbols(on: torch.device, b: int, n: int, mode: str) -> None:
    """The streams of empty rows are states that decoding looks at."""
    pmf = torch.ones(*{"place": (n,), "symbol": (b, n), "index": (2,), "pmf of each": (b, n)}.get(mode, ()), 3).to(on)
    cdf, symbols = ops.quantize_cdf(pmf, 4), torch.zeros(b, n, dtype=torch.int32, device=on)
    more = {"index": symbols} if mode == "index" else {}
    given, kind = (pmf, "_pmf") if mode.startswith("pmf") else (cdf, "")
    payload, sizes = getattr(ops, f"rans_encode{kind}")(symbols, given, 4, **more)
    assert sizes.tolist() == [8] * b and len(payload) == b
    back = getattr(ops, f"rans_decode{kind}")
    offsets = torch.arange(b + 1, device=on) * 8
    assert torch.equal(back(payload[:, :8].reshape(-1), offsets, given, n, 4, **more), symbols)
    if b:
        for wrong, why in ((torch.zeros_like(payload), "has a wrong state"), (payload[:, :7], "ends early")):
            with pytest.raises(CorruptStreamError, match=f"row 0 {why}"):
                back(wrong.reshape(-1), torch.arange(b + 1, device=on) * wrong.shape[1], given, n, 4, **more)


def test_quantized_probabilities() -> None:
    symbols = torch.zeros(1, 1, dtype=torch.int32)
    pmf = torch.tensor([[0.7, 0.2, 0.1, 0.0], [1e-30, 1e30, 3e29, 0.0]])
    cdf = ops.quantize_cdf(pmf, 16)
    assert cdf[:, 0].tolist() == [0, 0] and cdf[:, -1].tolist() == [65536] * 2 and bool((cdf.diff() > 0).all())
    assert torch.allclose(cdf.diff()[0] / 65536, pmf[0], atol=1e-4)
    assert ops.quantize_cdf(torch.ones(256), 8).tolist() == list(range(257))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert ops.quantize_cdf(torch.tensor([0.5, 0.5], dtype=dtype), 4).tolist() == [0, 8, 16]
    for bad in ([0.5, -0.1], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(ValueError, match="finite numbers"):
            ops.quantize_cdf(torch.tensor(bad))
    with pytest.raises(ValueError, match="finite numbers"):
        ops.quantize_cdf(torch.tensor([1e-300, 0.0], dtype=torch.float64))  # cannot be scaled
    assert ops.quantize_cdf(torch.tensor([-0.0, 1.0]), 4).tolist() == [0, 1, 16]
    with pytest.raises(ValueError, match="1 to 16 symbols"):
        ops.quantize_cdf(torch.ones(17), 4)
    with pytest.raises(ValueError, match="precision"):
        ops.quantize_cdf(torch.ones(2), 25)
    assert int(ops.quantize_cdf(torch.ones(1).expand(1 << 23), 24)[-1]) == 1 << 24
    many = torch.ones(1).expand((1 << 23) + 1)  # whose whole numbers have sums that the order of adding could change
    for call in (lambda: ops.quantize_cdf(many, 24), lambda: ops.rans_encode_pmf(symbols, many, 24)):
        with pytest.raises(ValueError, match="'pmf': expected 1 to 8388608 symbols, got 8388609"):
            call()
    with pytest.raises(TypeError, match="floating point"):
        ops.quantize_cdf(torch.ones(2, dtype=torch.int64))


def test_bad_arguments() -> None:
    symbols, cdf, bits = cases()[0]
    with pytest.raises(TypeError, match="'symbols': expected an int32 tensor"):
        ops.rans_encode(symbols.long(), cdf, bits)
    with pytest.raises(TypeError, match="'cdf': expected an int32 tensor"):
        ops.rans_encode(symbols, cdf.float(), bits)
    for wrong in (cdf[:1], cdf.repeat(39, 1), cdf.repeat(2, 40, 1), cdf.repeat(1, 3, 40, 1)):
        with pytest.raises(ValueError, match="'cdf': expected shape"):
            ops.rans_encode(symbols, wrong, bits)
    for precision in (0, 25):
        with pytest.raises(ValueError, match="precision"):
            ops.rans_encode(symbols, cdf, precision)
    data = torch.zeros(20, dtype=torch.uint8)
    for offsets in ([0, 21], [3, 1], [-1, 4]):
        with pytest.raises(ValueError, match="rising numbers"):
            ops.rans_decode(data, torch.tensor(offsets), cdf, 40, bits)
    with pytest.raises(ValueError, match="'n'"):
        ops.rans_decode(data, torch.tensor([0, 20]), cdf, -1, bits)
    with pytest.raises(TypeError, match="'offsets'"):
        ops.rans_decode(data, torch.tensor([0.0, 20.0]), cdf, 40, bits)
