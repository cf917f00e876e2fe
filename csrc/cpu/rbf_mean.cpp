// Weighted sums of RBF kernels and their gradients on the CPU: a block of rows meets the points tile by tile. A tile of
// exponents is one small product, its exponentials stay in the cache, and a second product adds them to all sums of the
// rows at once. Equations: python/probkernels/reference/rbf_mean.py.
#include <algorithm>
#include <cstring>

#include "pk/launch.h"
#include "pk/rows.h"
#include "pk/vec_math.h"

namespace pk {
namespace {

constexpr Int kRows = 64, kColumns = 128;  // of a tile of exponents: 32 kB of floats

// One function's points, in tiles of kColumns. Points that fill the last tile have zeros in `columns`.
template <class A>
struct Points {
  const A* right;    // (tiles, depth, kColumns): what a row's numbers are multiplied with
  const A* columns;  // (tiles, kColumns, width): what a kernel is multiplied with
  Int tiles, depth, width;
};

struct Sums {
  // left (rows, depth) -> sums (rows, width), which start at zero
  template <int B, class A>
  PK_HD static void run(const Points<A>& points, const A* left, Int rows, A* sums) {
    using Register = typename Vec<A, B>::Register;
    alignas(64) A tile[kRows * kColumns];
    for (Int t = 0; t < points.tiles; ++t) {
      product<B>(rows, kColumns, points.depth, Broadcast<A>{left, points.depth, 1},
                 points.right + t * points.depth * kColumns, [&](Int row, Int column, Register exponent) PK_INLINE {
                   memcpy(tile + row * kColumns + column, &exponent, B);
                 });
      for (Int i = 0; i < rows * kColumns; i += kLanes)
        store_vec(tile + i, vec_exp(load_vec<B>(static_cast<const A*>(tile + i))));
      product<B>(rows, points.width, kColumns, Broadcast<A>{tile, kColumns, 1},
                 points.columns + t * kColumns * points.width, [&](Int row, Int column, Register found) PK_INLINE {
                   A* const place = sums + row * points.width + column;
                   Register before;
                   memcpy(&before, place, B);
                   before += found;
                   memcpy(place, &before, B);
                 });
    }
  }
};

}  // namespace

void rbf_mean_cpu(DType dtype, const void* left, const void* right, const void* columns, void* sums, Int functions,
                  Int rows, Int tiles, Int depth, Int width, Threads threads) {
  dispatch_wide("rbf_mean", dtype, [&](auto element) {
    using A = decltype(element);
    const A *const l = static_cast<const A*>(left), *const r = static_cast<const A*>(right),
                   *const c = static_cast<const A*>(columns);
    A* const s = static_cast<A*>(sums);
    const Int blocks = (rows + kRows - 1) / kRows;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (functions * blocks > 1)
    for (Int k = 0; k < functions * blocks; ++k) {
      const Int f = k / blocks, first = k % blocks * kRows, count = std::min(kRows, rows - first);
      const Points<A> points{r + f * tiles * depth * kColumns, c + f * tiles * kColumns * width, tiles, depth, width};
      run_best<Sums>(points, l + (f * rows + first) * depth, count, s + (f * rows + first) * width);
    }
  });
}

}  // namespace pk
