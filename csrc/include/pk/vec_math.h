// exp, log, tanh, asin, square roots and max of Vec, without branches or calls, so that they are compiled for the
// kernel's instruction set. Errors are below 1.5 units in the last place (asin: 2.5, tanh: 3;
// tests/core/test_vec_math.py); NaN gives NaN.
#pragma once
#include <limits>

#include "pk/vec.h"

namespace pk {

// How a floating-point number is laid out, and what the functions below need of its type.
template <class A>
struct MathOf;
template <>
struct MathOf<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissa = 23, kBias = 127, kExpTerms = 8;
  static constexpr float kRound = 0x1.8p23f;                  // adding it rounds to an integer, in the lowest bits
  static constexpr float kExpLow = -87.5f, kExpHigh = 89.0f;  // 0 and infinity beyond
  static constexpr float kLn2High = 0x1.62e000p-1f, kLn2Low = 0x1.0bfbe8p-15f;
  static constexpr Bits kRootHalf = 0x3f3504f3u, kOne = 0x3f800000u;
  static constexpr float kLog[4] = {0xaaaaaa.0p-24f, 0xccce13.0p-25f, 0x91e9ee.0p-25f, 0xf89e26.0p-26f};
  static constexpr float kHalfPiHigh = 0x1.921fb6p+0f, kHalfPiLow = -0x1.777a5cp-25f;
  static constexpr float kAsin[6] = {0x1.555554p-3f, 0x1.333432p-4f, 0x1.6d5b8ep-5f,
                                     0x1.fd921ap-6f, 0x1.18e1f6p-6f, 0x1.14138cp-5f};
};
template <>
struct MathOf<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kExpTerms = 14;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kExpLow = -708.2, kExpHigh = 710.0;
  static constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr Bits kRootHalf = 0x3fe6a09e667f3bcdu, kOne = 0x3ff0000000000000u;
  static constexpr double kLog[7] = {0x1.5555555555593p-1, 0x1.999999997fa04p-2, 0x1.2492494229359p-2,
                                     0x1.c71c51d8e78afp-3, 0x1.7466496cb03dep-3, 0x1.39a09d078c69fp-3,
                                     0x1.2f112df3e5244p-3};
  static constexpr double kHalfPiHigh = 0x1.921fb54442d18p+0, kHalfPiLow = 0x1.1a62633145c07p-54;
  static constexpr double kAsin[13] = {
      0x1.5555555555556p-3, 0x1.3333333332ec4p-4,  0x1.6db6db6e3292ep-5, 0x1.f1c71c1d4aa0dp-6, 0x1.6e8bb1d89492bp-6,
      0x1.1c4d343fa57f6p-6, 0x1.c9cf3759fd8ffp-7,  0x1.78246f32d075cp-7, 0x1.524ea8b3aad31p-7, 0x1.653a8f8cfd43cp-8,
      0x1.1d661531b222ep-6, -0x1.e7a24f548c99fp-7, 0x1.d78189767524ep-6};
};

// A register of B bytes as integers. (A typedef inside a function template would lose its size.)
template <class U, int B>
struct Integers {
  typedef U Register __attribute__((vector_size(B)));
};

// 2 / k!, the coefficients of 2 exp.
template <class A>
struct ExpSeries {
  A term[MathOf<A>::kExpTerms] = {};
  constexpr ExpSeries() {
    A factorial = 1;
    for (int k = 0; k < MathOf<A>::kExpTerms; ++k) term[k] = A(2) / (factorial *= k ? A(k) : A(1));
  }
};

// Applies f(register) to every register.
template <class A, int B, class F>
PK_HD Vec<A, B> map_registers(const Vec<A, B>& x, F&& f) {
  Vec<A, B> y;
  for (int i = 0; i < y.kRegisters; ++i) y.part[i] = f(x.part[i]);
  return y;
}

