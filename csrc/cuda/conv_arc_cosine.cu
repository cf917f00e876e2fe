// Kernels of infinitely wide convolutional networks on a GPU: a block takes a pair of images through all layers, a
// thread some pixels. Convolutions go through maps in scratch memory, a few kB for a block, which caches hold.
#include <algorithm>

#include "pk/block.h"
#include "pk/conv_arc_cosine.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 128;  // of a block
constexpr int kMaps = 4;       // of a pair: what convolutions read and write, for both kernels

template <int kActivation, class A>
__global__ void __launch_bounds__(kThreads) forward_kernel(Images<A> in, Network<A> net, A* nngp, A* ntk, A* scratch) {
  __shared__ A shared[2 * kThreads / kWarp];
  const Int pixels = in.pixels();
  A* const maps = scratch + blockIdx.x * kMaps * pixels;
  Int i = 0, j = blockIdx.x;
  for (Int pair = blockIdx.x; pair < in.rows * in.columns; pair += gridDim.x, j += gridDim.x) {
    for (; j >= in.columns; j -= in.columns) ++i;  // a division of 64 bits would cost registers
    for (Int p = threadIdx.x; p < pixels; p += kThreads) {
      A sum = 0;
      for (Int c = 0; c < in.channels; ++c)
        sum += in.z[(j * in.channels + c) * pixels + p] * in.x[(i * in.channels + c) * pixels + p];
      maps[p] = sum * (A(1) / A(in.channels));
    }
    A sums[2] = {0, 0};
    for (int l = 0; l < net.layers; ++l) {
      __syncthreads();  // the maps of the layer before are whole
      const A *const k_map = maps + l % 2 * 2 * pixels, *const t_map = k_map + pixels;
      A *const next_k = maps + (l + 1) % 2 * 2 * pixels, *const next_t = next_k + pixels;
      const A ninth = net.weight[l] / A(9);
      const Int of_row = (i * net.layers + l) * pixels, of_column = (j * net.layers + l) * pixels;
      for (Int p = threadIdx.x; p < pixels; p += kThreads) {
        const unsigned y = unsigned(p) / unsigned(in.width), x = unsigned(p) - y * unsigned(in.width);
        const auto around = [&](const A* map) {
          return neighbors(y, x, in.height, in.width, [&](Int q) { return map[q]; });
        };
        const A k = around(k_map) * ninth + net.bias[l];
        const A scale = in.right[of_column + p] * in.left[of_row + p];
        const A inverse = in.right_inverse[of_column + p] * in.left_inverse[of_row + p];
        A value, slope;
        activate<kActivation, A>(angle_of<kActivation, A>(k, inverse), scale, inverse, value, slope);
        if (net.tangent) slope *= l ? k + around(t_map) * ninth : k;
        if (l + 1 == net.layers) {
          sums[0] += value, sums[1] += slope;
        } else {
          next_k[p] = value;
          if (net.tangent) next_t[p] = slope;
        }
      }
    }
    block_sum(sums, shared);
    if (threadIdx.x > 0) continue;
    const A weight = net.weight[net.layers] / A(pixels), k = sums[0] * weight + net.bias[net.layers];
    nngp[pair] = k;
    if (net.tangent) ntk[pair] = k + sums[1] * weight;
  }
}

