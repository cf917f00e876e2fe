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

constexpr int kMaps = 4;   // of sixteen pairs: what convolutions read and write, for both kernels
constexpr int kParts = 4;  // of what the backward keeps of a pixel's input: Kept

// Image i and images j, j + 1, ... through all layers: the sums over pixels of both kernels behind the last activation.
// keep(l, p, k, t, angle) sees what each layer gets.
template <int kActivation, int B, class A, class Lanes, class Keep>
PK_HD void through_layers(const Images<A>& in, const Network<A>& net, Int i, Int j, A* memory, Lanes lanes,
                          Vec<A, B>& sum_k, Vec<A, B>& sum_t, Keep&& keep) {
  const Int pixels = in.pixels(), size = kLanes * pixels;
  A *k_map = memory, *t_map = memory + size, *next_k = memory + 2 * size, *next_t = memory + 3 * size;
  const auto row = [&](const A* p) PK_INLINE { return load_vec<B>(p, lanes); };
  for (Int p = 0; p < pixels; ++p) {
    Vec<A, B> sum = {};
    for (Int c = 0; c < in.channels; ++c)
      sum += row(in.z + (c * pixels + p) * in.columns + j) * in.x[(i * in.channels + c) * pixels + p];
    store_vec(k_map + kLanes * p, sum * (A(1) / A(in.channels)));
  }
  sum_k = sum_t = Vec<A, B>{};
  for (int l = 0; l < net.layers; ++l) {
    const A ninth = net.weight[l] / A(9);
    const bool last = l + 1 == net.layers;
    const Int of_row = (i * net.layers + l) * pixels;
    for (Int y = 0, p = 0; y < in.height; ++y)
      for (Int x = 0; x < in.width; ++x, ++p) {
        const auto around = [&](const A* map) PK_INLINE {
          return neighbors(y, x, in.height, in.width, [&](Int q) PK_INLINE { return load_vec<B>(map + kLanes * q); });
        };
        const Vec<A, B> k = around(k_map) * ninth + net.bias[l];
        const Int place = (l * pixels + p) * in.columns + j;
        const Vec<A, B> scale = row(in.right + place) * in.left[of_row + p];
        const Vec<A, B> inverse = row(in.right_inverse + place) * in.left_inverse[of_row + p];
        const auto angle = angle_of<kActivation, A>(k, inverse);
        Vec<A, B> value, slope, t = k;
        activate<kActivation, A>(angle, scale, inverse, value, slope);
        if (net.tangent && l) t = k + around(t_map) * ninth;
        keep(l, p, k, t, angle);
        if (net.tangent) slope = slope * t;
        if (last) {
          sum_k += value, sum_t += slope;
        } else {
          store_vec(next_k + kLanes * p, value);
          if (net.tangent) store_vec(next_t + kLanes * p, slope);
        }
      }
    std::swap(k_map, next_k), std::swap(t_map, next_t);
  }
}

