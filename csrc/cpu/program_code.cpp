// Codes rows of data with a compiled circuit on the CPU. Lanes of SIMD are rows of data, so that no sum is ever
// reordered; threads take chunks. Every instruction set gives the same bytes. Equations:
// python/probkernels/reference/program_code.py.
#include <algorithm>
#include <cstring>
#include <vector>

#include "pk/launch.h"
#include "pk/program.h"
#include "pk/range_coder.h"
#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;
using Word = std::uint32_t;

// a * b + c with one rounding. Without the instruction: in double the product is exact, and the sum is rounded to odd,
// which makes the second rounding, to float, that of the exact sum. Nothing here is negative.
inline float fma_exactly(float a, float b, float c) {
  const double p = double(a) * double(b), s = p + double(c), t = s - p, error = (p - (s - t)) + (double(c) - t);
  std::uint64_t bits;
  memcpy(&bits, &s, 8);
  if (error != 0 && !(bits & 1)) bits += error > 0 ? 1 : -1;
  double odd;
  memcpy(&odd, &bits, 8);
  return float(odd);
}

template <int B>
PK_HD void add_product(Vec<float, B>& sum, const Vec<float, B>& x, float w) {
  for (int i = 0; i < sum.kRegisters; ++i) {
#if defined(__x86_64__) && defined(__GNUC__)
    if constexpr (B > 16) {  // GCC does not vectorise __builtin_fmaf
      const typename Vec<float, B>::Register all = typename Vec<float, B>::Register{} + w;
      asm("vfmadd231ps %2, %1, %0" : "+v"(sum.part[i]) : "v"(x.part[i]), "v"(all));
      continue;
    }
#endif
    for (int k = 0; k < sum.kWidth; ++k) sum.part[i][k] = fma_exactly(x.part[i][k], w, sum.part[i][k]);
  }
}

template <int B>
PK_HD Vec<float, B> flushed(Vec<float, B> x) {
  const typename Vec<float, B>::Register zero{};
  for (int i = 0; i < x.kRegisters; ++i) x.part[i] = x.part[i] < zero + kLeast ? zero : x.part[i];
  return x;
}

// The coders of symbols see mixture weights w (K) of one row and what row it is, and say which value it has.
struct Encoder {
  const std::int32_t* codes;  // (rows, V) from the chunk's first
  Word* below;                // (rows, V), in the order of coding
  Word* width;
  Int v, first;
  PK_HD Int operator()(const Program& p, Int variable, Int turn, Int g, const Word* w) {
    const Variable& var = p.variables[variable];
    const std::uint16_t* table = p.tables + var.table;
    const Int row = first + g, x = codes[row * v + variable];
    const Word low = cumulative(w, table + x * var.units, var.units);
    const Word high = x + 1 < var.categories ? cumulative(w, table + (x + 1) * var.units, var.units) : 1u << kBits;
    below[row * v + turn] = low;
    width[row * v + turn] = high - low;
    return x;
  }
  PK_HD static Word cumulative(const Word* w, const std::uint16_t* counts, Int n) {
    Word sum = 0;
    for (Int k = 0; k < n; ++k) sum += w[k] * Word(counts[k]);
    return sum >> 8;
  }
};

