"""Random numbers as a function of a counter, in plain torch: Philox4x32-10 (Salmon et al., SC 2011), uniform numbers,
and normal numbers by Box and Muller. To the bit what csrc/include/pk/philox.h gives: fused multiply-adds are exact.

Elements 4c .. 4c + 3 of a row come from the counter (c, row, step low, step high) under the key (seed low, seed high).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.registry import opaque

WORD = (1 << 32) - 1
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
UNIFORM_BITS = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}  # what a dtype can hold


def philox_words(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The four words of a counter of four under a key of two; all are int64 in [0, 2^32), of shapes that broadcast."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # of 64 bits: what int64 keeps of them
        c0, c1, c2, c3 = (second >> 32) & WORD ^ c1 ^ k0, second & WORD, (first >> 32) & WORD ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def row_words(
    rows: int, elements: int, device: torch.device, seeds: Tensor | None, seed: int, row: int, step: int
) -> Tensor:
    """(rows, ceil(elements / 4), 4): the words of a tensor's rows. ``seeds`` () takes the place of ``seed``."""
    blocks = torch.arange((elements + 3) // 4, device=device)
    if seeds is None or seeds.dim() == 0:
        numbers = (row + torch.arange(rows, device=device)[:, None]) & WORD
        seeds = torch.tensor(seed, device=device) if seeds is None else seeds
    else:
        numbers, seeds = torch.zeros(rows, 1, dtype=torch.int64, device=device), seeds[:, None]
    steps = (torch.tensor(part, device=device) for part in (step & WORD, step >> 32 & WORD))
    words = philox_words((blocks, numbers, *steps), (seeds & WORD, seeds >> 32 & WORD))
    return torch.stack([word.expand(rows, len(blocks)) for word in words], 2)


# --- fused multiply-add, rounded once ---


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b rounded, and what the rounding lost."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _odd_sum(a: Tensor, b: Tensor) -> Tensor:
    """a + b in float64, rounded to odd: rounding it once more to fewer digits is as good as rounding a + b."""
    total, lost = _two_sum(a, b)
    bits = total.view(torch.int64)
    away = (lost > 0) == (total > 0)
    moved = torch.where(away, bits + 1, bits - 1).view(torch.float64)
    return torch.where((lost != 0) & (bits & 1 == 0), moved, total)


def _split(a: Tensor) -> tuple[Tensor, Tensor]:
    scaled = a * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a b + c with a single rounding, in the range that is used here (Boldo and Melquiond, 2008)."""
    if a.dtype is torch.float32:
        return _odd_sum(a.double() * b.double(), c.double()).float()
    a, b, c = torch.broadcast_tensors(a, b, c)
    product = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    lost = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    low, lowest = _two_sum(c, lost)
    high, middle = _two_sum(product, low)
    return high + _odd_sum(middle, lowest)


def root(a: Tensor) -> Tensor:
    """The square root, correctly rounded: torch's own may be a unit in the last place off."""
    if a.dtype is torch.float32:
        return a.double().sqrt().float()  # no root of 24 digits lies near the middle of two others
    rough = a.sqrt()
    better = fused(fused(-rough, rough, a), 0.5 / rough, rough)
    return torch.where(rough > 0, better, rough)


# --- numbers of words: the steps of philox.h ---

LN2 = {
    torch.float32: ("0x1.62e000p-1", "0x1.0bfbe8p-15"),
    torch.float64: ("0x1.62e42fee00000p-1", "0x1.a39ef35793c76p-33"),
}
ROOT_HALF = {torch.float32: 0x3F3504F3, torch.float64: 0x3FE6A09E667F3BCD}
ONE = {torch.float32: 0x3F800000, torch.float64: 0x3FF0000000000000}
LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}
LOG = {
    torch.float32: ("0xaaaaaa.0p-24", "0xccce13.0p-25", "0x91e9ee.0p-25", "0xf89e26.0p-26"),
    torch.float64: (
        "0x1.5555555555593p-1", "0x1.999999997fa04p-2", "0x1.2492494229359p-2", "0x1.c71c51d8e78afp-3",
        "0x1.7466496cb03dep-3", "0x1.39a09d078c69fp-3", "0x1.2f112df3e5244p-3",
    ),
}  # fmt: skip
TERMS = {torch.float32: (4, 5), torch.float64: (8, 8)}  # of sine and cosine


