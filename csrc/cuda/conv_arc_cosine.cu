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

}  // namespace

void conv_arc_cosine_cuda(DType dtype, const void* x, const void* z, const void* left, const void* left_inverse,
                          const void* right, const void* right_inverse, const void* weights, const void* biases,
                          void* nngp, void* ntk, Int rows, Int columns, Int channels, Int height, Int width, Int layers,
                          Int activation, bool tangent, Stream stream) {
  dispatch_wide("conv_arc_cosine", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const Images<A> in{
        in_a(x),  in_a(z), in_a(left), in_a(left_inverse), in_a(right), in_a(right_inverse), rows, columns,
        channels, height,  width};
    const Network<A> net{in_a(weights), in_a(biases), int(layers), false, tangent};
    const auto kernel = activation == kRelu ? forward_kernel<kRelu, A> : forward_kernel<kErf, A>;
    const Int blocks = std::min(rows * columns, resident_blocks(kernel, kThreads));
    const Scratch<A> scratch(blocks * kMaps * in.pixels(), stream);
    PK_LAUNCH(kernel, dim3(unsigned(blocks)), dim3(kThreads), 0, stream, in, net, static_cast<A*>(nngp),
              static_cast<A*>(ntk), scratch.data());
  });
}

}  // namespace pk
