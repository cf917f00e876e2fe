// Random numbers as a function of a counter: Philox4x32-10 (Salmon et al., SC 2011), and uniform and normal numbers of
// its words. Every operation is one that IEEE 754 rounds (+, *, fma, /, sqrt), none is left to a math library and none
// is fused by the compiler, so that CPU, GPU and python/probkernels/reference/philox.py give the same bits. Without
// branches, so that loops over counters vectorize. Sources that include this are compiled with -ffp-contract=off.
#pragma once
#include <cmath>
#include <cstdint>

#include "pk/dtype.h"

namespace pk {

struct Words {
  std::uint32_t word[4];
};

PK_HD Words philox(Words counter, std::uint32_t key0, std::uint32_t key1) {
  std::uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t(c0) * 0xD2511F53u, second = std::uint64_t(c2) * 0xCD9E8D57u;
    c0 = std::uint32_t(second >> 32) ^ c1 ^ key0;
    c1 = std::uint32_t(second);
    c2 = std::uint32_t(first >> 32) ^ c3 ^ key1;
    c3 = std::uint32_t(first);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Which numbers the rows of a tensor get: the seed is the key; a row, the step and a quarter of the index in the row
// are the counter. Rows that have seeds of their own all count as row 0: no number depends on where its row lies.
struct Seeds {
  const std::int64_t* of_rows;  // null: one seed for all rows, which are numbered from `row` on
  std::int64_t seed, row, step;

  PK_HD std::int64_t key(std::int64_t b) const { return of_rows ? of_rows[b] : seed; }
  PK_HD std::uint32_t number(std::int64_t b) const { return of_rows ? 0u : std::uint32_t(row + b); }
  // The words of elements 4 c .. 4 c + 3 of row b.
  PK_HD Words words(std::int64_t b, std::int64_t c) const {
    const std::int64_t k = key(b);
    return philox({{std::uint32_t(c), number(b), std::uint32_t(step), std::uint32_t(step >> 32)}}, std::uint32_t(k),
                  std::uint32_t(k >> 32));
  }
};

// --- arithmetic that no compiler changes ---

#ifdef __CUDA_ARCH__
PK_HD float mul(float a, float b) { return __fmul_rn(a, b); }
PK_HD double mul(double a, double b) { return __dmul_rn(a, b); }
PK_HD float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
PK_HD double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
PK_HD float quotient(float a, float b) { return __fdiv_rn(a, b); }
PK_HD double quotient(double a, double b) { return __ddiv_rn(a, b); }
PK_HD float root(float a) { return __fsqrt_rn(a); }
PK_HD double root(double a) { return __dsqrt_rn(a); }
#else
PK_HD float mul(float a, float b) { return a * b; }
PK_HD double mul(double a, double b) { return a * b; }
PK_HD float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
PK_HD double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
PK_HD float quotient(float a, float b) { return a / b; }
PK_HD double quotient(double a, double b) { return a / b; }
PK_HD float root(float a) { return __builtin_sqrtf(a); }
PK_HD double root(double a) { return __builtin_sqrt(a); }
#endif

// --- uniform numbers ---

// In [0, 1), of as many leading bits of a word as T can hold: exact, and never rounded up to 1.
template <class T>
struct UniformBits {
  static constexpr int kBits = 32;
};
template <>
struct UniformBits<float> {
  static constexpr int kBits = 24;
};
template <>
struct UniformBits<half> {
  static constexpr int kBits = 11;
};
template <>
struct UniformBits<bfloat16> {
  static constexpr int kBits = 8;
};
template <class T>
PK_HD acc_t<T> uniform(std::uint32_t word) {
  constexpr int kBits = UniformBits<T>::kBits;
  // As 31 bits and one: vector units convert signed integers.
  const std::uint32_t kept = word >> (32 - kBits);
  using A = acc_t<T>;
  const A value = kBits == 32 ? A(std::int32_t(kept >> 1)) + mul(A(std::int32_t(kept & 1u)), A(0.5))
                              : mul(A(std::int32_t(kept)), A(0.5));
  return mul(value, A(1) / A(std::uint64_t(1) << (kBits - 1)));
}

// --- normal numbers: Box and Muller ---

template <class A>
struct NormalMath;
template <>
struct NormalMath<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissa = 23, kBias = 127, kSineTerms = 4, kCosineTerms = 5, kLogTerms = 4;
  static constexpr float kLn2High = 0x1.62e000p-1f, kLn2Low = 0x1.0bfbe8p-15f;
  static constexpr Bits kRootHalf = 0x3f3504f3u, kOne = 0x3f800000u;
  PK_HD static constexpr float log_term(int i) {
    constexpr float terms[kLogTerms] = {0xaaaaaa.0p-24f, 0xccce13.0p-25f, 0x91e9ee.0p-25f, 0xf89e26.0p-26f};
    return terms[i];
  }
};
template <>
struct NormalMath<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kSineTerms = 8, kCosineTerms = 8, kLogTerms = 7;
  static constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr Bits kRootHalf = 0x3fe6a09e667f3bcdu, kOne = 0x3ff0000000000000u;
  PK_HD static constexpr double log_term(int i) {
    constexpr double terms[kLogTerms] = {0x1.5555555555593p-1, 0x1.999999997fa04p-2, 0x1.2492494229359p-2,
                                         0x1.c71c51d8e78afp-3, 0x1.7466496cb03dep-3, 0x1.39a09d078c69fp-3,
                                         0x1.2f112df3e5244p-3};
    return terms[i];
  }
};

