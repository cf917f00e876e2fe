// rANS with states of 64 bits and words of 32, for the kernels on the CPU and on a GPU. Equations:
// python/probkernels/reference/rans.py.
#pragma once
#include <cstdint>

#include "pk/dtype.h"

namespace pk {

constexpr std::uint64_t kLower = std::uint64_t(1) << 32;  // states stay in [2^32, 2^64)

enum class Damage : std::int64_t { kNone, kShort, kState, kLeft, kModel };

// Puts a symbol of `width` of 2^bits on a state; `emit` takes the word that overflows.
template <class Emit>
PK_HD std::uint64_t rans_push(std::uint64_t state, std::uint32_t below, std::uint32_t width, int bits, Emit&& emit) {
  const std::uint64_t f = width;
  if (state >> (64 - bits) >= f) {
    emit(std::uint32_t(state));
    state >>= 32;
  }
  return (state / f << bits) + state % f + below;
}

PK_HD std::uint64_t rans_pop(std::uint64_t state, std::uint32_t below, std::uint32_t width, int bits) {
  const std::uint32_t slot = std::uint32_t(state) & ((1u << bits) - 1);
  return std::uint64_t(width) * (state >> bits) + (slot - below);
}

// Cumulative counts (K + 1), from 0 to 2^bits, of every symbol of a row: the same ones, or `step` further for each.
struct Counts {
  const std::int32_t* first;
  std::int64_t k, step;
  int bits;
  PK_HD const std::int32_t* of(std::int64_t i) const { return first + i * step; }
};

constexpr std::int64_t kMostStates = 8;  // of a row, so that a processor need not wait for one

PK_HD std::int64_t states_of(std::int64_t n) {
  const std::int64_t states = n / 256;
  return states < 1 ? 1 : states < kMostStates ? states : kMostStates;
}

PK_HD void put_bytes(std::uint8_t* to, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) to[i] = std::uint8_t(value >> (8 * i));
}

PK_HD std::uint64_t take_bytes(const std::uint8_t* from, int bytes) {
  std::uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= std::uint64_t(from[i]) << (8 * i);
  return value;
}

// The stream of a row, written from the end of its room and moved to the front, with zeros after it. Returns its
// length, or -1 for a symbol that has no width.
PK_HD std::int64_t encode_row(const std::int32_t* symbols, std::int64_t n, const Counts& counts, std::uint8_t* out,
                              std::int64_t capacity) {
  const std::int64_t lanes = states_of(n);
  std::uint64_t states[kMostStates];
  for (auto& state : states) state = kLower;
  std::int64_t at = capacity;
  const auto emit = [&](std::uint32_t word) PK_INLINE { put_bytes(out + (at -= 4), word, 4); };
  std::int64_t lane = n % lanes;
  for (std::int64_t i = n - 1; i >= 0; --i) {
    lane = lane ? lane - 1 : lanes - 1;
    const std::int64_t x = symbols[i];
    if (x < 0 || x >= counts.k) return -1;
    const std::int32_t* const c = counts.of(i);
    const std::int32_t below = c[x], above = c[x + 1];
    if (below < 0 || above <= below || above > std::int32_t(1) << counts.bits) return -1;
    states[lane] = rans_push(states[lane], below, above - below, counts.bits, emit);
  }
  for (lane = lanes - 1; lane >= 0; --lane) put_bytes(out + (at -= 8), states[lane], 8);
  const std::int64_t size = capacity - at;
  for (std::int64_t i = 0; i < size; ++i) out[i] = out[at + i];
  for (std::int64_t i = size; i < capacity; ++i) out[i] = 0;
  return size;
}

// The symbol whose counts hold the slot: halves down to sixteen candidates, of which `upto` says how many begin at the
// slot or before.
template <class Upto>
PK_HD std::int64_t find_symbol(const std::int32_t* c, std::int64_t k, std::int32_t slot, Upto&& upto) {
  std::int64_t low = 0, rest = k;  // c[low] <= slot, and the symbol is among `rest` from there
  while (rest > 16) {              // without a branch, which would be guessed wrong half of the time
    const std::int64_t half = rest >> 1;
    low += half & -std::int64_t(c[low + half] <= slot);
    rest -= half;
  }
  int count = 0;
  if (rest == 16)
    count = upto(c + low, slot);
  else
    for (int i = 0; i < int(rest); ++i) count += c[low + i] <= slot;
  return low + (count > 0 ? count - 1 : 0);  // none: the counts do not rise
}

