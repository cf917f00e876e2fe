// Kernels of infinitely wide convolutional networks: what their kernels are given. Equations:
// python/probkernels/reference/conv_arc_cosine.py.
#pragma once
#include "pk/arc_cosine.h"

namespace pk {

// M and N images of P pixels, and for each layer the lengths of pixels and their inverses. What belongs to z is
// (..., N) on a CPU, where sixteen images go side by side, and (N, ...) on a GPU, where threads take pixels.
template <class A>
struct Images {
  const A *x, *z;                                        // (M, C, P), (C, P, N)
  const A *left, *left_inverse, *right, *right_inverse;  // (M, L, P) twice, (L, P, N) twice
  std::int64_t rows, columns, channels, height, width;
  PK_HD std::int64_t pixels() const { return height * width; }
};

// What the backward is given and gives. Sums over pairs are those of R groups of rows and of G groups of columns: a
// task takes a pair of groups, so that memory grows with images and not with pairs.
template <class A>
struct ImageGradients {
  const A *nngp, *ntk;      // (M, N)
  A *x, *z, *left, *right;  // (G, M, C, P), (R, C, P, N), (G, M, L, P), (R, L, P, N); of z as in Images; zeros at first
  double* layers;           // (R, G, 2, L + 1)
  std::int64_t row_groups, column_groups;
};

// Both from a launcher's pointers, in its order.
template <class A>
Images<A> images_of(const void* x, const void* z, const void* left, const void* left_inverse, const void* right,
                    const void* right_inverse, std::int64_t rows, std::int64_t columns, std::int64_t channels,
                    std::int64_t height, std::int64_t width) {
  const auto a = [](const void* p) { return static_cast<const A*>(p); };
  return {a(x), a(z), a(left), a(left_inverse), a(right), a(right_inverse), rows, columns, channels, height, width};
}
template <class A>
ImageGradients<A> gradients_of(const void* nngp, const void* ntk, void* x, void* z, void* left, void* right,
                               void* layers, std::int64_t row_groups, std::int64_t column_groups) {
  const auto a = [](void* p) { return static_cast<A*>(p); };
  return {static_cast<const A*>(nngp),
          static_cast<const A*>(ntk),
          a(x),
          a(z),
          a(left),
          a(right),
          static_cast<double*>(layers),
          row_groups,
          column_groups};
}

// The first of n items that group g of `groups` has.
PK_HD std::int64_t group_start(std::int64_t n, std::int64_t g, std::int64_t groups) { return n * g / groups; }

// The sum of map(p) over the neighbors of the pixel in row y and column x, itself included, of a map with zeros around.
template <class Map>
PK_HD auto neighbors(std::int64_t y, std::int64_t x, std::int64_t height, std::int64_t width, Map&& map) {
  auto sum = map(y * width + x);
  for (std::int64_t v = y > 0 ? y - 1 : 0; v <= y + 1 && v < height; ++v)
    for (std::int64_t u = x > 0 ? x - 1 : 0; u <= x + 1 && u < width; ++u)
      if (v != y || u != x) sum = sum + map(v * width + u);
  return sum;
}

}  // namespace pk
