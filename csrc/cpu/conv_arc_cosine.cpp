// Kernels of infinitely wide convolutional networks on the CPU: an image and sixteen others at a time, whose maps stay
// in cache through all layers. Each pair is computed alone, so that every thread count gives the same bits.
#include "pk/conv_arc_cosine.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "pk/arc_cosine_cpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kMaps = 4;  // of sixteen pairs: what convolutions read and write, for both kernels

template <int kActivation>
struct Forward {
  template <int B, class A, class Lanes>
  PK_HD static void pairs(const Images<A>& in, const Network<A>& net, A* nngp, A* ntk, Int i, Int j, A* memory,
                          Lanes lanes) {
    const Int pixels = in.pixels(), size = kLanes * pixels;
    A *k_map = memory, *t_map = memory + size, *next_k = memory + 2 * size, *next_t = memory + 3 * size;
    const auto row = [&](const A* p) PK_INLINE { return load_vec<B>(p, lanes); };
    for (Int p = 0; p < pixels; ++p) {
      Vec<A, B> sum = {};
      for (Int c = 0; c < in.channels; ++c)
        sum += row(in.z + (c * pixels + p) * in.columns + j) * in.x[(i * in.channels + c) * pixels + p];
      store_vec(k_map + kLanes * p, sum * (A(1) / A(in.channels)));
    }
    Vec<A, B> sum_k = {}, sum_t = {};
    for (int l = 0; l < net.layers; ++l) {
      const A ninth = net.weight[l] / A(9);
      const bool last = l + 1 == net.layers;
      const A *const left = in.left + (i * net.layers + l) * pixels, *const left_inverse =
                                                                         in.left_inverse +
                                                                         (i * net.layers + l) * pixels;
      for (Int y = 0, p = 0; y < in.height; ++y)
        for (Int x = 0; x < in.width; ++x, ++p) {
          const auto around = [&](const A* map) PK_INLINE {
            return neighbors(y, x, in.height, in.width, [&](Int q) PK_INLINE { return load_vec<B>(map + kLanes * q); });
          };
          const Vec<A, B> k = around(k_map) * ninth + net.bias[l];
          const Int place = (l * pixels + p) * in.columns + j;
          const Vec<A, B> scale = row(in.right + place) * left[p];
          const Vec<A, B> inverse = row(in.right_inverse + place) * left_inverse[p];
          Vec<A, B> value, slope;
          activate<kActivation, A>(angle_of<kActivation, A>(k, inverse), scale, inverse, value, slope);
          if (net.tangent) slope = slope * (l ? k + around(t_map) * ninth : k);
          if (last) {
            sum_k += value, sum_t += slope;
          } else {
            store_vec(next_k + kLanes * p, value);
            if (net.tangent) store_vec(next_t + kLanes * p, slope);
          }
        }
      std::swap(k_map, next_k), std::swap(t_map, next_t);
    }
    const A weight = net.weight[net.layers] / A(pixels);
    const Vec<A, B> k = sum_k * weight + net.bias[net.layers];
    store_vec(nngp + i * in.columns + j, k, lanes);
    if (net.tangent) store_vec(ntk + i * in.columns + j, k + sum_t * weight, lanes);
  }

  template <int B, class A>
  PK_HD static void run(const Images<A>& in, const Network<A>& net, A* nngp, A* ntk, Int i, Int j, A* memory) {
    if (j + kLanes <= in.columns) return pairs<B>(in, net, nngp, ntk, i, j, memory, Full{});
    pairs<B>(in, net, nngp, ntk, i, j, memory, int(in.columns - j));
  }
};

}  // namespace

void conv_arc_cosine_cpu(DType dtype, const void* x, const void* z, const void* left, const void* left_inverse,
                         const void* right, const void* right_inverse, const void* weights, const void* biases,
                         void* nngp, void* ntk, Int rows, Int columns, Int channels, Int height, Int width, Int layers,
                         Int activation, bool tangent, Threads threads) {
  dispatch_wide("conv_arc_cosine", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const Images<A> in{
        in_a(x),  in_a(z), in_a(left), in_a(left_inverse), in_a(right), in_a(right_inverse), rows, columns,
        channels, height,  width};
    const Network<A> net{in_a(weights), in_a(biases), int(layers), false, tangent};
    A *const to_nngp = static_cast<A*>(nngp), *const to_ntk = static_cast<A*>(ntk);
    const Int blocks = (columns + kLanes - 1) / kLanes, tasks = rows * blocks;
#pragma omp parallel num_threads(threads.count) if (tasks > 1)
    {
      std::vector<A> memory(kMaps * kLanes * in.pixels());
#pragma omp for schedule(static)
      for (Int task = 0; task < tasks; ++task) {
        const Int i = task / blocks, j = task % blocks * kLanes;
        if (activation == kRelu)
          run_best<Forward<kRelu>>(in, net, to_nngp, to_ntk, i, j, memory.data());
        else
          run_best<Forward<kErf>>(in, net, to_nngp, to_ntk, i, j, memory.data());
      }
    }
  });
}

}  // namespace pk
