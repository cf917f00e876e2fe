// Softmax over all other points, summed by class, on the CPU: what is done with a tile of inner products, which torch's
// matrix product makes. Points come sorted by class, so that a class is a run of columns. The forward keeps a running
// maximum for each row and sums below it; the backward turns the products into the pulls between two points. Equations:
// python/probkernels/reference/pairwise_softmax.py.
#include <algorithm>
#include <cmath>
#include <limits>

#include "pk/launch.h"
#include "pk/vec_math.h"

namespace pk {
namespace {

using Int = std::int64_t;

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

// A tile of inner products q_i . q_j, i from `row` on and j from `col` on. Point j has the square |q_j|^2 / 2 in `half`
// and class k if bounds[k] <= j < bounds[k + 1].
template <class A>
struct Tile {
  A* products;  // (R, C)
  const A* half;
  const Int* bounds;  // (K + 1)
  Int rows, cols, row, col, classes;

  // Row r without the product of a point with itself.
  A* at(Int r) const {
    A* const products_of = products + r * cols;
    const Int self = row + r - col;
    if (self >= 0 && self < cols) products_of[self] = -kInfinity<A>;
    return products_of;
  }

  // Calls body(class, first, count) for each class among the columns.
  template <class Body>
  PK_HD void for_classes(Body&& body) const {
    Int k = std::max<Int>(std::upper_bound(bounds, bounds + classes, col) - bounds - 1, 0);
    for (; k < classes && bounds[k] < col + cols; ++k) {
      const Int first = std::max(bounds[k] - col, Int(0)), last = std::min(bounds[k + 1] - col, cols);
      if (first < last) body(k, first, last - first);
    }
  }
};

// The first elements at p; the other lanes are -infinity, of which the exponential is 0.
template <int B, class A>
PK_HD Vec<A, B> load_products(const A* p, Full lanes) {
  return load_vec<B>(p, lanes);
}
template <int B, class A>
PK_HD Vec<A, B> load_products(const A* p, int n) {
  A some[kLanes];
  std::fill(some, some + kLanes, -kInfinity<A>);
  copy_some(some, p, n * sizeof(A));
  return load_vec<B>(static_cast<const A*>(some));
}

template <int B, class A>
PK_HD A largest(const A* products, const A* half, Int count) {
  Vec<A, B> lanes = Vec<A, B>{} - kInfinity<A>;
  for_lanes(count, [&](Int j, auto n) PK_INLINE {
    lanes = vec_max(load_products<B>(products + j, n) - load_vec<B>(half + j, n), lanes);
  });
  A all[kLanes], top = -kInfinity<A>;
  store_vec(all, lanes);
  for (A lane : all) top = std::max(top, lane);
  return top;
}

// Rows [first, last) of a tile: best (N) is the largest score so far, sums (N, K) those below it.
struct Forward {
  template <int B, class A>
  PK_HD static void run(const Tile<A>& in, Int first, Int last, A* best, A* sums) {
    const A* const half = in.half + in.col;
    for (Int r = first; r < last; ++r) {
      const A* const products = in.at(r);
      A* const sum = sums + (in.row + r) * in.classes;
      A& top = best[in.row + r];
      const A found = largest<B>(products, half, in.cols);
      if (found > top) {
        const A scale = std::exp(top - found);
        for (Int k = 0; k < in.classes; ++k) sum[k] *= scale;
        top = found;
      }
      const A shift = top == -kInfinity<A> ? A(0) : top;  // no other point so far
      in.for_classes([&](Int k, Int begin, Int count) PK_INLINE {
        Vec<A, B> lanes{};
        for_lanes(count, [&](Int j, auto n) PK_INLINE {
          lanes += vec_exp(load_products<B>(products + begin + j, n) - load_vec<B>(half + begin + j, n) - shift);
        });
        sum[k] += sum_lanes(lanes);
      });
    }
  }
};

// What the backward knows of every point: G = gradients of the shares, once more transposed; delta; and log_sums +
// half.
template <class A>
struct Gradients {
  const A *grads, *grads_t, *delta, *shift;  // (N, K), (K, N), (N), (N)
  Int points;
};

// Rows [first, last) of a tile: products become pulls, total (N) grows by their sums.
struct Backward {
  template <int B, class A>
  PK_HD static void run(const Tile<A>& in, const Gradients<A>& g, Int first, Int last, A* total) {
    const A *const half = in.half + in.col, *const shift = g.shift + in.col, *const delta = g.delta + in.col;
    for (Int r = first; r < last; ++r) {
      const Int i = in.row + r, own = std::upper_bound(in.bounds, in.bounds + in.classes, i) - in.bounds - 1;
      A* const products = in.at(r);
      const A* const back = g.grads_t + own * g.points + in.col;
      const A half_i = in.half[i], shift_i = g.shift[i];
      Vec<A, B> sum{};
      in.for_classes([&](Int k, Int begin, Int count) PK_INLINE {
        const A there = g.grads[i * in.classes + k] - g.delta[i];
        for_lanes(count, [&](Int offset, auto n) PK_INLINE {
          const Int j = begin + offset;
          const auto product = load_products<B>(products + j, n);
          const auto to = vec_exp(product - load_vec<B>(half + j, n) - shift_i) * there;
          const auto from = vec_exp(product - half_i - load_vec<B>(shift + j, n));
          const auto pull = to + from * (load_vec<B>(back + j, n) - load_vec<B>(delta + j, n));
          store_vec(products + j, pull, n);
          sum += pull;
        });
      });
      total[i] += sum_lanes(sum);
    }
  }
};

template <class Body>
void for_row_blocks(Int rows, Threads threads, Body&& body) {
  constexpr Int kRows = 16;
  const Int blocks = (rows + kRows - 1) / kRows;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (blocks > 1)
  for (Int block = 0; block < blocks; ++block) body(block * kRows, std::min(rows, (block + 1) * kRows));
}

}  // namespace

void pairwise_softmax_cpu(DType dtype, void* products, const void* half, const void* bounds, void* best, void* sums,
                          Int rows, Int cols, Int row, Int col, Int classes, Threads threads) {
  dispatch_wide("pairwise_softmax", dtype, [&](auto element) {
    using A = decltype(element);
    const Tile<A> in{static_cast<A*>(products),
                     static_cast<const A*>(half),
                     static_cast<const Int*>(bounds),
                     rows,
                     cols,
                     row,
                     col,
                     classes};
    A *const top = static_cast<A*>(best), *const sum = static_cast<A*>(sums);
    for_row_blocks(rows, threads, [&](Int first, Int last) { run_best<Forward>(in, first, last, top, sum); });
  });
}

void pairwise_softmax_bwd_cpu(DType dtype, void* products, const void* half, const void* bounds, const void* grads,
                              const void* grads_t, const void* delta, const void* shift, void* total, Int rows,
                              Int cols, Int row, Int col, Int classes, Int points, Threads threads) {
  dispatch_wide("pairwise_softmax_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const Tile<A> in{
        static_cast<A*>(products), in_a(half), static_cast<const Int*>(bounds), rows, cols, row, col, classes};
    const Gradients<A> g{in_a(grads), in_a(grads_t), in_a(delta), in_a(shift), points};
    A* const sums = static_cast<A*>(total);
    for_row_blocks(rows, threads, [&](Int first, Int last) { run_best<Backward>(in, g, first, last, sums); });
  });
}

}  // namespace pk
