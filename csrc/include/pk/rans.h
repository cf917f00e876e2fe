// rANS with states of 64 bits and words of 32, for the kernels on the CPU and on a GPU. Equations:
// python/probkernels/reference/rans.py.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "pk/dtype.h"

namespace pk {

constexpr std::uint64_t kLower = std::uint64_t(1) << 32;  // states stay in [2^32, 2^64)

enum class Damage : std::int64_t { kNone, kShort, kState, kLeft, kModel, kIndex };

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

struct Span {  // of a symbol: [below, above) of 2^bits
  std::int32_t below, above;
  PK_HD bool sound(int bits) const {  // a negative one is a large one
    return std::uint32_t(below) < std::uint32_t(above) && std::uint32_t(above) <= std::uint32_t(1) << bits;
  }
};

// Cumulative counts (K + 1), from 0 to 2^bits, of every symbol of a row: the same ones, `step` further for each, or
// those of a table that `index` names.
struct Counts {
  const std::int32_t* first;
  std::int64_t k, step;
  int bits;
  const std::int32_t* index;  // null: none
  std::int64_t tables;
  PK_HD std::int64_t place(std::int64_t i) const { return index ? index[i] : i; }
  PK_HD bool has(std::int64_t i) const { return !index || std::uint64_t(index[i]) < std::uint64_t(tables); }
  PK_HD const std::int32_t* of(std::int64_t i) const { return first + place(i) * step; }
  PK_HD bool span(std::int64_t i, std::int64_t x, Span* found) const {
    if (!has(i)) return false;
    const std::int32_t* const c = of(i);
    *found = {c[x], c[x + 1]};
    return found->sound(bits);
  }
};

// A launcher's arguments for Counts, of which those of a row are made.
struct CountsOf {
  const std::int32_t* first;
  const std::int32_t* index;
  std::int64_t n, k, row_step, step, tables;
  int bits;
  PK_HD Counts row(std::int64_t i) const {
    return {first + i * row_step, k, step, bits, index ? index + i * n : nullptr, tables};
  }
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
// length, or -1 for a symbol that has no width. `model` gives a symbol's span.
template <class Model>
PK_HD std::int64_t encode_row(const std::int32_t* symbols, std::int64_t n, const Model& model, std::uint8_t* out,
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
    Span span;
    if (x < 0 || x >= model.k || !model.span(i, x, &span)) return -1;
    states[lane] = rans_push(states[lane], span.below, span.above - span.below, model.bits, emit);
  }
  for (lane = lanes - 1; lane >= 0; --lane) put_bytes(out + (at -= 8), states[lane], 8);
  const std::int64_t size = capacity - at;
#ifdef __CUDA_ARCH__
  for (std::int64_t i = 0; i < size; ++i) out[i] = out[at + i];
  for (std::int64_t i = size; i < capacity; ++i) out[i] = 0;
#else
  memmove(out, out + at, std::size_t(size));
  memset(out + size, 0, std::size_t(capacity - size));
#endif
  return size;
}

// Puts a row's symbols, the last one first, on a single state. The words that overflow go to `words` in their order.
// Returns how many, or -1 for a symbol that has no width.
PK_HD std::int64_t push_row(const std::int32_t* symbols, std::int64_t n, const Counts& counts, std::uint64_t* state,
                            std::int32_t* words) {
  std::int64_t size = 0;
  for (std::int64_t i = n - 1; i >= 0; --i) {
    const std::int64_t x = symbols[i];
    Span span;
    if (x < 0 || x >= counts.k || !counts.span(i, x, &span)) return -1;
    const auto emit = [&](std::uint32_t word) PK_INLINE { words[size++] = std::int32_t(word); };
    *state = rans_push(*state, span.below, span.above - span.below, counts.bits, emit);
  }
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

// For every 2^(bits - lookup_bits) slots, the symbol of the first one: where a search may begin.
PK_HD void fill_lookup(const std::int32_t* c, std::int64_t k, int bits, int lookup_bits, std::uint16_t* lookup) {
  const std::int64_t entries = std::int64_t(1) << lookup_bits;
  std::int64_t to = 0;
  for (std::int64_t x = 0; x + 1 < k; ++x) {  // all places whose first slot is below c[x + 1]
    const std::int64_t end =
        (std::int64_t(c[x + 1]) + (std::int64_t(1) << (bits - lookup_bits)) - 1) >> (bits - lookup_bits);
    for (; to < end && to < entries; ++to) lookup[to] = std::uint16_t(x);
  }
  for (; to < entries; ++to) lookup[to] = std::uint16_t(k - 1);
}

// A search that begins where the lookup says. Two steps without a branch are nearly always enough.
PK_HD std::int64_t find_from(const std::int32_t* c, std::int64_t k, std::int32_t slot, std::int64_t x) {
  const std::int64_t second = x + 2 < k ? x + 2 : k;
  x += std::int64_t(x + 1 < k && c[x + 1] <= slot) + std::int64_t(second < k && c[second] <= slot);
  while (x + 1 < k && c[x + 1] <= slot) ++x;
  return x;
}

// What decode_row asks for the symbol at a slot: counts with a lookup, or searched without one.
template <class Upto>
struct Search {
  Counts counts;
  const std::uint16_t* lookup;  // null: none
  int lookup_bits;
  Upto upto;
  PK_HD bool find(std::int64_t i, std::int32_t slot, std::int64_t* x, Span* span) const {
    if (!counts.has(i)) return false;
    const std::int32_t* const c = counts.of(i);
    if (lookup) {
      const std::int64_t table = counts.step ? counts.place(i) : 0;
      const std::int64_t entry = table << lookup_bits | slot >> (counts.bits - lookup_bits);
      *x = find_from(c, counts.k, slot, lookup[entry]);
    } else {
      *x = find_symbol(c, counts.k, slot, upto);
    }
    *span = {c[*x], c[*x + 1]};
    return true;
  }
  PK_HD void fetch(std::int64_t i) const {  // what a later symbol will read
#ifndef __CUDA_ARCH__
    if (!lookup && counts.step && counts.has(i))
      for (std::int64_t at16 = 0; at16 < counts.k; at16 += 16) __builtin_prefetch(counts.of(i) + at16);
#endif
  }
};

// Takes a symbol off a state. `next` gives the word that the state lacks, if there is one.
template <class Model, class Next>
PK_HD Damage pop_symbol(std::uint64_t* state, std::int64_t i, const Model& model, int bits, std::int32_t* symbol,
                        Next&& next) {
  const std::int32_t slot = std::int32_t(*state & ((std::uint64_t(1) << bits) - 1));
  std::int64_t x = 0;
  Span span;
  if (!model.find(i, slot, &x, &span)) return Damage::kIndex;
  if (!span.sound(bits) || span.below > slot || span.above <= slot) return Damage::kModel;
  *state = rans_pop(*state, span.below, span.above - span.below, bits);
  *symbol = std::int32_t(x);
  return next(state) ? Damage::kNone : Damage::kShort;
}

template <class Model>
PK_HD Damage decode_row(const std::uint8_t* in, std::int64_t bytes, const Model& model, int bits, std::int32_t* symbols,
                        std::int64_t n) {
  const std::int64_t lanes = states_of(n);
  if (bytes < 8 * lanes) return Damage::kShort;
  std::uint64_t states[kMostStates];
  for (std::int64_t g = 0; g < lanes; ++g) {
    states[g] = take_bytes(in + 8 * g, 8);
    if (states[g] < kLower) return Damage::kState;
  }
  std::int64_t at = 8 * lanes, lane = 0;
  const auto next = [&](std::uint64_t* state) PK_INLINE {
    const bool low = *state < kLower;
    if (bytes - at < 4) return !low;
    const std::uint64_t word = take_bytes(in + at, 4);  // read in any case: no branch to guess
    *state = *state << (32 * low) | (word & -std::uint64_t(low));
    at += 4 * low;
    return true;
  };
  for (std::int64_t i = 0; i < n; ++i) {
    if (i + kMostStates < n) model.fetch(i + kMostStates);
    const Damage damage = pop_symbol(&states[lane], i, model, bits, symbols + i, next);
    if (damage != Damage::kNone) return damage;
    lane = lane + 1 == lanes ? 0 : lane + 1;
  }
  for (std::int64_t g = 0; g < lanes; ++g)
    if (states[g] != kLower) return Damage::kState;
  return at == bytes ? Damage::kNone : Damage::kLeft;
}

// Takes n symbols off a single state and the end of its `size` words.
template <class Model>
PK_HD Damage pop_row(std::uint64_t* state, const std::int32_t* words, std::int64_t* size, const Model& model, int bits,
                     std::int32_t* symbols, std::int64_t n) {
  const auto next = [&](std::uint64_t* s) PK_INLINE {
    if (*s >= kLower) return true;
    if (*size <= 0) return false;
    *s = *s << 32 | std::uint32_t(words[--*size]);
    return true;
  };
  for (std::int64_t i = 0; i < n; ++i) {
    const Damage damage = pop_symbol(state, i, model, bits, symbols + i, next);
    if (damage != Damage::kNone) return damage;
  }
  return Damage::kNone;
}

// How probabilities (k) of any scale become counts, each symbol with 1 at least. Whole numbers in doubles: their sums
// are exact in any order, so that they may be added in vectors.
template <class T>
struct Scale {
  T most = 0;
  double to_whole = 0, share = 0;
  PK_HD std::int32_t count(T p) const { return std::int32_t(double(std::int32_t(double(p) * to_whole)) * share) + 1; }
};

PK_HD std::uint32_t order_of(float p) { return bit_cast<std::uint32_t>(p + 0.0f); }  // and -0 is 0
PK_HD std::uint64_t order_of(double p) { return bit_cast<std::uint64_t>(p + 0.0); }

// Whether they are probabilities: none negative, none infinite, not all 0. Numbers that are not negative are in the
// order of their bits, and all others have larger bits.
template <class T>
PK_HD bool find_scale(const T* pmf, std::int64_t k, int bits, Scale<T>* scale) {
  auto largest = order_of(T(0));
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < k; ++i) largest = order_of(pmf[i]) > largest ? order_of(pmf[i]) : largest;
  if (largest == 0 || largest >= order_of(T(INFINITY))) return false;
  const T most = bit_cast<T>(largest);
  const double to_whole = 1073741824.0 / double(most);  // 2^30
  if (!(to_whole < 1e300)) return false;
  double all = 0;
#pragma omp simd reduction(+ : all)
  for (std::int64_t i = 0; i < k; ++i) all += double(std::int32_t(double(pmf[i]) * to_whole));
  *scale = {most, to_whole, double((std::int64_t(1) << bits) - k) / all};
  return true;
}

// Counts (k + 1) of probabilities (k); counts[0] is -1 if they are none. The likeliest symbol gets what is left.
template <class T>
PK_HD void quantize_row(const T* pmf, std::int64_t k, int bits, std::int32_t* counts) {
  Scale<T> scale;
  counts[0] = -!find_scale(pmf, k, bits, &scale);
  if (counts[0]) return;
#pragma omp simd
  for (std::int64_t i = 0; i < k; ++i) counts[i + 1] = scale.count(pmf[i]);
  std::int32_t best = std::int32_t(k);
#pragma omp simd reduction(min : best)
  for (std::int32_t i = 0; i < std::int32_t(k); ++i) {
    const std::int32_t here = pmf[i] == scale.most ? i : std::int32_t(k);
    best = here < best ? here : best;
  }
  std::int32_t below = 0;
  for (std::int64_t i = 0; i < k; ++i) counts[i + 1] = below += counts[i + 1];
  const std::int32_t left = (std::int32_t(1) << bits) - below;
  for (std::int64_t i = best; i < k; ++i) counts[i + 1] += left;
}

// Probabilities of every symbol of a row, as encode_row takes them: a symbol's counts are those of quantize_row,
// without the others. Sums run over all symbols, as a length that depends on the symbol would be guessed wrong every
// time.
template <class T>
struct Probabilities {
  const T* first;
  std::int64_t k;
  int bits;
  PK_HD bool span(std::int64_t i, std::int64_t x, Span* found) const {
    const T* const pmf = first + i * k;
    Scale<T> scale;
    if (!find_scale(pmf, k, bits, &scale)) return false;
    const std::int32_t place = std::int32_t(x), count = scale.count(pmf[x]);
    std::int32_t all = 0, below = 0, before = 0;  // before: symbols as likely as the likeliest
#pragma omp simd reduction(+ : all) reduction(+ : below) reduction(+ : before)
    for (std::int32_t j = 0; j < std::int32_t(k); ++j) {
      const std::int32_t one = scale.count(pmf[j]), mask = -std::int32_t(j < place);
      all += one;
      below += one & mask;
      before += std::int32_t(pmf[j] == scale.most) & mask;
    }
    const std::int32_t left = (std::int32_t(1) << bits) - all;
    if (before) below += left;
    *found = {below, below + count + (!before && pmf[x] == scale.most ? left : 0)};
    return true;
  }
};

// The same for decode_row: a symbol's counts are made in `room` (k + 1) when it comes.
template <class T, class Upto>
struct ProbabilitySearch {
  Probabilities<T> from;
  std::int32_t* room;
  Upto upto;
  PK_HD bool find(std::int64_t i, std::int32_t slot, std::int64_t* x, Span* span) const {
    quantize_row(from.first + i * from.k, from.k, from.bits, room);
    *x = room[0] ? 0 : find_symbol(room, from.k, slot, upto);
    *span = {room[*x], room[*x + 1]};
    return true;
  }
  PK_HD void fetch(std::int64_t) const {}
};

}  // namespace pk