// A block takes the pairs of a group of rows and a group of columns, and alone adds to their sums.
template <int kActivation, class A>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(Images<A> in, Network<A> net, ImageGradients<A> g, A* scratch) {
  __shared__ double shared[2 * kThreads / kWarp];
  const int layers = net.layers;
  const Int pixels = in.pixels(), block = blockIdx.x;
  const Int row_group = block / g.column_groups, column_group = block % g.column_groups;
  A *const maps = scratch + block * (kMaps + 2 * layers) * pixels, *const kept = maps + kMaps * pixels;
  const Int of_x = in.channels * pixels, of_lengths = layers * pixels;
  double of_layers[kMostLayers + 1][2];
  for (int l = 0; l <= layers; ++l) of_layers[l][0] = of_layers[l][1] = 0;
  // Calls body(p, around) for the thread's pixels; around(map) sums over neighbors.
  const auto for_pixels = [&](auto&& body) {
    for (Int p = threadIdx.x; p < pixels; p += kThreads) {
      const unsigned y = unsigned(p) / unsigned(in.width), x = unsigned(p) - y * unsigned(in.width);
      body(p, [&](const A* map) { return neighbors(y, x, in.height, in.width, [&](Int q) { return map[q]; }); });
    }
  };
  const auto pair = [&](Int i, Int j) {
    const A *const of_i = in.x + i * of_x, *const of_j = in.z + j * of_x;
    __syncthreads();  // the maps of the pair before are read
    for_pixels([&](Int p, auto&&) {
      A sum = 0;
      for (Int c = 0; c < in.channels; ++c) sum += of_j[c * pixels + p] * of_i[c * pixels + p];
      maps[p] = sum * (A(1) / A(in.channels));
    });
    const A *const left = in.left + i * of_lengths, *const left_inverse = in.left_inverse + i * of_lengths;
    const A *const right = in.right + j * of_lengths, *const right_inverse = in.right_inverse + j * of_lengths;
    for (int l = 0; l < layers; ++l) {
      __syncthreads();  // the maps of the layer before are whole
      const A *const k_map = maps + l % 2 * 2 * pixels, *const t_map = k_map + pixels;
      A* const next = maps + (l + 1) % 2 * 2 * pixels;
      const A ninth = net.weight[l] / A(9);
      for_pixels([&](Int p, auto&& around) {
        const Int at = l * pixels + p;
        const A k = around(k_map) * ninth + net.bias[l], t = net.tangent && l ? k + around(t_map) * ninth : k;
        kept[2 * at] = k, kept[2 * at + 1] = t;
        if (l + 1 == layers) return;
        const A scale = right[at] * left[at], inverse = right_inverse[at] * left_inverse[at];
        A value, slope;
        activate<kActivation, A>(angle_of<kActivation, A>(k, inverse), scale, inverse, value, slope);
        next[p] = value;
        if (net.tangent) next[pixels + p] = slope * t;
      });
    }
    const A end_k = g.nngp[i * in.columns + j], end_t = net.tangent ? g.ntk[i * in.columns + j] : A(0);
    if (threadIdx.x == 0) of_layers[layers][1] += double(end_k + end_t);
    A *const of_left = g.left + (column_group * in.rows + i) * of_lengths, *const of_right =
                                                                               g.right + (row_group * in.columns + j) *
                                                                                             of_lengths;
    for (int l = layers - 1; l >= 0; --l) {
      __syncthreads();  // the maps of the layer behind are whole
      const A* const from = maps + (l + 1) % 2 * 2 * pixels;
      A* const to = maps + l % 2 * 2 * pixels;
      for_pixels([&](Int p, auto&& around) {
        const Int at = l * pixels + p;
        A grad_k = end_k / A(pixels), grad_t = end_t / A(pixels);
        if (l + 1 < layers) {
          grad_k = around(from) / A(9);
          if (net.tangent) grad_t = around(from + pixels) / A(9);
        }
        const auto angle = angle_of<kActivation, A>(kept[2 * at], right_inverse[at] * left_inverse[at]);
        const Kept<A> input{kept[2 * at], kept[2 * at + 1], angle.sine, angle.arc};
        const auto found = dense_backward<kActivation, A>(net, l, input, left[at], left_inverse[at], right[at],
                                                          right_inverse[at], grad_k, grad_t);
        of_left[at] += found.left, of_right[at] += found.right;
        of_layers[l + 1][0] += double(found.weight);
        of_layers[l][1] += double(grad_k + grad_t);
        to[p] = l ? grad_k : grad_k + grad_t;
        to[pixels + p] = grad_t;
      });
    }
    __syncthreads();
    A *const to_x = g.x + (column_group * in.rows + i) * of_x, *const to_z = g.z + (row_group * in.columns + j) * of_x;
    for_pixels([&](Int p, auto&& around) {
      const A boxed = around(maps) / A(9 * in.channels), of_product = boxed * net.weight[0];
      A product = 0;
      for (Int at = p; at < of_x; at += pixels) {
        product += of_i[at] * of_j[at];
        to_x[at] += of_product * of_j[at], to_z[at] += of_product * of_i[at];
      }
      of_layers[0][0] += double(boxed * product);
    });
  };
  const Int last_row = group_start(in.rows, row_group + 1, g.row_groups);
  const Int first = group_start(in.columns, column_group, g.column_groups);
  const Int last = group_start(in.columns, column_group + 1, g.column_groups);
  for (Int i = group_start(in.rows, row_group, g.row_groups); i < last_row; ++i)
    for (Int j = first; j < last; ++j) pair(i, j);
  for (int l = 0; l <= layers; ++l) {
    block_sum(of_layers[l], shared);
    double* const to = g.layers + block * 2 * (layers + 1) + l;
    if (threadIdx.x == 0) to[0] = of_layers[l][0], to[layers + 1] = of_layers[l][1];
  }
}

}  // namespace

