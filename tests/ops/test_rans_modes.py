"""Entropy coding with a table of distributions, from probabilities, and with stacks: the bytes of the plain calls,
exact inverses, bad arguments."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import CorruptStreamError, ops, use_backend
from probkernels._core.formats.streams import packed
from probkernels.ops import _rans
from torch import Tensor

from .test_rans import decode, streams


def table(tables: int, k: int, precision: int, seed: int = 0) -> Tensor:
    """Distributions of unlike lengths, padded."""
    chance = torch.Generator().manual_seed(seed)
    found = torch.full((tables, k + 1), 1 << precision, dtype=torch.int32)
    for t in range(tables):
        size = int(torch.randint(1, k + 1, (1,), generator=chance)) if t else k
        found[t, : size + 1] = ops.quantize_cdf(torch.rand(size, generator=chance) ** 6 + 1e-9, precision)
    return found


def drawn(cdf: Tensor, index: Tensor, seed: int = 0) -> Tensor:
    """Symbols that have a count."""
    slots = torch.randint(int(cdf[0, -1]), index.shape, generator=torch.Generator().manual_seed(seed))
    return (torch.searchsorted(cdf[index.long()].long(), slots.unsqueeze(-1), right=True).squeeze(-1) - 1).int()


@pytest.mark.parametrize(("rows", "n", "tables", "k"), [(2, 40, 3, 7), (3, 700, 2, 40), (1, 600, 5, 300)])
def test_an_index_gives_the_streams_of_the_gathered_call(
    on: torch.device, rows: int, n: int, tables: int, k: int
) -> None:
    cdf = table(tables, k, 12)
    index = torch.randint(tables, (rows, n), generator=torch.Generator().manual_seed(1))
    symbols = drawn(cdf, index)
    gathered, expected = cdf[index].to(on), streams(symbols, cdf[index], 12)
    assert streams(symbols.to(on), gathered, 12) == expected
    for kind in (torch.int32, torch.int64):
        place = index.to(on, kind)
        payload, sizes = ops.rans_encode(symbols.to(on), cdf.to(on), 12, index=place)
        assert [bytes(row[:size].tolist()) for row, size in zip(payload, sizes.tolist(), strict=True)] == expected
        found = ops.rans_decode(*packed(payload, sizes), cdf.to(on), n, 12, index=place)
        assert torch.equal(found.cpu(), symbols)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 2) | st.integers(0, 300),
    st.integers(1, 5) | st.integers(1, 300),
    st.integers(1, 60),
    st.integers(1, 24),
    st.integers(0, 99),
)
def test_any_index(rows: int, n: int, tables: int, k: int, precision: int, seed: int) -> None:
    cdf = table(tables, min(k, 1 << precision), precision, seed)
    index = torch.randint(tables, (rows, n), generator=torch.Generator().manual_seed(seed))
    symbols = drawn(cdf, index, seed)
    payload, sizes = ops.rans_encode(symbols, cdf, precision, index=index)
    assert torch.equal(payload, ops.rans_encode(symbols, cdf[index], precision)[0])
    assert torch.equal(ops.rans_decode(*packed(payload, sizes), cdf, n, precision, index=index), symbols)
    with use_backend("reference"):
        assert torch.equal(payload, ops.rans_encode(symbols, cdf, precision, index=index)[0])


@pytest.mark.parametrize("bits", [-1, 0, 1, 3, 8])
def test_every_lookup_finds_the_same_symbols(on: torch.device, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Of none, one, few and many entries, also where most intervals have several symbols or none begins in them."""
    monkeypatch.setattr(_rans, "lookup_bits", lambda *_: bits)
    cdf = table(4, 70, 8)
    index = (torch.arange(1200) % 4).view(2, 600)
    symbols = drawn(cdf, index)
    payload, sizes = ops.rans_encode(symbols, cdf, 8, index=index)
    flat, offsets = packed(payload.to(on), sizes.to(on))
    assert torch.equal(ops.rans_decode(flat, offsets, cdf.to(on), 600, 8, index=index.to(on)).cpu(), symbols)
    one = drawn(cdf, index * 0)
    assert torch.equal(decode(streams(one, cdf[0], 8), cdf[0].to(on), 600, 8).cpu(), one)
    wrong = cdf.clone()
    wrong[1] = torch.tensor([-7, 10**9, -(2**31), 3] * 18)[:71]
    with pytest.raises(ValueError, match=r"'cdf': expected counts that rise, got .* at \[1, "):
        ops.rans_decode(flat, offsets, wrong.to(on), 600, 8, index=index.to(on))
    damage = _rans.DECODE.call(flat, offsets, wrong.to(on), index.to(on).int(), 600, 8)[1]  # never a crash
    assert damage[0]


def test_a_lookup_is_bounded() -> None:
    assert _rans.lookup_bits(1, 256, 10**5, 16) == 11 and _rans.lookup_bits(256, 256, 98_304, 16) == 8
    never = (10**6, 256, 10**9), (100_000, 16, 100_000), (1, 1 << 16, 10**9), (1, 16, 5), (2, 1, 1), (10**9, 1, 10**6)
    for tables, k, symbols in (*never, (0, 1, 1)):
        assert _rans.lookup_bits(tables, k, symbols, 16) == -1