def horner(terms: list[float], z: Tensor) -> Tensor:
    """sum_k terms[k] z^k by fused multiply-adds, the last term first."""
    total = torch.full_like(z, terms[-1])
    for term in reversed(terms[:-1]):
        total = fused(total, z, torch.full_like(z, term))
    return total


def _taylor(n: int) -> float:
    return (-1.0 if n // 2 % 2 else 1.0) / math.factorial(n)


def log_of_parts(k: Tensor, f: Tensor) -> Tensor:
    """Log of 2^k (1 + f) with 1 + f between the roots of 1/2 and 2."""
    s = f / (f + 2)
    z, half_square = s * s, (f * f) * 0.5
    high, low = (torch.full_like(k, float.fromhex(text)) for text in LN2[f.dtype])
    series = horner([float.fromhex(text) for text in LOG[f.dtype]], z)
    rest = fused(s, fused(series, z, half_square), k * low)
    return fused(k, high, f - (half_square - rest))


def parts_of(value: Tensor) -> tuple[Tensor, Tensor]:
    """k and f of positive normal numbers 2^k (1 + f), as above."""
    integer, mantissa, bias = LAYOUT[value.dtype]
    bits = value.view(integer) + (ONE[value.dtype] - ROOT_HALF[value.dtype])
    k = ((bits >> mantissa) - bias).to(value.dtype)
    return k, ((bits & ((1 << mantissa) - 1)) + ROOT_HALF[value.dtype]).view(value.dtype) - 1


def middle(word: Tensor, dtype: torch.dtype) -> Tensor:
    """u = (the 31 leading bits + 1/2) / 2^31; of word ^ WORD it is 1 - u, of which u near 1 has lost digits."""
    return ((word >> 1).to(dtype) + 0.5) * 2.0**-31


def radius(word: Tensor, dtype: torch.dtype) -> Tensor:
    """sqrt(-2 log u) of a word's u."""
    k, near = parts_of(middle(word, dtype))
    f = torch.where(k == 0, -middle(word ^ WORD, dtype), near)
    return root(log_of_parts(k, f) * -2)


def turn(word: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of word / 2^32 turns."""
    quarters = (word + (1 << 29)) >> 30 & 3
    inside = word - (quarters << 30)
    r = torch.where(inside >= 1 << 31, inside - (1 << 32), inside).to(dtype) * 1.4629180792671596e-09
    z, (sines, cosines) = r * r, TERMS[dtype]
    s = horner([_taylor(2 * k + 1) for k in range(1, sines + 1)], z)
    c = horner([_taylor(2 * k) for k in range(cosines + 1)], z)
    s = fused(s * z, r, r)
    swaps = quarters & 1 != 0
    along, across = torch.where(swaps, s, c), torch.where(swaps, c, s)
    return torch.where((quarters + 1) & 2 != 0, -along, along), torch.where(quarters & 2 != 0, -across, across)


def normals(words: Tensor, dtype: torch.dtype) -> Tensor:
    """A normal number for each word (..., 4), in float32 or float64: words 0 and 1 give the first two."""
    pairs = words.unflatten(-1, (2, 2))
    r, (cosine, sine) = radius(pairs[..., 0], dtype), turn(pairs[..., 1], dtype)
    return torch.stack([r * cosine, r * sine], -1).flatten(-2)


def uniforms(words: Tensor, dtype: torch.dtype) -> Tensor:
    """A number in [0, 1) for each word: as many of its leading bits as the dtype holds."""
    bits = UNIFORM_BITS[dtype]
    return ((words >> (32 - bits)).double() * 2.0**-bits).to(dtype)


@opaque(
    "(Tensor like, Tensor? seeds, int seed, int row, int step, bool normal) -> Tensor",
    lambda like, *_: torch.empty(like.shape, dtype=like.dtype, device=like.device),
)
def philox(like: Tensor, seeds: Tensor | None, seed: int, row: int, step: int, normal: bool) -> Tensor:
    """Numbers of the shape (rows, ...), dtype and device of ``like``: normal, or uniform in [0, 1)."""
    rows = like.shape[0]
    elements = like.numel() // rows if rows else 0
    words = row_words(rows, elements, like.device, seeds, seed, row, step)
    wide = torch.promote_types(like.dtype, torch.float32)
    numbers = normals(words, wide) if normal else uniforms(words, like.dtype)
    return numbers.flatten(1)[:, :elements].reshape(like.shape).to(like.dtype).contiguous()