// a where mask has all bits, b where it has none: a choice that no compiler makes a branch.
template <class A, class Bits = typename NormalMath<A>::Bits>
PK_HD A select(Bits mask, A a, A b) {
  const Bits x = bit_cast<Bits>(a), y = bit_cast<Bits>(b);
  return bit_cast<A>(Bits((x & mask) | (y & ~mask)));
}
// -a if bit is 1.
template <class A, class Bits = typename NormalMath<A>::Bits>
PK_HD A negated(Bits bit, A a) {
  return bit_cast<A>(Bits(bit_cast<Bits>(a) ^ (bit << (8 * sizeof(A) - 1))));
}

// +-1 / n!, the sign that of Taylor's series of sine and cosine.
PK_HD constexpr double taylor(int n) {
  double factorial = 1;
  for (int k = 2; k <= n; ++k) factorial *= k;
  return (n / 2 % 2 ? -1.0 : 1.0) / factorial;
}

// Log of 2^k (1 + f) with 1 + f between the roots of 1/2 and 2.
template <class A>
PK_HD A log_of_parts(A k, A f) {
  using M = NormalMath<A>;
  const A s = quotient(f, f + A(2)), z = mul(s, s), half_square = mul(mul(f, f), A(0.5));
  A sum = M::log_term(M::kLogTerms - 1);
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 8
#endif
  for (int i = M::kLogTerms - 2; i >= 0; --i) sum = fused(sum, z, M::log_term(i));
  const A rest = fused(s, fused(sum, z, half_square), mul(k, M::kLn2Low));
  return fused(k, M::kLn2High, f - (half_square - rest));
}

// A positive normal number as 2^k (1 + f), as above; returns k.
template <class A>
PK_HD std::int32_t parts_of(A value, A* f) {
  using M = NormalMath<A>;
  using Bits = typename M::Bits;
  const Bits bits = bit_cast<Bits>(value) + (M::kOne - M::kRootHalf);
  *f = bit_cast<A>(Bits((bits & ((Bits(1) << M::kMantissa) - 1)) + M::kRootHalf)) - A(1);
  return std::int32_t(bits >> M::kMantissa) - M::kBias;
}

// (A word's 31 leading bits + 1/2) / 2^31, in (0, 1]; of ~word it is 1 minus that, of which u near 1 has lost digits.
template <class A>
PK_HD A middle(std::uint32_t word) {
  return mul(A(std::int32_t(word >> 1)) + A(0.5), A(0x1p-31));
}

// sqrt(-2 log u) of a word's u.
template <class A>
PK_HD A radius(std::uint32_t word) {
  A near;
  const std::int32_t exponent = parts_of(middle<A>(word), &near);  // at most 0
  using Bits = typename NormalMath<A>::Bits;
  const A f = select(Bits(exponent >> 31), near, -middle<A>(~word));
  return root(mul(log_of_parts(A(exponent), f), A(-2)));
}

// Cosine and sine of word / 2^32 turns.
template <class A>
PK_HD void turn(std::uint32_t word, A* cosine, A* sine) {
  using M = NormalMath<A>;
  const std::uint32_t quarters = (word + (1u << 29)) >> 30;
  // 2 pi / 2^32; within pi / 4
  const A r = mul(A(std::int32_t(word - (quarters << 30))), A(1.4629180792671596e-09)), z = mul(r, r);
  constexpr double kSine[] = {taylor(1),  taylor(3),  taylor(5),  taylor(7), taylor(9),
                              taylor(11), taylor(13), taylor(15), taylor(17)};
  constexpr double kCosine[] = {taylor(0),  taylor(2),  taylor(4),  taylor(6), taylor(8),
                                taylor(10), taylor(12), taylor(14), taylor(16)};
  A s = A(kSine[M::kSineTerms]), c = A(kCosine[M::kCosineTerms]);
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 8
#endif
  for (int k = M::kSineTerms - 1; k > 0; --k) s = fused(s, z, A(kSine[k]));
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 8
#endif
  for (int k = M::kCosineTerms - 1; k >= 0; --k) c = fused(c, z, A(kCosine[k]));
  s = fused(mul(s, z), r, r);
  using Bits = typename M::Bits;
  const Bits swaps = Bits(0) - Bits(quarters & 1u);
  *cosine = negated(Bits((quarters + 1u) >> 1 & 1u), select(swaps, s, c));
  *sine = negated(Bits(quarters >> 1 & 1u), select(swaps, c, s));
}

// z[0], z[1]: two normal numbers of two words.
template <class A>
PK_HD void box_muller(std::uint32_t first, std::uint32_t second, A* z) {
  const A r = radius<A>(first);
  A cosine, sine;
  turn(second, &cosine, &sine);
  z[0] = mul(r, cosine);
  z[1] = mul(r, sine);
}

}  // namespace pk