def test_wrong_indices_are_shown(on: torch.device) -> None:
    cdf, index = table(3, 5, 12).to(on), torch.zeros(2, 4, dtype=torch.int64, device=on)
    symbols = torch.zeros(2, 4, dtype=torch.int32, device=on)
    payload, sizes = ops.rans_encode(symbols, cdf, 12, index=index)
    for bad in (3, -1, 1 << 32, (1 << 32) + 1, -(1 << 63)):
        wrong = index.clone()
        wrong[1, 2] = bad
        for call in (
            lambda wrong=wrong: ops.rans_encode(symbols, cdf, 12, index=wrong),
            lambda wrong=wrong: ops.rans_decode(*packed(payload, sizes), cdf, 4, 12, index=wrong),
            lambda wrong=wrong: ops.RansCoder(2, 12, on).push(symbols, cdf, index=wrong),
            lambda wrong=wrong: ops.RansCoder(2, 12, on).pop(cdf, 4, index=wrong),
        ):
            with pytest.raises(ValueError, match=rf"'index': expected numbers of 0 .. 2, got {bad} at \[1, 2\]"):
                call()
    with pytest.raises(TypeError, match="'index': expected an int32 or int64"):
        ops.rans_encode(symbols, cdf, 12, index=index.float())
    with pytest.raises(ValueError, match="'index': expected shape"):
        ops.rans_encode(symbols, cdf, 12, index=index[:1])
    with pytest.raises(ValueError, match="'cdf': expected shape"):
        ops.rans_encode(symbols, cdf[0], 12, index=index)
    for call in (
        lambda: ops.rans_encode(symbols, cdf[:0], 12, index=index),
        lambda: ops.rans_decode(*packed(payload, sizes), cdf[:0], 4, 12, index=index),
    ):
        with pytest.raises(ValueError, match=r"'index': .*got 0 at \[0, 0\]"):
            call()
    symbols[1, 3] = 4
    short = cdf.clone()
    short[2, 3:] = 1 << 12  # three symbols and two that only fill the row
    with pytest.raises(ValueError, match=r"'symbols': .*got 4 at \[1, 3\]"):
        ops.rans_encode(symbols, short, 12, index=index + 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("shape", "k"), [((2, 600), 5), ((1, 50), 256), ((3, 20), 1), ((2, 30), 33)])
def test_probabilities_give_the_streams_of_their_counts(
    on: torch.device, dtype: torch.dtype, shape: tuple[int, int], k: int
) -> None:
    chance = torch.Generator().manual_seed(k)
    pmf = torch.rand(*shape, k, generator=chance) ** 8
    pmf[..., 0] += 1e-20
    pmf[0, ::3] = pmf[0, ::3].round(decimals=1) + 0.1  # several that are likeliest
    symbols = torch.randint(k, shape, generator=chance, dtype=torch.int32)
    pmf, symbols = pmf.to(on, dtype), symbols.to(on)
    for one in (pmf, pmf[0], pmf[0, 0]):
        cdf = ops.quantize_cdf(one, 12)
        expected = ops.rans_encode(symbols, cdf, 12)
        found = ops.rans_encode_pmf(symbols, one, 12)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert torch.equal(ops.rans_decode_pmf(*packed(*found), one, shape[1], 12), symbols)


def test_bad_probabilities(on: torch.device) -> None:
    pmf, symbols = torch.rand(2, 9, 4).to(on) + 0.1, torch.ones(2, 9, dtype=torch.int32, device=on)
    flat, offsets = packed(*ops.rans_encode_pmf(symbols, pmf))
    for bad in (float("nan"), float("inf"), -float("inf"), -0.5):
        wrong = pmf.clone()
        wrong[1, 3, 2] = bad
        for call in (
            lambda wrong=wrong: ops.rans_encode_pmf(symbols, wrong),
            lambda wrong=wrong: ops.rans_decode_pmf(flat, offsets, wrong, 9),
        ):
            with pytest.raises(ValueError, match=rf"'pmf': expected finite numbers .*got {bad} at \[1, 3, 2\]"):
                call()
    for bad in (-1, 4):
        wrong = symbols.clone()
        wrong[1, 8] = bad
        with pytest.raises(ValueError, match=rf"'symbols': expected symbols of 0 .. 3, got {bad} at \[1, 8\]"):
            ops.rans_encode_pmf(wrong, pmf)
    with pytest.raises(CorruptStreamError, match="row 1"):
        ops.rans_decode_pmf(flat[:-4], offsets.clamp(max=len(flat) - 4), pmf, 9)
    with pytest.raises(ValueError, match="'pmf': expected shape"):
        ops.rans_encode_pmf(symbols, pmf[:, :3])
    with pytest.raises(ValueError, match="1 to 2 symbols"):
        ops.rans_encode_pmf(symbols, pmf, 1)
    with pytest.raises(TypeError, match="'pmf'"):
        ops.rans_encode_pmf(symbols, symbols)