template <int kActivation>
struct Forward {
  template <int B, class A, class Lanes>
  PK_HD static void pairs(const Images<A>& in, const Network<A>& net, A* nngp, A* ntk, Int i, Int j, A* memory,
                          Lanes lanes) {
    Vec<A, B> sum_k, sum_t;
    through_layers<kActivation>(in, net, i, j, memory, lanes, sum_k, sum_t, [](auto&&...) PK_INLINE {});
    const A weight = net.weight[net.layers] / A(in.pixels());
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

// Where a task adds: image i of a group of rows, and the images of a group of columns.
template <class A>
struct Sums {
  A *x, *z, *left, *right;  // (C, P), (C, P, N), (L, P), (L, P, N)
  double *weight, *bias;    // (L + 1)
};

template <int kActivation>
struct Backward {
  // The gradients of a layer, from those of its outputs, in maps `from`: those of its inputs go to maps `to`.
  template <int B, class A, class Lanes>
  PK_HD static void layer(const Images<A>& in, const Network<A>& net, int l, Int i, Int j, const A* kept_all,
                          const Vec<A, B> (&ends)[2], const A* from, A* to, const Sums<A>& sums, Lanes lanes) {
    const Int pixels = in.pixels(), size = kLanes * pixels, of_row = (i * net.layers + l) * pixels;
    Vec<A, B> of_weight = {}, of_bias = {};
    for (Int y = 0, p = 0; y < in.height; ++y)
      for (Int x = 0; x < in.width; ++x, ++p) {
        const auto around = [&](const A* map) PK_INLINE {
          const auto at = [&](Int q) PK_INLINE { return load_vec<B>(map + kLanes * q); };
          return neighbors(y, x, in.height, in.width, at) * (A(1) / A(9));
        };
        Vec<A, B> grad_k = ends[0], grad_t = ends[1];
        if (l + 1 < net.layers) {
          grad_k = around(from);
          if (net.tangent) grad_t = around(from + size);
        }
        const A* const parts = kept_all + (l * pixels + p) * kParts * kLanes;
        Kept<Vec<A, B>> kept;
        kept.k = load_vec<B>(parts), kept.t = load_vec<B>(parts + kLanes);
        kept.sine = load_vec<B>(parts + 2 * kLanes), kept.arc = load_vec<B>(parts + 3 * kLanes);
        const Int local = l * pixels + p, place = local * in.columns + j;
        const auto right = load_vec<B>(in.right + place, lanes);
        const auto right_inverse = load_vec<B>(in.right_inverse + place, lanes);
        const auto found = dense_backward<kActivation, A>(
            net, l, kept, in.left[of_row + p], in.left_inverse[of_row + p], right, right_inverse, grad_k, grad_t);
        A* const of_right = sums.right + place;
        store_vec(of_right, load_vec<B>(static_cast<const A*>(of_right), lanes) + found.right, lanes);
        sums.left[local] += sum_lanes(found.left);
        of_weight += found.weight;
        of_bias += net.tangent ? grad_k + grad_t : grad_k;
        store_vec(to + kLanes * p, l || !net.tangent ? grad_k : grad_k + grad_t);
        if (net.tangent) store_vec(to + size + kLanes * p, grad_t);
      }
    sums.weight[l + 1] += double(sum_lanes(of_weight));
    sums.bias[l] += double(sum_lanes(of_bias));
  }

  // The gradients of images, from that of the first convolution's outputs.
  template <int B, class A, class Lanes>
  PK_HD static void images(const Images<A>& in, const Network<A>& net, Int i, Int j, const A* map, const Sums<A>& sums,
                           Lanes lanes) {
    const Int pixels = in.pixels();
    const A share = A(1) / A(in.channels);
    Vec<A, B> of_weight = {};
    for (Int y = 0, p = 0; y < in.height; ++y)
      for (Int x = 0; x < in.width; ++x, ++p) {
        const auto at = [&](Int q) PK_INLINE { return load_vec<B>(map + kLanes * q); };
        const Vec<A, B> boxed = neighbors(y, x, in.height, in.width, at) * (share / A(9));
        const Vec<A, B> of_product = boxed * net.weight[0];
        Vec<A, B> product = {};
        for (Int c = 0; c < in.channels; ++c) {
          const Int local = c * pixels + p, place = local * in.columns + j;
          const A pixel = in.x[i * in.channels * pixels + local];
          const auto other = load_vec<B>(in.z + place, lanes);
          product += other * pixel;
          sums.x[local] += sum_lanes(of_product * other);
          A* const of_z = sums.z + place;
          store_vec(of_z, load_vec<B>(static_cast<const A*>(of_z), lanes) + of_product * pixel, lanes);
        }
        of_weight += boxed * product;
      }
    sums.weight[0] += double(sum_lanes(of_weight));
  }

  template <int B, class A, class Lanes>
  PK_HD static void pairs(const Images<A>& in, const Network<A>& net, const ImageGradients<A>& g, const Sums<A>& sums,
                          Int i, Int j, A* memory, Lanes lanes) {
    const Int size = kLanes * in.pixels();
    A* const kept = memory + kMaps * size;
    Vec<A, B> ends[2] = {};
    through_layers<kActivation>(in, net, i, j, memory, lanes, ends[0], ends[1],
                                [&](int l, Int p, const auto& k, const auto& t, const auto& angle) PK_INLINE {
                                  A* const parts = kept + (l * in.pixels() + p) * kParts * kLanes;
                                  store_vec(parts, k), store_vec(parts + kLanes, t);
                                  store_vec(parts + 2 * kLanes, angle.sine), store_vec(parts + 3 * kLanes, angle.arc);
                                });
    ends[0] = load_vec<B>(g.nngp + i * in.columns + j, lanes), ends[1] = Vec<A, B>{};
    if (net.tangent) ends[1] = load_vec<B>(g.ntk + i * in.columns + j, lanes);
    sums.bias[net.layers] += double(sum_lanes(ends[0] + ends[1]));
    for (auto& end : ends) end = end * (A(1) / A(in.pixels()));
    A *from = memory, *to = memory + 2 * size;
    for (int l = net.layers - 1; l >= 0; --l, std::swap(from, to))
      layer<B>(in, net, l, i, j, kept, ends, from, to, sums, lanes);
    images<B>(in, net, i, j, from, sums, lanes);
  }

  template <int B, class A>
  PK_HD static void run(const Images<A>& in, const Network<A>& net, const ImageGradients<A>& g, Int row_group,
                        Int column_group, A* memory) {
    const Int layers = net.layers, of_x = in.channels * in.pixels(), of_lengths = layers * in.pixels();
    const Int blocks = (in.columns + kLanes - 1) / kLanes;
    double* const of_layers = g.layers + (row_group * g.column_groups + column_group) * 2 * (layers + 1);
    const Int last = group_start(in.rows, row_group + 1, g.row_groups);
    for (Int i = group_start(in.rows, row_group, g.row_groups); i < last; ++i) {
      const Int image = column_group * in.rows + i;
      const Sums<A> sums{g.x + image * of_x,
                         g.z + row_group * of_x * in.columns,
                         g.left + image * of_lengths,
                         g.right + row_group * of_lengths * in.columns,
                         of_layers,
                         of_layers + layers + 1};
      for (Int block = group_start(blocks, column_group, g.column_groups);
           block < group_start(blocks, column_group + 1, g.column_groups); ++block) {
        const Int j = block * kLanes;
        if (j + kLanes <= in.columns)
          pairs<B>(in, net, g, sums, i, j, memory, Full{});
        else
          pairs<B>(in, net, g, sums, i, j, memory, int(in.columns - j));
      }
    }
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
    const auto in =
        images_of<A>(x, z, left, left_inverse, right, right_inverse, rows, columns, channels, height, width);
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

void conv_arc_cosine_bwd_cpu(DType dtype, const void* x, const void* z, const void* left, const void* left_inverse,
                             const void* right, const void* right_inverse, const void* weights, const void* biases,
                             const void* grad_nngp, const void* grad_ntk, void* grad_x, void* grad_z, void* grad_left,
                             void* grad_right, void* grad_layers, Int rows, Int columns, Int channels, Int height,
                             Int width, Int layers, Int activation, bool tangent, Int row_groups, Int column_groups,
                             Threads threads) {
  dispatch_wide("conv_arc_cosine_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in_a = [](const void* p) { return static_cast<const A*>(p); };
    const auto in =
        images_of<A>(x, z, left, left_inverse, right, right_inverse, rows, columns, channels, height, width);
    const Network<A> net{in_a(weights), in_a(biases), int(layers), false, tangent};
    const auto g = gradients_of<A>(grad_nngp, grad_ntk, grad_x, grad_z, grad_left, grad_right, grad_layers, row_groups,
                                   column_groups);
    const Int tasks = row_groups * column_groups;
#pragma omp parallel num_threads(threads.count) if (tasks > 1)
    {
      std::vector<A> memory((kMaps + kParts * layers) * kLanes * in.pixels());
#pragma omp for schedule(static)
      for (Int task = 0; task < tasks; ++task) {
        const Int row_group = task / column_groups, column_group = task % column_groups;
        if (activation == kRelu)
          run_best<Backward<kRelu>>(in, net, g, row_group, column_group, memory.data());
        else
          run_best<Backward<kErf>>(in, net, g, row_group, column_group, memory.data());
      }
    }
  });
}

}  // namespace pk
