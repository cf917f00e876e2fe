// Kernels of infinitely wide networks on a GPU: a thread takes a pair of points through all layers in registers. Sums
// are those of a block of rows and columns, and are added up later in a fixed order.
#include "pk/arc_cosine.h"
#include "pk/block.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kColumns = 128;  // threads of a block; COLUMNS of python/probkernels/ops/arc_cosine.py
constexpr int kRows = 8;       // of a block, forward

// The pair (row i, column j) of batch b: places of the lengths of both, in the first layer.
template <class A>
struct Pair {
  Int place, left, right;  // in k; in left, the next layer `rows` further; in right, `columns` further
  PK_HD Pair(const Pairs<A>& in, int layers, Int b, Int i, Int j)
      : place((b * in.rows + i) * in.columns + j), left(b * layers * in.rows + i), right(b * layers * in.columns + j) {}
};

template <int kActivation, class A>
__device__ void through_layer(const Pairs<A>& in, const Network<A>& net, const Pair<A>& at, int l, A& k, A& t,
                              Kept<A>* kept) {
  const Int of_row = at.left + l * in.rows, of_column = at.right + l * in.columns;
  const A scale = in.left[of_row] * in.right[of_column];
  const A inverse = in.left_inverse[of_row] * in.right_inverse[of_column];
  const Angle<A> angle = angle_of<kActivation, A>(k, inverse);
  if (kept) kept[l] = {k, t, angle.sine, angle.arc};
  A value, slope;
  activate<kActivation, A>(angle, scale, inverse, value, slope);
  dense(net, l, value, slope, k, t);
}

// What this block computes: kColumns columns and some rows of matrix b. The grid lies along x, as y and z end at
// 65,535.
struct Spot {
  Int across, column, down, row, b;  // number of blocks and this block's index, of columns and of rows
  template <class A>
  __device__ Spot(const Pairs<A>& in, Int block_rows)
      : across((in.columns + kColumns - 1) / kColumns),
        column(blockIdx.x % across),
        down((in.rows + block_rows - 1) / block_rows),
        row(blockIdx.x / across % down),
        b(blockIdx.x / across / down) {}
};

template <int kActivation, class A>
__global__ void __launch_bounds__(kColumns)
    forward_kernel(Pairs<A> in, Network<A> net, const A* diagonal, A* nngp, A* ntk) {
  const Spot spot(in, kRows);
  const Int j = spot.column * kColumns + threadIdx.x, b = spot.b;
  if (j >= in.columns) return;
  for (Int i = spot.row * kRows; i < in.rows && i < (spot.row + 1) * kRows; ++i) {
    const Pair<A> at(in, net.layers, b, i, j);
    A k = in.k[at.place] * net.weight[0] + net.bias[0], t = k;
    for (int l = 0; l < net.layers; ++l)
      through_layer<kActivation>(in, net, at, l, k, t, static_cast<Kept<A>*>(nullptr));
    if (diagonal && i == j) k = diagonal[2 * b * in.rows + i], t = diagonal[(2 * b + 1) * in.rows + i];
    nngp[at.place] = k;
    if (net.tangent) ntk[at.place] = t;
  }
}

template <class A>
struct Gradients {
  const A *nngp, *ntk;
  A *k, *left, *right;  // (B, M, N), (B, column blocks, L, M), (B, row blocks, L, N)
  double* layers;       // (B, row blocks, column blocks, 2, L + 1)
  Int block_rows;
  bool same;  // the diagonal is none of the kernel's business
};