// The larger one; the second if either is NaN.
template <class A, int B>
PK_HD Vec<A, B> vec_max(const Vec<A, B>& x, const Vec<A, B>& y) {
  Vec<A, B> z;
  for (int i = 0; i < z.kRegisters; ++i) z.part[i] = x.part[i] > y.part[i] ? x.part[i] : y.part[i];
  return z;
}

// exp of a register; what lies below kExpLow or above kExpHigh, or is infinite, gives nonsense. NaN stays.
template <class A, int B>
PK_HD typename Vec<A, B>::Register exp_in_range(typename Vec<A, B>::Register x) {
  using M = MathOf<A>;
  using R = typename Vec<A, B>::Register;
  using Bits = typename Integers<typename M::Bits, B>::Register;
  const R shifted = x * A(1.4426950408889634074) + M::kRound, n = shifted - M::kRound;
  const R r = (x - n * M::kLn2High) - n * M::kLn2Low;
  // 2 exp(r): 2^n alone might be infinite, so that the other factor is 2^(n - 1), or 0.
  constexpr ExpSeries<A> kSeries;
  R sum = R{} + kSeries.term[M::kExpTerms - 1];
#pragma GCC unroll 16
  for (int k = M::kExpTerms - 2; k >= 0; --k) sum = sum * r + kSeries.term[k];
  const Bits scale = ((Bits)shifted + Bits{} + typename M::Bits(M::kBias - 1)) << M::kMantissa;
  return sum * (R)scale;
}

// 0 below about -87 (double: -707.7), where the result would be among the smallest normal numbers.
template <class A, int B>
PK_HD Vec<A, B> vec_exp(const Vec<A, B>& v) {
  using M = MathOf<A>;
  return map_registers(v, [](auto x) PK_INLINE {
    using R = decltype(x);
    x = x > M::kExpLow ? x : (x < M::kExpLow ? R{} + M::kExpLow : x);  // NaN stays
    x = x < M::kExpHigh ? x : (x > M::kExpHigh ? R{} + M::kExpHigh : x);
    return exp_in_range<A, B>(x);
  });
}

// The same for what is at most about 0, of a softmax: faster.
template <class A, int B>
PK_HD Vec<A, B> vec_exp_below_0(const Vec<A, B>& v) {
  using M = MathOf<A>;
  return map_registers(v, [](auto x) PK_INLINE {
    using R = decltype(x);
    return exp_in_range<A, B>(x < M::kExpLow ? R{} + M::kExpLow : x);
  });
}

// (1 - e) / (1 + e) with e = exp(-2 |x|); below 1/2, where that loses digits, a continued fraction.
template <class A, int B>
PK_HD Vec<A, B> vec_tanh(const Vec<A, B>& v) {
  const Vec<A, B> size = map_registers(v, [](auto x) PK_INLINE { return x < A(0) ? -x : x; });
  const Vec<A, B> e = vec_exp(size * A(-2));
  Vec<A, B> y;
  for (int i = 0; i < y.kRegisters; ++i) {
    const auto x = size.part[i], z = x * x, far = e.part[i];
    const auto near = x < A(0.5);
    const auto above = near ? x * (((z + A(378)) * z + A(17325)) * z + A(135135)) : A(1) - far;
    const auto below = near ? ((A(28) * z + A(3150)) * z + A(62370)) * z + A(135135) : A(1) + far;
    const auto ratio = above / below;
    y.part[i] = v.part[i] < A(0) ? -ratio : ratio;
  }
  return y;
}

