// Codes rows of data with a compiled circuit on the CPU. Lanes of SIMD are rows of data, or units of a node for one
// row; no sum is ever reordered. Threads take chunks. Every instruction set gives the same bytes. Equations:
// python/probkernels/reference/program_code.py.
#include <algorithm>
#include <cstring>
#include <vector>

#include "pk/launch.h"
#include "pk/program_node.h"
#include "pk/range_coder.h"

namespace pk {
namespace {

// The coders of symbols see mixture weights w (K) of one row and what row it is, and say which value it has.
struct Encoder {
  const std::int32_t* codes;  // (rows, V) from the chunk's first
  Word* below;                // (rows, V), in the order of coding
  Word* width;
  Int v, first;
  // Tables are larger than caches: what rows of them will be read.
  PK_HD void prefetch(const Program& p, Int variable, Int from, Int to) const {
    const Variable& var = p.variables[variable];
    for (Int g = from; g < to; ++g) {
      const std::uint16_t* const row = p.tables + var.table + codes[(first + g) * v + variable] * var.units;
      __builtin_prefetch(row);
      __builtin_prefetch(row + 2 * var.units - 1);
    }
  }
  template <int B>
  PK_HD Int operator()(const Program& p, Int variable, Int turn, Int g, const Word* w) {
    const Variable& var = p.variables[variable];
    const std::uint16_t* table = p.tables + var.table;
    const Int row = first + g, x = codes[row * v + variable];
    const Word low = cumulative<B>(w, table, x, var.units);
    const Word high = x + 1 < var.categories ? cumulative<B>(w, table, x + 1, var.units) : 1u << kBits;
    below[row * v + turn] = low;
    width[row * v + turn] = high - low;
    return x;
  }
};

struct Decoder {
  std::int32_t* codes;
  std::uint64_t* states;  // (lanes)
  RangeDecoder* alone;    // instead of the states, if there is one lane
  const std::uint8_t *at, *end;
  Int v, first;
  bool is_short = false;
  PK_HD void prefetch(const Program& p, Int variable, Int, Int) const {
    const Variable& var = p.variables[variable];
    const std::uint16_t* const row = p.tables + var.table + var.likely * var.units;
    __builtin_prefetch(row);
    __builtin_prefetch(row + 2 * var.units - 1);
  }
  template <int B>
  PK_HD Int operator()(const Program& p, Int variable, Int, Int g, const Word* w) {
    const Variable& var = p.variables[variable];
    const std::uint16_t* table = p.tables + var.table;
    const Word slot = alone ? alone->slot() : Word(states[g]) & ((1u << kBits) - 1);
    const auto upper = [&](Int x) PK_INLINE {
      return x < var.categories ? cumulative<B>(w, table, x, var.units) : 1u << kBits;
    };
    Int low = 0, high = var.categories;
    Word below = 0, above = 1u << kBits;
    const auto probe = [&](Int x) PK_INLINE {
      const Word c = upper(x);
      if (c <= slot)
        low = x, below = c;
      else
        high = x, above = c;
    };
    if (var.likely + 1 < high) probe(var.likely + 1);
    if (var.likely > low && high == var.likely + 1) probe(var.likely);
    while (high - low > 1) {
      const Int middle = (low + high) >> 1;
      __builtin_prefetch(table + ((low + middle) >> 1) * var.units);  // what is read next
      __builtin_prefetch(table + ((middle + high) >> 1) * var.units);
      probe(middle);
    }
    codes[(first + g) * v + variable] = std::int32_t(low);
    if (alone)
      alone->take(below, above - below);
    else
      states[g] = filled(rans_pop(states[g], below, above - below, kBits));
    return low;
  }

