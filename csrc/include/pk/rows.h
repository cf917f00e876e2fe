// Small products of matrices and rows of numbers, SIMD lanes along the rows, which are whole registers.
#pragma once
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

// to[0..width) = a * b, brought to [1, 2) by a power of two, of which the exponent is returned.
template <int B, int R, class A>
PK_HD int scaled_product(const A* a, const A* b, A* to, Int width) {
  using Register = typename Vec<A, B>::Register;
  constexpr int W = Vec<A, B>::kWidth;
  Register v[R], w, most = {};
  const auto at = [&](int j) PK_INLINE {
    memcpy(&v[j % R], a + j * W, B);
    memcpy(&w, b + j * W, B);
    v[j % R] *= w;
    most = v[j % R] > most ? v[j % R] : most;
  };
  if (width == R * W) {  // stays in registers
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) at(j);
    const PowerOfTwo<A> power(max_register<A, B>(most));
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      v[j] *= power.scale();
      memcpy(to + j * W, &v[j], B);
    }
    return power.exponent;
  }
  for (int j = 0; j * W < width; ++j) {
    at(j);
    memcpy(to + j * W, &v[j % R], B);
  }
  const PowerOfTwo<A> power(max_register<A, B>(most));
  for (int j = 0; j * W < width; ++j) {
    memcpy(&v[0], to + j * W, B);
    v[0] *= power.scale();
    memcpy(to + j * W, &v[0], B);
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
