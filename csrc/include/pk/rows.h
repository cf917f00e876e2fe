// Small products of matrices and rows of numbers, SIMD lanes along the rows, which are whole registers.
#pragma once
#include <algorithm>
#include <limits>
#include <type_traits>

#include "pk/latent_tree.h"
#include "pk/vec.h"

namespace pk {

// --- products: out (rows, registers of lanes) = sum over s of x(row, s) y(s, lanes) ---

// Some numbers that are broadcast: x(row, s) lies at row * down + s * along.
template <class A>
struct Broadcast {
  const A* data;
  Int down, along;
};

// M rows and R registers at a time, spelt in registers: as arrays of Vec the sums would stay in memory.
template <int B, int M, int R, class A, class Done>
PK_HD void multiply(Int depth, const A* x, Int down, Int along, const A* y, Int width, Done&& done) {
  using Register = typename Vec<A, B>::Register;
  constexpr int W = Vec<A, B>::kWidth;
  Register sum[M * R];
#pragma GCC unroll 16
  for (int k = 0; k < M * R; ++k) sum[k] = Register{};
  for (Int s = 0; s < depth; ++s) {
    Register v[R];
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) memcpy(&v[j], y + s * width + j * W, B);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const A factor = x[i * down + s * along];
#pragma GCC unroll 4
      for (int j = 0; j < R; ++j) sum[i * R + j] += factor * v[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) done(i, j * W, sum[i * R + j]);
}

template <int B, int M, int R, class A, class Done>
PK_HD void multiply_rows(Int& row, Int rows, Int column, Int depth, const Broadcast<A>& x, const A* y, Int width,
                         Done&& done) {
  for (; row + M <= rows; row += M)
    multiply<B, M, R>(depth, x.data + row * x.down, x.down, x.along, y + column, width,
                      [&](int i, int j, auto sum) PK_INLINE { done(row + i, column + j, sum); });
}

// done(row, column, register) for everything in (rows, width).
template <int B, class A, class Done>
PK_HD void product(Int rows, Int width, Int depth, const Broadcast<A>& x, const A* y, Done&& done) {
  constexpr int W = Vec<A, B>::kWidth;
  Int column = 0;
  for (; column + 2 * W <= width; column += 2 * W) {
    Int row = 0;
    multiply_rows<B, 4, 2>(row, rows, column, depth, x, y, width, done);
    multiply_rows<B, 1, 2>(row, rows, column, depth, x, y, width, done);
  }
  if (column == width) return;
  Int row = 0;
  multiply_rows<B, 8, 1>(row, rows, column, depth, x, y, width, done);
  multiply_rows<B, 1, 1>(row, rows, column, depth, x, y, width, done);
}

// --- rows of states ---

template <class A, int B>
PK_HD A max_register(typename Vec<A, B>::Register v) {
  if constexpr (B > 16) {
    typename Vec<A, B / 2>::Register low, high;
    memcpy(&low, &v, B / 2);
    memcpy(&high, reinterpret_cast<const char*>(&v) + B / 2, B / 2);
    return max_register<A, B / 2>(low > high ? low : high);
  } else {
    A most = v[0];
    for (int i = 1; i < B / int(sizeof(A)); ++i) most = v[i] > most ? v[i] : most;
    return most;
  }
}

// --- rows with an exponent for every state: v[k] * 2^x[k] ---

// Lanes of exponents, as wide as those of A.
template <class A, int B>
struct Exponents {
  using Bits = typename PowerOfTwo<A>::Bits;
  typedef Bits Register __attribute__((vector_size(B)));
  static constexpr int kMantissa = PowerOfTwo<A>::kMantissa, kBias = PowerOfTwo<A>::kBias;