struct Decoder {
  std::int32_t* codes;
  std::uint64_t* states;  // (lanes)
  RangeDecoder* alone;    // instead of the states, if there is one lane
  const std::uint8_t *at, *end;
  Int v, first;
  bool is_short = false;
  PK_HD Int operator()(const Program& p, Int variable, Int, Int g, const Word* w) {
    const Variable& var = p.variables[variable];
    const std::uint16_t* table = p.tables + var.table;
    const Word slot = alone ? alone->slot() : Word(states[g]) & ((1u << kBits) - 1);
    const auto upper = [&](Int x) PK_INLINE {
      return x < var.categories ? Encoder::cumulative(w, table + x * var.units, var.units) : 1u << kBits;
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
    while (high - low > 1) probe((low + high) >> 1);
    codes[(first + g) * v + variable] = std::int32_t(low);
    if (alone)
      alone->take(below, above - below);
    else
      states[g] = filled(rans_pop(states[g], below, above - below));
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

struct Scratch {
  std::vector<float> registers;  // (registers, lanes)
  std::vector<float> shares;     // (units, 16)
  std::vector<Word> mixed;       // (16, units)
  std::vector<Int> values;       // (lanes): of the variable coded last
};

// Runs the program for rows of data side by side: `width` lanes, of which `count` are in use.
struct Walk {
  template <int B, class Coder>
  PK_HD static void run(const Program& p, Int width, Int count, Scratch* s, Coder* coder) {
    float* const r = s->registers.data();
    Int turn = 0;
    for (Int row = 0; row < p.rows; ++row) {
      const Instruction in = p.code[row];
      if (in.op == ProgramOp::kCode) {
        code<B>(p, in, width, count, *s, *coder, turn++);
      } else if (in.op == ProgramOp::kLeaf) {
        leaf(p, in, width, count, *s);
      } else {
        for (Int at = 0; at < width; at += kLanes) arithmetic<B>(p, in, width, r + at);
      }
    }
  }

  template <int B>
  PK_HD static void arithmetic(const Program& p, const Instruction& in, Int width, float* r) {
    switch (in.op) {
      case ProgramOp::kMatvec:
        return matvec<B>(p, in, width, r);
      case ProgramOp::kMultiply:
        return multiply<B>(in, width, r);
      case ProgramOp::kRescale:
        return rescale<B>(in, width, r);
      case ProgramOp::kContract:
        return contract<B>(in, width, r);
      case ProgramOp::kOuter:
        for (Int i = 0; i < in.n; ++i) {
          const auto a = load_vec<B>(r + (in.a + i) * width);
          for (Int j = 0; j < in.m; ++j)
            store_vec(r + (in.dst + i * in.m + j) * width, flushed<B>(a * load_vec<B>(r + (in.b + j) * width)));
        }
        return;
      default:
        for (Int k = 0; k < in.n; ++k) store_vec(r + (in.dst + k) * width, Vec<float, B>{} + 1.0f);
    }
  }

  template <int B, int N>
  PK_HD static void matvec_block(const Program& p, const Instruction& in, Int width, float* r, Int k) {
    Vec<float, B> sum[N];
    for (int i = 0; i < N; ++i) sum[i] = in.more ? load_vec<B>(r + (in.dst + k + i) * width) : Vec<float, B>{};
    const float* w = p.weights + in.b + k * in.step;
    for (Int j = 0; j < in.m; ++j, w += in.stride) {
      const auto x = load_vec<B>(r + (in.a + j) * width);
      for (int i = 0; i < N; ++i) add_product<B>(sum[i], x, w[i * Int(in.step)]);
    }
    for (int i = 0; i < N; ++i) store_vec(r + (in.dst + k + i) * width, flushed<B>(sum[i]));
  }

  template <int B>
  PK_HD static void matvec(const Program& p, const Instruction& in, Int width, float* r) {
    constexpr int kBlock = B / 8;  // sums at a time: registers for eight vectors
    Int k = 0;
    for (; k + kBlock <= in.n; k += kBlock) matvec_block<B, kBlock>(p, in, width, r, k);
    for (; k < in.n; ++k) matvec_block<B, 1>(p, in, width, r, k);
  }

  template <int B>
  PK_HD static void multiply(const Instruction& in, Int width, float* r) {
    for (Int k = 0; k < in.n; ++k) {
      auto x = load_vec<B>(r + (in.a + k) * width);
      if (in.b >= 0) x = flushed<B>(x * load_vec<B>(r + (in.b + k) * width));
      float* const to = r + (in.dst + k) * width;
      store_vec(to, in.more ? load_vec<B>(to) + x : x);
    }
  }

  template <int B>
  PK_HD static void contract(const Instruction& in, Int width, float* r) {
    for (Int k = 0; k < in.n; ++k) {
      float* const to = r + (in.dst + k) * width;
      Vec<float, B> sum = in.more ? load_vec<B>(to) : Vec<float, B>{};
      for (Int j = 0; j < in.m; ++j) {
        const auto x = load_vec<B>(r + (in.a + k * in.step + j * in.stride) * width);
        sum += in.b < 0 ? x : flushed<B>(x * load_vec<B>(r + (in.b + j) * width));
      }
      store_vec(to, sum);
    }
  }

  // By the power of two that brings the largest into [1, 2); all ones if all are zero.
  template <int B>
  PK_HD static void rescale(const Instruction& in, Int width, float* r) {
    using Register = typename Vec<float, B>::Register;
    typedef std::int32_t Bits __attribute__((vector_size(B)));
    auto most = load_vec<B>(r + in.dst * width);
    for (Int k = 1; k < in.n; ++k) {
      const auto x = load_vec<B>(r + (in.dst + k) * width);
      for (int i = 0; i < x.kRegisters; ++i) most.part[i] = most.part[i] > x.part[i] ? most.part[i] : x.part[i];
    }
    const Register zero{};
    Vec<float, B> scale;
    for (int i = 0; i < scale.kRegisters; ++i) {
      Bits exponent;
      memcpy(&exponent, &most.part[i], B);
      exponent >>= 23;
      const Bits bits = (254 - (exponent < 253 ? exponent : Bits{} + 253)) << 23;
      memcpy(&scale.part[i], &bits, B);
    }
    for (Int k = 0; k < in.n; ++k) {
      auto x = flushed<B>(load_vec<B>(r + (in.dst + k) * width) * scale);
      for (int i = 0; i < x.kRegisters; ++i) x.part[i] = most.part[i] == zero ? zero + 1.0f : x.part[i];
      store_vec(r + (in.dst + k) * width, x);
    }
  }

  PK_HD static void leaf(const Program& p, const Instruction& in, Int width, Int count, Scratch& s) {
    const Variable& var = p.variables[in.m];
    float* const to = s.registers.data() + in.dst * width;
    for (Int g = 0; g < count; ++g) {
      const std::uint16_t* low = p.tables + var.table + s.values[g] * var.units + in.stride;
      if (s.values[g] + 1 < var.categories)
        for (Int k = 0; k < in.n; ++k) to[k * width + g] = float(std::int32_t(low[var.units + k]) - low[k]);
      else
        for (Int k = 0; k < in.n; ++k) to[k * width + g] = float(65536 - low[k]);
    }
  }

  // Mixture weights as whole numbers, 65536 in all, and the symbols of one variable.
  template <int B, class Coder>
  PK_HD static void code(const Program& p, const Instruction& in, Int width, Int count, Scratch& s, Coder& coder,
                         Int turn) {
    const Int n = in.n;
    for (Int first = 0; first < count; first += kLanes) {
      const float* const a = s.registers.data() + in.a * width + first;
      auto sum = load_vec<B>(a);
      for (Int k = 1; k < n; ++k) sum += load_vec<B>(a + k * width);
      alignas(64) float total[kLanes], inverse[kLanes];
      store_vec(total, sum);
      for (int g = 0; g < kLanes; ++g) inverse[g] = 65536.0f / total[g];
      const auto scale = load_vec<B>(static_cast<const float*>(inverse));
      float* const shares = s.shares.data();
      for (Int k = 0; k < n; ++k) store_vec(shares + k * kLanes, load_vec<B>(a + k * width) * scale);
      const Int used = std::min(count - first, Int(kLanes));
      for (Int g = 0; g < used; ++g) {
        Word* const w = s.mixed.data();
        const bool usable = total[g] > 0 && total[g] < 3e38f;
        for (Int k = 0; k < n; ++k) w[k] = usable ? Word(std::int32_t(shares[k * kLanes + g])) : Word(65536 / n);
        Word all = 0, most = 0;
        for (Int k = 0; k < n; ++k) all += w[k], most = std::max(most, w[k]);
        Int best = 0;
        while (w[best] != most) ++best;
        w[best] += 65536u - all;
        s.values[first + g] = coder(p, in.m, turn, first + g, w);
      }
    }
  }
};

Int padded(Int lanes) { return (lanes + kLanes - 1) / kLanes * kLanes; }

Scratch scratch_for(const Program& p, Int width) {
  Int units = 1;
  for (Int i = 0; i < p.v; ++i) units = std::max(units, p.variables[i].units);
  return {std::vector<float>(p.registers * width), std::vector<float>(units * kLanes), std::vector<Word>(units),
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
        states[g] = rans_push(states[g], below[i], width[i], emit);
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
    run_best<Walk>(p, width, std::min(width, rows - first), &scratch, &coder);
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
