// Kernels of infinitely wide networks on the CPU: all layers of sixteen pairs in registers, one pass over the matrix.
// The split into blocks of rows depends on sizes alone, so that every thread count gives the same bits.
#include "pk/arc_cosine.h"

#include <algorithm>

#include "pk/vec_math.h"

namespace pk {

template <class A, int B>
PK_HD Vec<A, B> root_of(const Vec<A, B>& x) {
  return vec_sqrt(x);
}
template <class A, int B>
PK_HD Vec<A, B> asin_of(const Vec<A, B>& x) {
  return vec_asin(x);
}
template <class A, int B>
PK_HD Vec<A, B> inverse_of(const Vec<A, B>& x) {
  return map_registers(x, [](auto v) PK_INLINE { return A(1) / v; });
}
template <class A, int B>
PK_HD Vec<A, B> clamp_of(const Vec<A, B>& x, A limit) {
  return map_registers(x, [=](auto v) PK_INLINE {
    const auto most = decltype(v){} + limit, least = -most;
    v = v > most ? most : v;
    return v < least ? least : v;
  });
}

namespace {

using Int = std::int64_t;

// Row i of batch b, for the layers: where the lengths of its point and of the columns' points are.
template <class A>
struct Row {
  const A *k, *left, *left_inverse, *right, *right_inverse;  // left: of the first layer, the next one `rows` further
  Int rows, columns;
  Row(const Pairs<A>& in, int layers, Int b, Int i)
      : k(in.k + (b * in.rows + i) * in.columns),
        left(in.left + b * layers * in.rows + i),
        left_inverse(in.left_inverse + b * layers * in.rows + i),
        right(in.right + b * layers * in.columns),
        right_inverse(in.right_inverse + b * layers * in.columns),
        rows(in.rows),
        columns(in.columns) {}
};

template <int kActivation>
struct Forward {
  // Rows [first, last) of batch b. diagonal (B, 2, M) may be null.
  template <int B, class A>
  PK_HD static void run(const Pairs<A>& in, const Network<A>& net, const A* diagonal, A* nngp, A* ntk, Int b, Int first,
                        Int last) {
    for (Int i = first; i < last; ++i) {
      const Row<A> row(in, net.layers, b, i);
      const Int offset = (b * in.rows + i) * in.columns;
      for_lanes(in.columns, [&](Int j, auto lanes) PK_INLINE {
        Vec<A, B> k = load_vec<B>(row.k + j, lanes) * net.weight[0] + net.bias[0], t = k;
        for (int l = 0; l < net.layers; ++l) {
          const auto right = load_vec<B>(row.right + l * in.columns + j, lanes);
          const auto right_inverse = load_vec<B>(row.right_inverse + l * in.columns + j, lanes);
          const Vec<A, B> scale = right * row.left[l * in.rows],
                          inverse = right_inverse * row.left_inverse[l * in.rows];
          Vec<A, B> value, slope;
          activate<kActivation, A>(angle_of<kActivation, A>(k, inverse), scale, inverse, value, slope);
          dense(net, l, value, slope, k, t);
        }
        store_vec(nngp + offset + j, k, lanes);
        if (net.tangent) store_vec(ntk + offset + j, t, lanes);
      });
      if (!diagonal) continue;
      nngp[offset + i] = diagonal[2 * b * in.rows + i];
      if (net.tangent) ntk[offset + i] = diagonal[(2 * b + 1) * in.rows + i];
    }
  }
};

template <class A>
struct Gradients {
  const A *nngp, *ntk;
  A *k, *left, *right;  // (B, M, N), (B, L, M), (B, blocks, L, N)
  double* layers;       // (B, blocks, 2, L + 1)
  Int block_rows, blocks;
  bool same;  // the diagonal is none of the kernel's business
};

// Gradients of one row, but for those of the columns' points, kept in sixteen lanes.
template <class A, int B>
struct RowSums {
  Vec<A, B> left[kMostLayers], weight[kMostLayers + 1], bias[kMostLayers + 1];
  PK_HD void clear(int layers) {
    for (int l = 0; l <= layers; ++l) left[l % kMostLayers] = weight[l] = bias[l] = Vec<A, B>{};
  }
};

template <int kActivation>
struct Backward {
  template <int B, class A, class Lanes>
  PK_HD static void pairs(const Row<A>& row, const Network<A>& net, const Gradients<A>& g, Int offset, Int self,
                          A* right, RowSums<A, B>& sums, Int j, Lanes lanes) {
    Kept<Vec<A, B>> kept[kMostLayers];
    const auto input = load_vec<B>(row.k + j, lanes);
    Vec<A, B> k = input * net.weight[0] + net.bias[0], t = k;
    for (int l = 0; l < net.layers; ++l) {
      const auto of_point = load_vec<B>(row.right + l * row.columns + j, lanes);
      const auto inverse_of_point = load_vec<B>(row.right_inverse + l * row.columns + j, lanes);
      const Vec<A, B> scale = of_point * row.left[l * row.rows];
      const Vec<A, B> inverse = inverse_of_point * row.left_inverse[l * row.rows];
      const auto at = angle_of<kActivation, A>(k, inverse);
      kept[l] = {k, t, at.sine, at.arc};
      if (l + 1 == net.layers) break;
      Vec<A, B> value, slope;
      activate<kActivation, A>(at, scale, inverse, value, slope);
      dense(net, l, value, slope, k, t);
    }
    Vec<A, B> grad_k = load_vec<B>(g.nngp + offset + j, lanes), grad_t{};
    if (net.tangent) grad_t = load_vec<B>(g.ntk + offset + j, lanes);
    if (g.same && self >= j && self < j + kLanes) {
      const int lane = int(self - j), width = grad_k.kWidth;
      grad_k.part[lane / width][lane % width] = grad_t.part[lane / width][lane % width] = A(0);
    }
    for (int l = net.layers - 1; l >= 0; --l) {
      A* const to = right + l * row.columns + j;
      const auto of_point = load_vec<B>(row.right + l * row.columns + j, lanes);
      const auto inverse_of_point = load_vec<B>(row.right_inverse + l * row.columns + j, lanes);
      const auto found =
          dense_backward<kActivation, A>(net, l, kept[l], row.left[l * row.rows], row.left_inverse[l * row.rows],
                                         of_point, inverse_of_point, grad_k, grad_t);
      sums.left[l] += found.left;
      sums.weight[l + 1] += found.weight;
      sums.bias[l + 1] += found.bias;
      store_vec(to, load_vec<B>(static_cast<const A*>(to), lanes) + found.right, lanes);
    }
    if (net.tangent) grad_k += grad_t;
    sums.weight[0] += grad_k * input;
    sums.bias[0] += grad_k;
    store_vec(g.k + offset + j, grad_k * net.weight[0], lanes);
  }