def test_a_coder_gives_back_what_it_was_given(on: torch.device) -> None:
    cdf, chance = table(4, 30, 14).to(on), torch.Generator().manual_seed(0)
    coder, pushed = ops.RansCoder(3, 14, on), []
    before = [coder.copy()]
    for n in (1, 40, 1, 7, 0, 200):
        index = torch.randint(4, (3, n), generator=chance)
        symbols = drawn(cdf.cpu(), index, n).to(on)
        coder.push(symbols, cdf, index=index.to(on))
        pushed.append((symbols, index.to(on)))
        before.append(coder.copy())
    again = ops.RansCoder.from_bytes(coder.to_bytes(), 14, on)
    for one in (coder, again, copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert one.to_bytes() == before[-1].to_bytes() and not one.empty
        assert one.sizes.tolist() == [len(stream) for stream in one.to_bytes()]
        for (symbols, index), state in zip(reversed(pushed), reversed(before[:-1]), strict=True):
            assert torch.equal(one.pop(cdf, symbols.shape[1], index=index), symbols)
            assert one.to_bytes() == state.to_bytes()
        assert one.empty


def test_a_coder_writes_the_streams_of_rans_encode(on: torch.device) -> None:
    cdf = table(1, 50, 16)[0]
    symbols = drawn(cdf[None], torch.zeros(2, 500, dtype=torch.int64))
    coder = ops.RansCoder(2, 16, on)
    coder.push(symbols.to(on), cdf.to(on))
    assert coder.to_bytes() == streams(symbols, cdf, 16)
    one = ops.RansCoder(2, 16, on)
    for t in reversed(range(500 if on.type == "cpu" else 20)):  # a distribution for each row
        one.push(symbols[:, t].to(on), cdf.repeat(2, 1).to(on))
    if on.type == "cpu":
        assert one.to_bytes() == coder.to_bytes()


def test_popping_first_and_pushing_back_changes_nothing(on: torch.device) -> None:
    """Bits back: any bytes hold symbols of any distribution."""
    random = bytes(torch.randint(256, (80,), generator=torch.Generator().manual_seed(3)).tolist())
    given = [random[:4] + b"\1" + random[5:], random[40:] + random[:36] + b"\xff" * 4]
    cdf = table(1, 50, 16)[0].to(on)
    coder = ops.RansCoder.from_bytes(given, 16, on)
    symbols = coder.pop(cdf, 30)
    assert coder.to_bytes() != given
    coder.push(symbols, cdf)
    assert coder.to_bytes() == given


def test_backends_push_and_pop_alike(on: torch.device) -> None:
    cdf, symbols = table(1, 9, 12)[0], torch.arange(60, dtype=torch.int32).view(2, 30) % 9
    ours = ops.RansCoder(2, 12, on)
    ours.push(symbols.to(on), cdf.to(on))
    with use_backend("reference"):
        theirs = ops.RansCoder(2, 12)
        theirs.push(symbols, cdf)
        assert torch.equal(theirs.copy().pop(cdf, 30), symbols)
    assert ours.to_bytes() == theirs.to_bytes()


def test_a_coder_that_raises_has_not_changed(on: torch.device) -> None:
    cdf = table(1, 9, 12)[0].to(on)
    coder = ops.RansCoder(2, 12, on)
    coder.push(torch.ones(2, 5, dtype=torch.int32, device=on), cdf)
    state = coder.to_bytes()
    with pytest.raises(ValueError, match=r"'symbols': .*got 9 at \[1, 0\]"):
        coder.push(torch.tensor([1, 9], dtype=torch.int32, device=on), cdf)
    with pytest.raises(CorruptStreamError, match="row 0 ends early"):
        coder.pop(cdf, 200)
    with pytest.raises(CorruptStreamError, match="counts that do not rise"):
        coder.pop(torch.full_like(cdf, 1 << 12))
    with pytest.raises(ValueError, match=r"'cdf': expected counts that end at 2\*\*precision = 4096, got 8192"):
        coder.push(torch.ones(2, dtype=torch.int32, device=on), 2 * cdf)
    with pytest.raises(ValueError, match="'cdf': expected shape"):
        coder.pop(cdf.repeat(3, 1))
    with pytest.raises(TypeError, match="'symbols'"):
        coder.push(torch.ones(2, device=on), cdf)
    with pytest.raises(ValueError, match="'symbols': expected shape"):
        coder.push(torch.ones(3, dtype=torch.int32, device=on), cdf)
    with pytest.raises(ValueError, match="'n'"):
        coder.pop(cdf, -1)
    assert coder.to_bytes() == state
    for bad in ([b"1234567"], [bytes(8)], [bytes(8)[:7] + b"\1" + b"12"]):
        with pytest.raises(CorruptStreamError, match="row 0"):
            ops.RansCoder.from_bytes(bad, 12, on)
    for wrong in (b"12345678", [3], None):
        with pytest.raises(TypeError, match="'streams"):
            ops.RansCoder.from_bytes(wrong, 12, on)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'precision'"):
        ops.RansCoder(2, 25)
    assert ops.RansCoder(0).to_bytes() == [] and ops.RansCoder.from_bytes([]).empty
