// Kernels of infinitely wide networks on the CPU: all layers of sixteen pairs in registers, one pass over the matrix.
// The split into blocks of rows depends on sizes alone, so that every thread count gives the same bits.
#include <algorithm>

#include "pk/arc_cosine_cpu.h"

namespace pk {

namespace {

using Int = std::int64_t;

constexpr int kTogether = 2;  // rows: what one has to wait for, the other fills

// Some rows from row i of batch b on: where the lengths of their points and of the columns' points are.
template <class A>
struct Rows {
  const A *k, *left, *left_inverse, *right, *right_inverse;
  Int rows, columns, offset;  // offset: of row i in a matrix
  PK_HD Rows(const Pairs<A>& in, int layers, Int b, Int i)
      : left(in.left + b * layers * in.rows + i),
        left_inverse(in.left_inverse + b * layers * in.rows + i),
        right(in.right + b * layers * in.columns),
        right_inverse(in.right_inverse + b * layers * in.columns),
        rows(in.rows),
        columns(in.columns),
        offset((b * in.rows + i) * in.columns) {
    k = in.k + offset;
  }
};

// Calls body(row, rows as a Const, column, lanes) for all pairs in rows [first, last): several rows and whole registers
// where there are enough, else a row and a number of lanes.
template <class Body>
PK_HD void for_pairs(Int first, Int last, Int columns, Body&& body) {
  const Int whole = last - first == kTogether ? columns / kLanes * kLanes : 0;
  for (Int j = 0; j < whole; j += kLanes) body(first, Const<kTogether>{}, j, Full{});
  for (Int i = first; i < last; ++i)
    for (Int j = whole; j < columns; j += kLanes) body(i, Const<1>{}, j, int(std::min<Int>(kLanes, columns - j)));
}

template <int kActivation>
struct Forward {
  template <int R, int B, class A, class Lanes>
  PK_HD static void pairs(const Rows<A>& at, const Network<A>& net, A* nngp, A* ntk, Int j, Lanes lanes) {
    Vec<A, B> k[R], t[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
      k[r] = t[r] = load_vec<B>(at.k + r * at.columns + j, lanes) * net.weight[0] + net.bias[0];
    for (int l = 0; l < net.layers; ++l) {
      const auto right = load_vec<B>(at.right + l * at.columns + j, lanes);
      const auto right_inverse = load_vec<B>(at.right_inverse + l * at.columns + j, lanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec<A, B> scale = right * at.left[l * at.rows + r];
        const Vec<A, B> inverse = right_inverse * at.left_inverse[l * at.rows + r];
        Vec<A, B> value, slope;
        activate<kActivation, A>(angle_of<kActivation, A>(k[r], inverse), scale, inverse, value, slope);
        dense(net, l, value, slope, k[r], t[r]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      store_vec(nngp + at.offset + r * at.columns + j, k[r], lanes);
      if (net.tangent) store_vec(ntk + at.offset + r * at.columns + j, t[r], lanes);
    }
  }

  // Rows [first, last) of batch b. diagonal (B, 2, M) may be null.
  template <int B, class A>
  PK_HD static void run(const Pairs<A>& in, const Network<A>& net, const A* diagonal, A* nngp, A* ntk, Int b, Int first,
                        Int last) {
    for (Int i = first; i < last; i += kTogether)
      for_pairs(i, std::min(last, i + kTogether), in.columns, [&](Int row, auto rows, Int j, auto lanes) PK_INLINE {
        pairs<decltype(rows)::value, B>(Rows<A>(in, net.layers, b, row), net, nngp, ntk, j, lanes);
      });
    for (Int i = first; i < last && diagonal; ++i) {
      const Int place = (b * in.rows + i) * in.columns + i;
      nngp[place] = diagonal[2 * b * in.rows + i];
      if (net.tangent) ntk[place] = diagonal[(2 * b + 1) * in.rows + i];
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

// Gradients of some rows, but for those of the columns' points, kept in sixteen lanes.
template <class A, int B>
struct RowSums {
  Vec<A, B> left[kMostLayers][kTogether], weight[kMostLayers + 1], bias[kMostLayers + 1];
  PK_HD void clear(int layers) {
    for (int l = 0; l <= layers; ++l) weight[l] = bias[l] = Vec<A, B>{};
    for (int l = 0; l < layers; ++l)
      for (auto& sum : left[l]) sum = Vec<A, B>{};
  }
};

template <int kActivation>
struct Backward {
  // kept = what each layer gets, forward.
  template <int R, int B, class A, class Lanes>
  PK_HD static void forward(const Rows<A>& at, const Network<A>& net, Kept<Vec<A, B>> (*kept)[kTogether], Int j,
                            Lanes lanes) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
      kept[0][r].k = kept[0][r].t = load_vec<B>(at.k + r * at.columns + j, lanes) * net.weight[0] + net.bias[0];
    for (int l = 0; l < net.layers; ++l) {
      const auto right = load_vec<B>(at.right + l * at.columns + j, lanes);
      const auto right_inverse = load_vec<B>(at.right_inverse + l * at.columns + j, lanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec<A, B> scale = right * at.left[l * at.rows + r];
        const Vec<A, B> inverse = right_inverse * at.left_inverse[l * at.rows + r];
        Vec<A, B> k = kept[l][r].k, t = kept[l][r].t, value, slope;
        const auto angle = angle_of<kActivation, A>(k, inverse);
        kept[l][r].sine = angle.sine, kept[l][r].arc = angle.arc;
        if (l + 1 == net.layers) continue;
        activate<kActivation, A>(angle, scale, inverse, value, slope);
        dense(net, l, value, slope, k, t);
        kept[l + 1][r].k = k, kept[l + 1][r].t = t;
      }
    }
  }

  template <int R, int B, class A, class Lanes>
  PK_HD static void pairs(const Rows<A>& at, const Network<A>& net, const Gradients<A>& g, Int self, int slot,
                          A* right_sums, RowSums<A, B>& sums, Int j, Lanes lanes) {
    Kept<Vec<A, B>> kept[kMostLayers][kTogether];
    forward<R, B>(at, net, kept, j, lanes);
    Vec<A, B> grad_k[R], grad_t[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Int place = at.offset + r * at.columns + j, lane = self + r - j;
      grad_k[r] = load_vec<B>(g.nngp + place, lanes), grad_t[r] = Vec<A, B>{};
      if (net.tangent) grad_t[r] = load_vec<B>(g.ntk + place, lanes);
      if (!g.same || lane < 0 || lane >= kLanes) continue;
      constexpr int kWidth = Vec<A, B>::kWidth;
      grad_k[r].part[lane / kWidth][lane % kWidth] = grad_t[r].part[lane / kWidth][lane % kWidth] = A(0);
    }
    for (int l = net.layers - 1; l >= 0; --l) {
      A* const to = right_sums + l * at.columns + j;
      const auto right = load_vec<B>(at.right + l * at.columns + j, lanes);
      const auto right_inverse = load_vec<B>(at.right_inverse + l * at.columns + j, lanes);
      auto of_right = load_vec<B>(static_cast<const A*>(to), lanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const A left = at.left[l * at.rows + r], left_inverse = at.left_inverse[l * at.rows + r];
        const auto found = dense_backward<kActivation, A>(net, l, kept[l][r], left, left_inverse, right, right_inverse,
                                                          grad_k[r], grad_t[r]);
        of_right += found.right;
        sums.left[l][slot + r] += found.left;
        sums.weight[l + 1] += found.weight;
        sums.bias[l + 1] += found.bias;
      }
      store_vec(to, of_right, lanes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if (net.tangent) grad_k[r] += grad_t[r];
      sums.weight[0] += grad_k[r] * load_vec<B>(at.k + r * at.columns + j, lanes);
      sums.bias[0] += grad_k[r];
      store_vec(g.k + at.offset + r * at.columns + j, grad_k[r] * net.weight[0], lanes);
    }
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
    const Int first = block * g.block_rows;
    const Int last = std::min(in.rows, first + g.block_rows);
    for (Int i = first; i < last; i += kTogether) {
      const Int end = std::min(last, i + kTogether);
      sums.clear(layers);
      for_pairs(i, end, in.columns, [&](Int row, auto rows, Int j, auto lanes) PK_INLINE {
        pairs<decltype(rows)::value, B>(Rows<A>(in, layers, b, row), net, g, row, int(row - i), right, sums, j, lanes);
      });
      for (int l = 0; l < layers; ++l)
        for (Int row = i; row < end; ++row) g.left[(b * layers + l) * in.rows + row] = sum_lanes(sums.left[l][row - i]);
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