  // A block of rows of batch b.
  template <int B, class A>
  PK_HD static void run(const Pairs<A>& in, const Network<A>& net, const Gradients<A>& g, Int b, Int block) {
    const int layers = net.layers;
    A* const right = g.right + (b * g.blocks + block) * layers * in.columns;
    double* const of_layers = g.layers + (b * g.blocks + block) * 2 * (layers + 1);
    std::fill(right, right + layers * in.columns, A(0));
    std::fill(of_layers, of_layers + 2 * (layers + 1), 0.0);
    RowSums<A, B> sums;
    for (Int i = block * g.block_rows; i < std::min(in.rows, (block + 1) * g.block_rows); ++i) {
      const Row<A> row(in, layers, b, i);
      sums.clear(layers);
      for_lanes(in.columns, [&](Int j, auto lanes) PK_INLINE {
        pairs<B>(row, net, g, (b * in.rows + i) * in.columns, i, right, sums, j, lanes);
      });
      for (int l = 0; l < layers; ++l) g.left[(b * layers + l) * in.rows + i] = sum_lanes(sums.left[l]);
      for (int l = 0; l <= layers; ++l) {
        of_layers[l] += sum_lanes(sums.weight[l]);
        of_layers[layers + 1 + l] += sum_lanes(sums.bias[l]);
      }
    }
  }
};

template <template <int> class Kernel, class... Args>
void run_activation(Int activation, const Args&... args) {
  if (activation == kRelu) return run_best<Kernel<kRelu>>(args...);
  if (activation == kErf) return run_best<Kernel<kErf>>(args...);
  run_best<Kernel<kHeaviside>>(args...);
}

template <class Body>
void for_blocks(Int batch, Int rows, Int block_rows, Threads threads, Body&& body) {
  const Int blocks = (rows + block_rows - 1) / block_rows;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (batch * blocks > 1)
  for (Int task = 0; task < batch * blocks; ++task) body(task / blocks, task % blocks);
}

}  // namespace

void arc_cosine_cpu(DType dtype, const void* k, const void* left, const void* left_inverse, const void* right,
                    const void* right_inverse, const void* weights, const void* biases, Maybe diagonal, void* nngp,
                    void* ntk, Int batch, Int rows, Int columns, Int layers, Int activation, bool residual,
                    bool tangent, Threads threads) {
  dispatch_wide("arc_cosine", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const Pairs<A> in{in_a(k), in_a(left), in_a(left_inverse), in_a(right), in_a(right_inverse), batch, rows, columns};
    const Network<A> net{in_a(weights), in_a(biases), int(layers), residual, tangent};
    constexpr Int kRows = 16;
    for_blocks(batch, rows, kRows, threads, [&](Int b, Int block) {
      run_activation<Forward>(activation, in, net, diagonal.as<A>(), static_cast<A*>(nngp), static_cast<A*>(ntk), b,
                              block * kRows, std::min(rows, (block + 1) * kRows));
    });
  });
}

void arc_cosine_bwd_cpu(DType dtype, const void* k, const void* left, const void* left_inverse, const void* right,
                        const void* right_inverse, const void* weights, const void* biases, const void* grad_nngp,
                        const void* grad_ntk, void* grad_k, void* grad_left, void* grad_right, void* grad_layers,
                        Int batch, Int rows, Int columns, Int layers, Int activation, bool residual, bool tangent,
                        bool same, Int block_rows, Threads threads) {
  dispatch_wide("arc_cosine_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const auto out_a = [](void* p) { return static_cast<A*>(p); };
    const Pairs<A> in{in_a(k), in_a(left), in_a(left_inverse), in_a(right), in_a(right_inverse), batch, rows, columns};
    const Network<A> net{in_a(weights), in_a(biases), int(layers), residual, tangent};
    const Int blocks = (rows + block_rows - 1) / block_rows;
    const Gradients<A> g{in_a(grad_nngp),
                         in_a(grad_ntk),
                         out_a(grad_k),
                         out_a(grad_left),
                         out_a(grad_right),
                         static_cast<double*>(grad_layers),
                         block_rows,
                         blocks,
                         same};
    for_blocks(batch, rows, block_rows, threads,
               [&](Int b, Int block) { run_activation<Backward>(activation, in, net, g, b, block); });
  });
}

}  // namespace pk
