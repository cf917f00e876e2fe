// The walk through a compiled circuit on the CPU. Lanes of SIMD are rows of data, so that no sum is ever reordered.
// Loops over sixteen are left to the compiler where they are not sums. Equations:
// python/probkernels/reference/program_code.py.
#pragma once
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "pk/program.h"
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

// f(0), f(1), ... as constants: what arrays are indexed by those can stay in registers.
template <int... I, class F>
PK_HD void unrolled(std::integer_sequence<int, I...>, F&& f) {
  (f(Const<I>{}), ...);
}

template <int B>
PK_HD void add_product(Vec<float, B>& sum, const Vec<float, B>& x, float w) {
  unrolled(std::make_integer_sequence<int, Vec<float, B>::kRegisters>{}, [&](auto i) PK_INLINE {
#if defined(__x86_64__) && defined(__GNUC__)
    if constexpr (B > 16) {  // GCC does not vectorize __builtin_fmaf
      const typename Vec<float, B>::Register all = w - typename Vec<float, B>::Register{};
      asm("vfmadd231ps %2, %1, %0" : "+v"(sum.part[i]) : "v"(x.part[i]), "v"(all));
      return;
    }
#endif
    for (int k = 0; k < sum.kWidth; ++k) sum.part[i][k] = fma_exactly(x.part[i][k], w, sum.part[i][k]);
  });
}

template <int B>
PK_HD Vec<float, B> flushed(Vec<float, B> x) {
  const typename Vec<float, B>::Register zero{};
  for (int i = 0; i < x.kRegisters; ++i) x.part[i] = x.part[i] < zero + kLeast ? zero : x.part[i];
  return x;
}

// to[k * to_step + g] = from[g * from_step + k] for sixteen g and k, four by four.
template <class T>
PK_HD void transpose(const T* from, Int from_step, T* to, Int to_step) {
  typedef Word Four __attribute__((vector_size(16)));
#if defined(__clang__) || __GNUC__ >= 12
#define PK_SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define PK_SHUFFLE(x, y, ...) __builtin_shuffle(x, y, Four{__VA_ARGS__})
#endif
  for (int i = 0; i < kLanes; i += 4)
    for (int j = 0; j < kLanes; j += 4) {
      Four row[4];
      for (int k = 0; k < 4; ++k) memcpy(&row[k], from + (i + k) * from_step + j, 16);
      const Four a = PK_SHUFFLE(row[0], row[1], 0, 4, 1, 5), b = PK_SHUFFLE(row[0], row[1], 2, 6, 3, 7);
      const Four c = PK_SHUFFLE(row[2], row[3], 0, 4, 1, 5), d = PK_SHUFFLE(row[2], row[3], 2, 6, 3, 7);
      const Four column[4] = {PK_SHUFFLE(a, c, 0, 1, 4, 5), PK_SHUFFLE(a, c, 2, 3, 6, 7), PK_SHUFFLE(b, d, 0, 1, 4, 5),
                              PK_SHUFFLE(b, d, 2, 3, 6, 7)};
      for (int k = 0; k < 4; ++k) memcpy(to + (j + k) * to_step + i, &column[k], 16);
    }
#undef PK_SHUFFLE
}

template <int B>
PK_HD Vec<Word, B> load_counts(const std::uint16_t* p) {
  typedef std::uint16_t Half __attribute__((vector_size(B / 2)));
  Vec<Word, B> v;
  for (int i = 0; i < v.kRegisters; ++i) {
    Half half;
    memcpy(&half, p + i * v.kWidth, B / 2);
    v.part[i] = __builtin_convertvector(half, typename Vec<Word, B>::Register);
  }
  return v;
}

template <int B>
PK_HD Vec<float, B> as_floats(const Vec<Word, B>& x) {  // of less than 2^31
  typedef std::int32_t Signed __attribute__((vector_size(B)));
  Vec<float, B> v;
  for (int i = 0; i < v.kRegisters; ++i)
    v.part[i] = __builtin_convertvector(Signed(x.part[i]), typename Vec<float, B>::Register);
  return v;
}