void conv_arc_cosine_cuda(DType dtype, const void* x, const void* z, const void* left, const void* left_inverse,
                          const void* right, const void* right_inverse, const void* weights, const void* biases,
                          void* nngp, void* ntk, Int rows, Int columns, Int channels, Int height, Int width, Int layers,
                          Int activation, bool tangent, Stream stream) {
  dispatch_wide("conv_arc_cosine", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const auto in =
        images_of<A>(x, z, left, left_inverse, right, right_inverse, rows, columns, channels, height, width);
    const Network<A> net{in_a(weights), in_a(biases), int(layers), false, tangent};
    const auto kernel = activation == kRelu ? forward_kernel<kRelu, A> : forward_kernel<kErf, A>;
    const Int blocks = std::min(rows * columns, resident_blocks(kernel, kThreads));
    const Scratch<A> scratch(blocks * kMaps * in.pixels(), stream);
    PK_LAUNCH(kernel, dim3(unsigned(blocks)), dim3(kThreads), 0, stream, in, net, static_cast<A*>(nngp),
              static_cast<A*>(ntk), scratch.data());
  });
}

void conv_arc_cosine_bwd_cuda(DType dtype, const void* x, const void* z, const void* left, const void* left_inverse,
                              const void* right, const void* right_inverse, const void* weights, const void* biases,
                              const void* grad_nngp, const void* grad_ntk, void* grad_x, void* grad_z, void* grad_left,
                              void* grad_right, void* grad_layers, Int rows, Int columns, Int channels, Int height,
                              Int width, Int layers, Int activation, bool tangent, Int row_groups, Int column_groups,
                              Stream stream) {
  dispatch_wide("conv_arc_cosine_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const auto in =
        images_of<A>(x, z, left, left_inverse, right, right_inverse, rows, columns, channels, height, width);
    const Network<A> net{in_a(weights), in_a(biases), int(layers), false, tangent};
    const auto g = gradients_of<A>(grad_nngp, grad_ntk, grad_x, grad_z, grad_left, grad_right, grad_layers, row_groups,
                                   column_groups);
    const auto kernel = activation == kRelu ? backward_kernel<kRelu, A> : backward_kernel<kErf, A>;
    const Scratch<A> scratch(row_groups * column_groups * (kMaps + 2 * layers) * in.pixels(), stream);
    PK_LAUNCH(kernel, dim3(unsigned(row_groups * column_groups)), dim3(kThreads), 0, stream, in, net, g,
              scratch.data());
  });
}

}  // namespace pk