template <class Upto>
PK_HD Damage decode_row(const std::uint8_t* in, std::int64_t bytes, const Counts& counts, std::int32_t* symbols,
                        std::int64_t n, Upto&& upto) {
  const std::int64_t lanes = states_of(n);
  if (bytes < 8 * lanes) return Damage::kShort;
  std::uint64_t states[kMostStates];
  for (std::int64_t g = 0; g < lanes; ++g) {
    states[g] = take_bytes(in + 8 * g, 8);
    if (states[g] < kLower) return Damage::kState;
  }
  std::int64_t at = 8 * lanes, lane = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t* const c = counts.of(i);
    const std::int32_t slot = std::int32_t(states[lane] & ((std::uint64_t(1) << counts.bits) - 1));
#ifndef __CUDA_ARCH__
    if (counts.step && i + kMostStates < n)  // what a later symbol will read
      for (std::int64_t at16 = 0; at16 < counts.k; at16 += 16) __builtin_prefetch(counts.of(i + kMostStates) + at16);
#endif
    const std::int64_t x = find_symbol(c, counts.k, slot, upto);
    const std::int32_t below = c[x], above = c[x + 1];
    if (below < 0 || below > slot || above <= slot || above > std::int32_t(1) << counts.bits) return Damage::kModel;
    std::uint64_t state = rans_pop(states[lane], below, above - below, counts.bits);
    if (state < kLower) {
      if (bytes - at < 4) return Damage::kShort;
      state = state << 32 | take_bytes(in + at, 4);
      at += 4;
    }
    states[lane] = state;
    symbols[i] = std::int32_t(x);
    lane = lane + 1 == lanes ? 0 : lane + 1;
  }
  for (std::int64_t g = 0; g < lanes; ++g)
    if (states[g] != kLower) return Damage::kState;
  return at == bytes ? Damage::kNone : Damage::kLeft;
}

// f(i, lane) for i < n with lanes 0 .. 15 in turn, sixteen at a time where there are as many.
template <class F>
PK_HD void by_lanes(std::int64_t n, F&& f) {
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int lane = 0; lane < 16; ++lane) f(i + lane, lane);
  for (; i < n; ++i) f(i, int(i & 15));
}

// Probabilities (k) of any scale as counts (k + 1), each symbol with 1 at least; counts[0] is -1 if they are none.
// Whole numbers in doubles: their sums are exact in any order.
template <class T>
PK_HD void quantize_row(const T* pmf, std::int64_t k, int bits, std::int32_t* counts) {
  T largest[16] = {}, odd[16] = {};
  by_lanes(k, [&](std::int64_t i, int lane) PK_INLINE {
    const T p = pmf[i];
    odd[lane] += (p >= 0 ? p : T(-1)) - (p >= 0 ? p : T(0));  // 0, -1, or no number for an infinite p
    largest[lane] = p > largest[lane] ? p : largest[lane];
  });
  T most = 0;
  bool sound = true;
  for (int lane = 0; lane < 16; ++lane) {
    most = largest[lane] > most ? largest[lane] : most;
    sound &= odd[lane] == 0;
  }
  const double to_whole = 1073741824.0 / double(most);  // 2^30
  counts[0] = -!(sound && most > 0 && to_whole < 1e300);
  if (counts[0]) return;
  double sums[16] = {}, all = 0;
  by_lanes(k, [&](std::int64_t i, int lane) PK_INLINE {
    counts[i + 1] = std::int32_t(double(pmf[i]) * to_whole);
    sums[lane] += double(counts[i + 1]);
  });
  for (double sum : sums) all += sum;
  const double share = double((std::int64_t(1) << bits) - k) / all;
  by_lanes(k, [&](std::int64_t i, int) PK_INLINE { counts[i + 1] = std::int32_t(double(counts[i + 1]) * share) + 1; });
  std::int64_t best = 0;
  while (pmf[best] != most) ++best;
  std::int32_t below = 0;
  for (std::int64_t i = 0; i < k; ++i) counts[i + 1] = below += counts[i + 1];
  const std::int32_t left = (std::int32_t(1) << bits) - below;
  for (std::int64_t i = best; i < k; ++i) counts[i + 1] += left;
}

}  // namespace pk