// Rounded down; 0 for what is no number or 131072 and more.
template <int B>
PK_HD Vec<Word, B> as_words(const Vec<float, B>& x) {
  typedef std::int32_t Signed __attribute__((vector_size(B)));
  using Register = typename Vec<float, B>::Register;
  Vec<Word, B> v;
  for (int i = 0; i < v.kRegisters; ++i) {
    const Register some = x.part[i] < Register{} + 131072.0f ? x.part[i] : Register{};
    v.part[i] = typename Vec<Word, B>::Register(__builtin_convertvector(some, Signed));
  }
  return v;
}

template <int B>
PK_HD Vec<Word, B> products(const Word* w, const std::uint16_t* counts) {
  Vec<Word, B> weights;
  memcpy(&weights, w, sizeof(weights));
  return weights * load_counts<B>(counts);
}

// Of 2^24: the share of the values below x, given mixture weights w (n) and a table (categories, n). Every value has
// one besides its counts.
template <int B>
PK_HD Word cumulative(const Word* w, const std::uint16_t* table, Int x, Int n) {
  const std::uint16_t* const counts = table + x * n;
  if (n == kLanes) return (sum_lanes(products<B>(w, counts)) >> 8) + Word(x);
  Vec<Word, B> all{};
  Int k = 0;
  for (; k + kLanes <= n; k += kLanes) all += products<B>(w + k, counts + k);
  Word sum = sum_lanes(all);
  for (; k < n; ++k) sum += w[k] * Word(counts[k]);
  return (sum >> 8) + Word(x);
}

struct Scratch {
  std::vector<float> registers;  // (registers, lanes)
  std::vector<Word> shares;      // (units, 16)
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
        leaf<B>(p, in, width, count, *s);
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

  // Sums k, k + 1, ..., named one by one, so that they stay in registers.
  template <int B, int... I>
  PK_HD static void matvec_block(const Program& p, const Instruction& in, Int width, float* r, Int k,
                                 std::integer_sequence<int, I...>) {
    Vec<float, B> sum[sizeof...(I)];
    ((sum[I] = in.more ? load_vec<B>(r + (in.dst + k + I) * width) : Vec<float, B>{}), ...);
    const float* w = p.weights + in.b + k * in.step;
    const Int step = in.step;
    for (Int j = 0; j < in.m; ++j, w += in.stride) {
      const auto x = load_vec<B>(r + (in.a + j) * width);
      (add_product<B>(sum[I], x, w[I * step]), ...);
    }
    (store_vec(r + (in.dst + k + I) * width, flushed<B>(sum[I])), ...);
  }