  PK_HD std::uint64_t filled(std::uint64_t state) {
    if (state >= kLower) return state;
    if (end - at < 4) {
      is_short = true;
      return kLower;
    }
    Word word;
    memcpy(&word, at, 4);
    at += 4;
    return state << 32 | word;
  }
};

constexpr Int kFewRows = 2;  // up to which units of a node fill lanes better than rows do

Int padded(Int lanes) { return (lanes + kLanes - 1) / kLanes * kLanes; }

Scratch scratch_for(const Program& p, Int width) {
  Int units = 1;
  for (Int i = 0; i < p.v; ++i) units = std::max(units, p.variables[i].units);
  return {std::vector<float>(p.registers * width), std::vector<Word>(units * kLanes), std::vector<Word>(units * kLanes),
          std::vector<Int>(width)};
}

// The stream of a chunk. Returns its length.
Int write_alone(const Word* below, const Word* width, Int symbols, std::uint8_t* out) {
  RangeEncoder coder{out};
  for (Int i = 0; i < symbols; ++i) coder.put(below[i], width[i]);
  return coder.finish();
}

// Written from its end: symbols of `lanes` rows side by side, in reverse.
Int write_lanes(const Word* below, const Word* width, Int rows, Int v, Int lanes, std::uint8_t* out, Int capacity) {
  std::vector<std::uint64_t> states(lanes, kLower);
  Int at = capacity;
  const auto emit = [&](Word word) {
    at -= 4;
    memcpy(out + at, &word, 4);
  };
  for (Int first = (rows - 1) / lanes * lanes; first >= 0; first -= lanes) {
    const Int count = std::min(lanes, rows - first);
    for (Int turn = v - 1; turn >= 0; --turn)
      for (Int g = count - 1; g >= 0; --g) {
        const Int i = (first + g) * v + turn;
        states[g] = rans_push(states[g], below[i], width[i], kBits, emit);
      }
  }
  at -= 8 * lanes;
  memcpy(out + at, states.data(), 8 * lanes);
  memmove(out, out + at, capacity - at);
  return capacity - at;
}

void encode_chunk(const Program& p, const std::int32_t* codes, Int rows, Int lanes, std::uint8_t* out, Int capacity,
                  Int* size) {
  const Int width = padded(std::min(rows, std::max(lanes, Int(kLanes))));
  Scratch scratch = scratch_for(p, width);
  std::vector<Word> below(rows * p.v), widths(rows * p.v);
  for (Int first = 0; first < rows; first += width) {
    Encoder coder{codes, below.data(), widths.data(), p.v, first};
    const Int count = std::min(width, rows - first);
    if (count > kFewRows)
      run_best<Walk>(p, width, count, &scratch, &coder);
    else
      for (; coder.first < rows; ++coder.first) run_best<NodeWalk>(p, &scratch, &coder);
  }
  *size = std::min(lanes, rows) == 1
              ? write_alone(below.data(), widths.data(), rows * p.v, out)
              : write_lanes(below.data(), widths.data(), rows, p.v, std::min(lanes, rows), out, capacity);
  memset(out + *size, 0, capacity - *size);
}

Damage decode_chunk(const Program& p, const std::uint8_t* in, Int bytes, Int rows, Int most_lanes,
                    std::int32_t* codes) {
  const Int lanes = std::min(most_lanes, rows), width = padded(lanes);
  const bool single = lanes == 1;
  const Int head = single ? 0 : 8 * lanes;
  if (bytes < head) return Damage::kShort;
  std::vector<std::uint64_t> states(lanes, kLower);
  memcpy(states.data(), in, head);
  if (*std::min_element(states.begin(), states.end()) < kLower) return Damage::kState;
  RangeDecoder alone{in, bytes};
  alone.start();
  Scratch scratch = scratch_for(p, width);
  Decoder coder{codes, states.data(), single ? &alone : nullptr, in + head, in + bytes, p.v, 0};
  for (; coder.first < rows && !coder.is_short; coder.first += lanes)
    if (single)
      run_best<NodeWalk>(p, &scratch, &coder);
    else
      run_best<Walk>(p, width, std::min(lanes, rows - coder.first), &scratch, &coder);
  if (single) return alone.finish();
  if (coder.is_short) return Damage::kShort;
  for (auto state : states)
    if (state != kLower) return Damage::kState;
  return coder.at == coder.end ? Damage::kNone : Damage::kLeft;
}

Program program_of(const void* code, const void* weights, const void* tables, const void* variables, Int rows,
                   Int registers, Int v) {
  return {static_cast<const Instruction*>(code),
          static_cast<const float*>(weights),
          static_cast<const std::uint16_t*>(tables),
          static_cast<const Variable*>(variables),
          rows,
          registers,
          v};
}

}  // namespace

void program_encode_cpu(const void* code, const void* weights, const void* tables, const void* variables,
                        const void* codes, void* payload, void* sizes, Int rows, Int registers, Int v, Int n, Int each,
                        Int lanes, Int capacity, Threads threads) {
  const Program p = program_of(code, weights, tables, variables, rows, registers, v);
  const Int chunks = (n + each - 1) / each;
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (chunks > 1)
  for (Int i = 0; i < chunks; ++i)
    encode_chunk(p, static_cast<const std::int32_t*>(codes) + i * each * v, std::min(each, n - i * each), lanes,
                 static_cast<std::uint8_t*>(payload) + i * capacity, capacity, static_cast<Int*>(sizes) + i);
}

void program_decode_cpu(const void* code, const void* weights, const void* tables, const void* variables,
                        const void* payload, const void* offsets, const void* starts, void* codes, void* damage,
                        Int rows, Int registers, Int v, Int chunks, Int lanes, Threads threads) {
  const Program p = program_of(code, weights, tables, variables, rows, registers, v);
  const Int *bytes = static_cast<const Int*>(offsets), *first = static_cast<const Int*>(starts);
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (chunks > 1)
  for (Int i = 0; i < chunks; ++i)
    static_cast<Int*>(damage)[i] =
        Int(decode_chunk(p, static_cast<const std::uint8_t*>(payload) + bytes[i], bytes[i + 1] - bytes[i],
                         first[i + 1] - first[i], lanes, static_cast<std::int32_t*>(codes) + first[i] * v));
}

}  // namespace pk