template <int kActivation, class A>
__global__ void __launch_bounds__(kColumns) backward_kernel(Pairs<A> in, Network<A> net, Gradients<A> g) {
  __shared__ A shared[kColumns / kWarp];
  __shared__ double shared_layers[2 * kColumns / kWarp];
  const int layers = net.layers;
  const Spot spot(in, g.block_rows);
  const Int j = spot.column * kColumns + threadIdx.x, b = spot.b, first = spot.row * g.block_rows;
  const bool inside = j < in.columns;
  Kept<A> kept[kMostLayers];
  A right[kMostLayers];
  double of_layers[kMostLayers + 1][2];
  for (int l = 0; l <= layers; ++l) {
    if (l < layers) right[l] = 0;
    of_layers[l][0] = of_layers[l][1] = 0;
  }
  for (Int i = first; i < in.rows && i < first + g.block_rows; ++i) {
    const Pair<A> at(in, layers, b, i, inside ? j : 0);
    const A input = in.k[at.place];
    A k = input * net.weight[0] + net.bias[0], t = k;
    for (int l = 0; l < layers; ++l) through_layer<kActivation>(in, net, at, l, k, t, kept);
    const bool counts = inside && !(g.same && i == j);
    A grad_k = counts ? g.nngp[at.place] : A(0), grad_t = counts && net.tangent ? g.ntk[at.place] : A(0);
    for (int l = layers - 1; l >= 0; --l) {
      const Int of_row = at.left + l * in.rows, of_column = at.right + l * in.columns;
      const auto found =
          dense_backward<kActivation, A>(net, l, kept[l], in.left[of_row], in.left_inverse[of_row], in.right[of_column],
                                         in.right_inverse[of_column], grad_k, grad_t);
      right[l] += found.right;
      of_layers[l + 1][0] += double(found.weight);
      of_layers[l + 1][1] += double(found.bias);
      A left[1] = {found.left};
      block_sum(left, shared);
      if (threadIdx.x == 0) g.left[((b * spot.across + spot.column) * layers + l) * in.rows + i] = left[0];
    }
    if (net.tangent) grad_k += grad_t;
    of_layers[0][0] += double(grad_k * input);
    of_layers[0][1] += double(grad_k);
    if (inside) g.k[at.place] = grad_k * net.weight[0];
  }
  double* const to = g.layers + ((b * spot.down + spot.row) * spot.across + spot.column) * 2 * (layers + 1);
  for (int l = 0; l <= layers; ++l) {
    if (l < layers && inside) g.right[((b * spot.down + spot.row) * layers + l) * in.columns + j] = right[l];
    block_sum(of_layers[l], shared_layers);
    if (threadIdx.x == 0) to[l] = of_layers[l][0], to[layers + 1 + l] = of_layers[l][1];
  }
}

dim3 grid(Int batch, Int rows, Int columns, Int block_rows) {
  const auto blocks = [](Int n, Int each) { return (n + each - 1) / each; };
  return dim3(unsigned(blocks(columns, kColumns) * blocks(rows, block_rows) * batch));
}

}  // namespace

void arc_cosine_cuda(DType dtype, const void* k, const void* left, const void* left_inverse, const void* right,
                     const void* right_inverse, const void* weights, const void* biases, Maybe diagonal, void* nngp,
                     void* ntk, Int batch, Int rows, Int columns, Int layers, Int activation, bool residual,
                     bool tangent, Stream stream) {
  dispatch_wide("arc_cosine", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const Pairs<A> in{in_a(k), in_a(left), in_a(left_inverse), in_a(right), in_a(right_inverse), batch, rows, columns};
    const Network<A> net{in_a(weights), in_a(biases), int(layers), residual, tangent};
    const auto kernel = activation == kRelu  ? forward_kernel<kRelu, A>
                        : activation == kErf ? forward_kernel<kErf, A>
                                             : forward_kernel<kHeaviside, A>;
    PK_LAUNCH(kernel, grid(batch, rows, columns, kRows), dim3(kColumns), 0, stream, in, net, diagonal.as<A>(),
              static_cast<A*>(nngp), static_cast<A*>(ntk));
  });
}

void arc_cosine_bwd_cuda(DType dtype, const void* k, const void* left, const void* left_inverse, const void* right,
                         const void* right_inverse, const void* weights, const void* biases, const void* grad_nngp,
                         const void* grad_ntk, void* grad_k, void* grad_left, void* grad_right, void* grad_layers,
                         Int batch, Int rows, Int columns, Int layers, Int activation, bool residual, bool tangent,
                         bool same, Int block_rows, Stream stream) {
  dispatch_wide("arc_cosine_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const auto out_a = [](void* p) { return static_cast<A*>(p); };
    const Pairs<A> in{in_a(k), in_a(left), in_a(left_inverse), in_a(right), in_a(right_inverse), batch, rows, columns};
    const Network<A> net{in_a(weights), in_a(biases), int(layers), residual, tangent};
    const Gradients<A> g{in_a(grad_nngp),   in_a(grad_ntk),
                         out_a(grad_k),     out_a(grad_left),
                         out_a(grad_right), static_cast<double*>(grad_layers),
                         block_rows,        same};
    const auto kernel = activation == kRelu  ? backward_kernel<kRelu, A>
                        : activation == kErf ? backward_kernel<kErf, A>
                                             : backward_kernel<kHeaviside, A>;
    PK_LAUNCH(kernel, grid(batch, rows, columns, block_rows), dim3(kColumns), 0, stream, in, net, g);
  });
}

}  // namespace pk