// -infinity for what is below the smallest normal number: 0, and also subnormal and negative numbers.
template <class A, int B>
PK_HD Vec<A, B> vec_log(const Vec<A, B>& v) {
  using M = MathOf<A>;
  using U = typename M::Bits;
  using Bits = typename Integers<U, B>::Register;
  return map_registers(v, [](auto x) PK_INLINE {
    using R = decltype(x);
    // x = 2^k (1 + f) with 1 + f between the roots of 1/2 and 2.
    const Bits bits = (Bits)x + (M::kOne - M::kRootHalf);
    constexpr U kFraction = (U(1) << M::kMantissa) - 1;
    constexpr A kInteger = A(U(1) << M::kMantissa);  // its lowest bits hold an integer
    const R k = (R)((bits >> M::kMantissa) | bit_cast<U>(kInteger)) - (kInteger + A(M::kBias));
    const R f = (R)((bits & kFraction) + M::kRootHalf) - A(1);
    const R s = f / (f + A(2)), z = s * s, half_square = f * f * A(0.5);
    constexpr int kTerms = sizeof(M::kLog) / sizeof(A);
    R sum = R{} + M::kLog[kTerms - 1];
#pragma GCC unroll 8
    for (int i = kTerms - 2; i >= 0; --i) sum = sum * z + M::kLog[i];
    const R result = k * M::kLn2High - ((half_square - (s * (half_square + sum * z) + k * M::kLn2Low)) - f);
    const R infinite = R{} + std::numeric_limits<A>::infinity();
    const R normal = x >= std::numeric_limits<A>::min() ? result : -infinite;
    return x < infinite ? normal : x;
  });
}

// Through an array, which compilers turn into packed square roots.
template <class A, int B>
PK_HD Vec<A, B> vec_sqrt(const Vec<A, B>& v) {
  return map_registers(v, [](auto x) PK_INLINE {
    constexpr int kWidth = B / int(sizeof(A));
    A lanes[kWidth];
    memcpy(lanes, &x, B);
    for (int k = 0; k < kWidth; ++k) lanes[k] = sizeof(A) == 4 ? __builtin_sqrtf(lanes[k]) : __builtin_sqrt(lanes[k]);
    memcpy(&x, lanes, B);
    return x;
  });
}

// asin(y) = y + y z P(z) with z = y^2 <= 1/4; above 1/2, asin(a) = pi / 2 - 2 asin(y) with z = (1 - a) / 2. NaN
// beyond 1.
template <class A, int B>
PK_HD Vec<A, B> vec_asin(const Vec<A, B>& v) {
  using M = MathOf<A>;
  using U = typename M::Bits;
  using Bits = typename Integers<U, B>::Register;
  constexpr U kSign = U(1) << (8 * sizeof(U) - 1);
  Vec<A, B> size = map_registers(v, [](auto x) PK_INLINE { return decltype(x)((Bits)x & (Bits{} + ~kSign)); });
  Vec<A, B> z = map_registers(size, [](auto a) PK_INLINE { return a > A(0.5) ? (A(1) - a) * A(0.5) : a * a; });
  const Vec<A, B> root = vec_sqrt(z);
  Vec<A, B> result;
  for (int i = 0; i < v.kRegisters; ++i) {
    const auto a = size.part[i], y = a > A(0.5) ? root.part[i] : a;
    constexpr int kTerms = sizeof(M::kAsin) / sizeof(A);
    auto sum = typename Vec<A, B>::Register{} + M::kAsin[kTerms - 1];
#pragma GCC unroll 16
    for (int k = kTerms - 2; k >= 0; --k) sum = sum * z.part[i] + M::kAsin[k];
    const auto small = y + y * (z.part[i] * sum);
    const auto found = a > A(0.5) ? M::kHalfPiHigh - (small + small - M::kHalfPiLow) : small;
    result.part[i] = (typename Vec<A, B>::Register)((Bits)found | ((Bits)v.part[i] & (Bits{} + kSign)));
  }
  return result;
}

// Whether any lane of x is above that of y.
template <class A, int B>
PK_HD bool any_above(const Vec<A, B>& x, const Vec<A, B>& y) {
  using Words = typename Integers<std::uint64_t, B>::Register;
  Words any = (Words)(x.part[0] > y.part[0]);
  for (int i = 1; i < x.kRegisters; ++i) any |= (Words)(x.part[i] > y.part[i]);
  std::uint64_t word = 0;
  for (int i = 0; i < B / 8; ++i) word |= any[i];
  return word != 0;
}

}  // namespace pk