  template <int B>
  PK_HD static void matvec(const Program& p, const Instruction& in, Int width, float* r) {
    constexpr int kBlock = B / 8;  // sums at a time: registers for eight vectors
    Int k = 0;
    for (; k + kBlock <= in.n; k += kBlock)
      matvec_block<B>(p, in, width, r, k, std::make_integer_sequence<int, kBlock>{});
    for (; k < in.n; ++k) matvec_block<B>(p, in, width, r, k, std::integer_sequence<int, 0>{});
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

  // 65536 times the probability of each row's value under n units.
  template <int B>
  PK_HD static void leaf(const Program& p, const Instruction& in, Int width, Int count, Scratch& s) {
    const Variable& var = p.variables[in.m];
    for (Int first = 0; first < count; first += kLanes) {
      float* const to = s.registers.data() + in.dst * width + first;
      const int used = int(std::min(count - first, Int(kLanes)));
      const std::uint16_t* low[kLanes];
      for (int g = 0; g < kLanes; ++g)
        low[g] = p.tables + var.table + s.values[first + std::min(g, used - 1)] * var.units + in.stride;
      const std::uint16_t* const last = p.tables + var.table + (var.categories - 1) * var.units;
      const Word end = (Word(1) << kBits) - Word(var.categories - 1);
      Int k = 0;
      for (; k + kLanes <= in.n; k += kLanes) {
        alignas(64) float widths[kLanes * kLanes];
        for (int g = 0; g < kLanes; ++g) {
          const auto below = load_counts<B>(low[g] + k) * Word(256);
          const auto above =
              low[g] < last ? load_counts<B>(low[g] + var.units + k) * Word(256) + Word(1) : Vec<Word, B>{} + end;
          store_vec(widths + g * kLanes, as_floats<B>(above - below) * kUnit);
        }
        transpose(widths, kLanes, to + k * width, width);
      }
      for (; k < in.n; ++k)
        for (int g = 0; g < kLanes; ++g)
          to[k * width + g] =
              kUnit * float(std::int32_t((low[g] < last ? 256u * low[g][var.units + k] + 1 : end) - 256u * low[g][k]));
    }
  }

  // Mixture weights as whole numbers, 65536 in all, and the symbols of one variable.
  template <int B, class Coder>
  PK_HD static void code(const Program& p, const Instruction& in, Int width, Int count, Scratch& s, Coder& coder,
                         Int turn) {
    for (Int first = 0; first < count; first += kLanes) {
      coder.prefetch(p, in.m, first, std::min(count, first + kLanes));
      mixture<B>(s.registers.data() + in.a * width + first, width, in.n, s);
      const Int used = std::min(count - first, Int(kLanes));
      for (Int g = 0; g < used; ++g)
        s.values[first + g] =
            coder.template operator()<B>(p, in.m, turn, first + g, static_cast<const Word*>(s.mixed.data()) + g * in.n);
    }
  }

  // The weights of sixteen rows, into s.mixed: n of the first row, n of the second, ...
  template <int B>
  PK_HD static void mixture(const float* a, Int width, Int n, Scratch& s) {
    auto sum = load_vec<B>(a);
    for (Int k = 1; k < n; ++k) sum += load_vec<B>(a + k * width);
    alignas(64) float total[kLanes];
    store_vec(total, sum);
    Vec<Word, B> all{}, most{}, best{};
    Word* const shares = s.shares.data();
    for (int i = 0; i < sum.kRegisters; ++i) sum.part[i] = 65536.0f / sum.part[i];
    for (Int k = 0; k < n; ++k) {
      const auto w = as_words<B>(load_vec<B>(a + k * width) * sum);
      memcpy(shares + k * kLanes, &w, sizeof(w));
      all += w;
      for (int i = 0; i < w.kRegisters; ++i) {
        best.part[i] = w.part[i] > most.part[i] ? Word(k) + typename Vec<Word, B>::Register{} : best.part[i];
        most.part[i] = w.part[i] > most.part[i] ? w.part[i] : most.part[i];
      }
    }
    alignas(64) Word sums[kLanes], places[kLanes];
    memcpy(sums, &all, sizeof(all));
    memcpy(places, &best, sizeof(best));
    for (int g = 0; g < kLanes; ++g) {
      if (!(total[g] > 0 && total[g] < 3e38f)) {  // of no use: all alike
        for (Int k = 0; k < n; ++k) shares[k * kLanes + g] = Word(65536 / n);
        sums[g] = Word(65536 / n * n), places[g] = 0;
      }
      shares[places[g] * kLanes + g] += 65536u - sums[g];
    }
    Word* const to = s.mixed.data();
    Int k = 0;
    for (; k + kLanes <= n; k += kLanes) transpose(shares + k * kLanes, kLanes, to + k, n);
    for (; k < n; ++k)
      for (int g = 0; g < kLanes; ++g) to[g * n + k] = shares[k * kLanes + g];
  }
};

}  // namespace
}  // namespace pk