  // Brings every lane of v >= 0 to [1, 2), as PowerOfTwo does one number; what was taken out.
  PK_HD static Register take(typename Vec<A, B>::Register& v) {
    typedef std::make_unsigned_t<Bits> Unsigned __attribute__((vector_size(B)));
    Unsigned bits;
    memcpy(&bits, &v, B);
    Register field = Register(bits >> kMantissa) & (2 * kBias + 1);
    const Register most = Register{} + (2 * kBias - 1);
    field = field < most ? field : most;
    v *= power(kBias - (field - kBias));
    return field - kBias;
  }
  // 2^(biased - kBias)
  PK_HD static typename Vec<A, B>::Register power(Register biased) {
    biased <<= kMantissa;
    typename Vec<A, B>::Register v;
    memcpy(&v, &biased, B);
    return v;
  }
  // power_of_two of every lane.
  PK_HD static typename Vec<A, B>::Register at_most_1(Register exponent) {
    const Register least = Register{} + (1 - kBias);
    exponent = exponent > 0 ? Register{} : exponent;
    return power((exponent > least ? exponent : least) + kBias);
  }
};

// v[0..width) to [1, 2) state by state; their exponents are put into x, or added to those there.
template <int B, class A>
PK_HD void take_exponents(A* v, typename PowerOfTwo<A>::Bits* x, Int width, bool add) {
  constexpr int W = Vec<A, B>::kWidth;
  for (Int j = 0; j < width; j += W) {
    typename Vec<A, B>::Register some;
    typename Exponents<A, B>::Register before = {};
    memcpy(&some, v + j, B);
    if (add) memcpy(&before, x + j, B);
    before += Exponents<A, B>::take(some);
    memcpy(v + j, &some, B);
    memcpy(x + j, &before, B);
  }
}

// to[0..width) = a * b * 2^x (x may be null: zeros), brought to [1, 2) by a power of two, of which the exponent is
// returned. No product leaves the range before that, and states below 2^-kRange of the largest come out near that.
template <int B, class A>
PK_HD int aligned_product(const A* a, const A* b, const typename PowerOfTwo<A>::Bits* x, A* to, Int width) {
  using Bits = typename PowerOfTwo<A>::Bits;
  using Lanes = Exponents<A, B>;
  constexpr int W = Vec<A, B>::kWidth;
  constexpr Bits kNone = std::numeric_limits<Bits>::min() / 2;
  typename Vec<A, B>::Register v, w;
  const auto at = [&](Int j) PK_INLINE {  // their exponents; v is what is left of the product
    typename Lanes::Register y = {};
    memcpy(&v, a + j, B);
    memcpy(&w, b + j, B);
    if (x) memcpy(&y, x + j, B);
    y += Lanes::take(v) + Lanes::take(w);
    v *= w;
    return y + Lanes::take(v);
  };
  typename Lanes::Register most = typename Lanes::Register{} + kNone;
  for (Int j = 0; j < width; j += W) {
    const auto y = at(j);
    most = v != A(0) && y > most ? y : most;
  }
  const Bits top = max_register<Bits, B>(most);
  if (top == kNone) {  // zeros
    std::fill(to, to + width, A(0));
    return 0;
  }
  for (Int j = 0; j < width; j += W) {
    const auto y = at(j);
    v *= Lanes::at_most_1(y - top);
    memcpy(to + j, &v, B);
  }
  return int(top);
}

// The same without x where the largest product is not below `enough`, so that what flushes is too little to count.
template <int B, int R, class A>
PK_HD int scaled_product(const A* a, const A* b, A* to, Int width, A enough) {
  using Register = typename Vec<A, B>::Register;
  constexpr int W = Vec<A, B>::kWidth;
  Register v[R], w, most = {};
  const auto at = [&](int j) PK_INLINE {
    memcpy(&v[j % R], a + j * W, B);
    memcpy(&w, b + j * W, B);
    v[j % R] *= w;
  };
  const auto keep_most = [&](int j) PK_INLINE { most = v[j % R] > most ? v[j % R] : most; };
  if (width == R * W) {  // stays in registers
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) at(j), keep_most(j);
    const A largest = max_register<A, B>(most);
    if (largest < enough) return aligned_product<B, A>(a, b, nullptr, to, width);
    const PowerOfTwo<A> power(largest);
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      v[j] *= power.scale();
      memcpy(to + j * W, &v[j], B);
    }
    return power.exponent;
  }
  for (int j = 0; j * W < width; ++j) at(j), keep_most(j);
  const A largest = max_register<A, B>(most);
  if (largest < enough) return aligned_product<B, A>(a, b, nullptr, to, width);
  const PowerOfTwo<A> power(largest);
  for (int j = 0; j * W < width; ++j) {
    at(j);
    v[j % R] *= power.scale();
    memcpy(to + j * W, &v[j % R], B);
  }
  return power.exponent;
}

// to[0..width) += v.
template <int B, class A>
PK_HD void add_row(A* to, const A* v, Int width) {
  using Register = typename Vec<A, B>::Register;
  constexpr int W = Vec<A, B>::kWidth;
  for (Int j = 0; j < width; j += W) {
    Register sum, term;
    memcpy(&sum, to + j, B);
    memcpy(&term, v + j, B);
    sum += term;
    memcpy(to + j, &sum, B);
  }
}

}  // namespace pk
