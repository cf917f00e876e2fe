// Likelihoods and circuit flows of latent tree models on a GPU. A block of threads owns 32 images, one a lane, and
// walks the whole tree: messages lie in scratch memory as (state, image), so that every access to them is a whole line,
// and matrices pass through shared memory in tiles. Messages are linear; a node scales each image's by a power of two,
// which rounds nothing. Every state of a product has an exponent of its own until the last factor: what one makes
// small, another may restore. For flows the block walks down again and leaves ratios and posteriors, from which two
// kernels add up the flows of every matrix and every table: each entry has one thread that adds to it, images in order,
// so there are no atomics and the same bits every time. Images go in groups that keep the scratch memory bounded. An
// image of which a state flushed that counts comes out as NaN, without flows: the caller computes it otherwise.
#include "pk/gpu.h"
#include "pk/latent_tree.h"

namespace pk {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kSide = 32;                    // of tiles: images, rows and columns of matrices
constexpr int kOwn = kSide / kWarps;         // rows of a tile that a thread owns
constexpr Int kScratchBytes = Int(1) << 30;  // of a group of images, unless 32 of them take more

// A node as Python lays it out on the device, with the places of its messages: `product` for its states, `sent` for
// those of its parent.
struct Placed {
  TreeNode node;
  Int product, sent, missing;  // missing: place of its flows of missing observations
  Int exponents;               // place of those of its product's states, -1: of one factor there are none
  Int first;                   // the first factor of the parent's product
};

// A group of images. `stride` of them, a multiple of 32, of which those from `batch` on are not there.
template <class A>
struct Group {
  const Placed* nodes;
  Int count, first, stride, batch;
  const A *weights, *leaves, *grad;
  const std::int32_t* codes;
  A *log_prob, *products, *sent, *posteriors;
  std::int32_t* exponents;
};

template <class A>
struct Shared {
  A matrix[kSide][kSide + 1], x[kSide][kSide + 1];
  int largest[kWarps][kWarp];  // exponents
  bool lost[kWarp];            // images of which a state flushed that counts
};

// done(row, sum over s of matrix(row, s) x(s)) for the rows of this thread, at its image. matrix(row, s) lies at
// row * down + s * along, of which one is 1.
template <class A, class Done>
__device__ __forceinline__ void multiply(Shared<A>& shared, const A* matrix, Int down, Int along, int rows, int depth,
                                         const A* x, Int stride, const Done& done) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int row = 0; row < rows; row += kSide) {
    A sum[kOwn] = {};
    for (int start = 0; start < depth; start += kSide) {
      __syncthreads();  // the tiles before these may still be read
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const int i = warp + j * kWarps;
        const int r = along == 1 ? i : lane, s = along == 1 ? lane : i;
        const bool here = row + r < rows && start + s < depth;
        shared.matrix[r][s] = here ? matrix[(row + r) * down + (start + s) * along] : A(0);
        shared.x[i][lane] = start + i < depth ? x[(start + i) * stride] : A(0);
      }
      __syncthreads();
      for (int s = 0; s < kSide; ++s)
#pragma unroll
        for (int i = 0; i < kOwn; ++i) sum[i] += shared.matrix[warp * kOwn + i][s] * shared.x[s][lane];
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      if (row + warp * kOwn + i < rows) done(row + warp * kOwn + i, sum[i]);
  }
}

// Puts the states of factor(state) into a product (states, images), brought to a common exponent, which is returned:
// the largest. States below 2^-kRange of that come out near that.
template <class A, class Value>
__device__ __forceinline__ int align(Shared<A>& shared, int states, A* product, Int stride, const Value& factor) {
  constexpr int kNone = -(1 << 30);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int largest = kNone;
  for (int k = warp; k < states; k += kWarps) {
    const Factor<A> v = factor(k);
    if (v.mantissa != A(0)) largest = v.exponent > largest ? v.exponent : largest;
  }
  shared.largest[warp][lane] = largest;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) largest = shared.largest[w][lane] > largest ? shared.largest[w][lane] : largest;
  for (int k = warp; k < states; k += kWarps) {
    const Factor<A> v = factor(k);
    product[k * stride] = v.mantissa * power_of_two<A>(v.exponent - largest);
  }
  __syncthreads();  // before the product or the maxima are used by others
  return largest == kNone ? 0 : largest;
}

// Whether a sum is small though terms of it are not zero: some may have flushed.
template <class A>
__device__ __forceinline__ bool is_lost(const Group<A>& in, const TreeNode& node, int row, const A* product, A sum) {
  int exponent = PowerOfTwo<A>::kMantissa + 3 - PowerOfTwo<A>::kRange;  // states times 2^-kRange, and rounding
  for (Int k = node.states; k > 1; k /= 2) ++exponent;
  if (!(sum < power_of_two<A>(exponent))) return false;
  for (Int k = 0; k < node.states; ++k)
    if (in.weights[node.weights + row * node.states + k] > A(0) && product[k * in.stride] > A(0)) return true;
  return false;
}

// One image's leaves of a node: value(state), 1 where the observation is missing.
template <class A>
struct Leaf {
  const A* row;
  __device__ Leaf(const Group<A>& in, const TreeNode& node, Int image) : row(nullptr) {
    if (!node.observed() || image >= in.batch) return;
    const std::int32_t x = in.codes[node.variable * in.batch + image];
    if (x >= 0 && x < node.categories) row = in.leaves + node.leaves + x * node.states;
  }
  __device__ A operator()(int state) const { return row ? row[state] : A(1); }
};

template <class A>
__device__ __forceinline__ Int states_above(const Group<A>& in, const TreeNode& node) {
  return node.parent < 0 ? 1 : in.nodes[node.parent].node.states;
}

template <class A>
__device__ __forceinline__ std::int32_t* exponents_at(const Group<A>& in, const Placed& placed, Int at) {
  return placed.exponents < 0 ? nullptr : in.exponents + placed.exponents * in.stride + at;
}

// Messages from the leaves to the root; returns the exponents that were taken out.
template <class A>
__device__ __forceinline__ int walk_up(Shared<A>& shared, const Group<A>& in, Int at, bool keep) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int exponent = 0;
  if (warp == 0) shared.lost[lane] = false;
  __syncthreads();
  for (Int n = in.count - 1; n >= 0; --n) {
    const Placed& placed = in.nodes[n];
    const TreeNode& node = placed.node;
    const Leaf<A> leaf(in, node, in.first + at);
    const int above = int(states_above(in, node));
    A* const parent = node.parent < 0 ? nullptr : in.products + in.nodes[node.parent].product * in.stride + at;
    std::int32_t* const exponents = node.parent < 0 ? nullptr : exponents_at(in, in.nodes[node.parent], at);
    const auto send = [&](int k, A sum) {
      if (node.latent() && is_lost(in, node, k, in.products + placed.product * in.stride + at, sum))
        shared.lost[lane] = true;
      if (node.latent() && (keep || !parent)) in.sent[placed.sent * in.stride + at + k * in.stride] = sum;
      if (!parent) return;
      const Int place = k * in.stride;
      if (!exponents) {
        parent[place] = sum;
        return;
      }
      const Factor<A> v(placed.first ? A(1) : parent[place], placed.first ? nullptr : exponents + place, sum);
      parent[place] = v.mantissa;
      exponents[place] = v.exponent;
    };
    if (node.latent()) {
      A* const product = in.products + placed.product * in.stride + at;
      const std::int32_t* const own = node.children ? exponents_at(in, placed, at) : nullptr;
      exponent += align(shared, int(node.states), product, in.stride, [&](int k) {
        const Int place = k * in.stride;
        return Factor<A>(node.children ? product[place] : A(1), own ? own + place : nullptr, leaf(k));
      });
      multiply(shared, in.weights + node.weights, node.states, Int(1), above, int(node.states), product, in.stride,
               send);
    } else {
      for (int k = warp; k < above; k += kWarps) send(k, leaf(k));
    }
    __syncthreads();
  }
  return exponent;
}

// Posteriors from the root to the leaves; what was sent becomes the parent's posterior over it.
template <class A>
__device__ __forceinline__ void walk_down(Shared<A>& shared, const Group<A>& in, Int at) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Int image = in.first + at;
  const A counted = image >= in.batch || shared.lost[lane] ? A(0) : in.grad ? in.grad[image] : A(1);
  const A size = counted < A(0) ? -counted : counted;
  const A least = PowerOfTwo<A>::kLeast * (size > A(1) ? size : A(1));  // a ratio above would overflow
  for (Int n = 0; n < in.count; ++n) {
    const Placed& placed = in.nodes[n];
    const TreeNode& node = placed.node;
    if (!node.latent()) continue;
    const int above = int(states_above(in, node));
    A* const ratio = in.sent + placed.sent * in.stride + at;
    for (int k = warp; k < above; k += kWarps) {
      const A q = node.parent < 0 ? counted : in.posteriors[(in.nodes[node.parent].product + k) * in.stride + at];
      ratio[k * in.stride] = ratio[k * in.stride] < least ? A(0) : q / ratio[k * in.stride];
    }
    __syncthreads();
    const A* const product = in.products + placed.product * in.stride + at;
    A* const q = in.posteriors + placed.product * in.stride + at;
    multiply(shared, in.weights + node.weights, Int(1), node.states, int(node.states), above, ratio, in.stride,
             [&](int k, A sum) { q[k * in.stride] = product[k * in.stride] * sum; });
    __syncthreads();
  }
}

template <class A, bool kFlows>
__global__ void __launch_bounds__(kThreads) walk_kernel(Group<A> in) {
  __shared__ Shared<A> shared;
  const Int at = Int(blockIdx.x) * kSide + threadIdx.x % kWarp;
  const int exponent = walk_up(shared, in, at, kFlows);
  if (threadIdx.x < kWarp && in.first + at < in.batch) {
    const A p = in.sent[in.nodes[0].sent * in.stride + at];
    in.log_prob[in.first + at] =
        shared.lost[threadIdx.x] ? PowerOfTwo<A>::kNaN : A(log(double(p)) + 0.69314718055994530942 * exponent);
  }
  if constexpr (kFlows) {
    __syncthreads();
    walk_down(shared, in, at);
  }
}

// A tile of a node's matrix: the sum over images of ratio times product. A block's node varies first.
template <class A>
__global__ void __launch_bounds__(kThreads) weight_kernel(Group<A> in, int nodes, int tiles, double* sums) {
  __shared__ Shared<A> shared;
  const Placed& placed = in.nodes[blockIdx.x % nodes];
  const TreeNode& node = placed.node;
  const int row = blockIdx.x / nodes % tiles * kSide, column = blockIdx.x / nodes / tiles * kSide;
  const int above = int(states_above(in, node)), states = int(node.states);
  if (!node.latent() || row >= above || column >= states) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  double total[kOwn] = {};
  for (Int image = lane; image < in.stride; image += kSide) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int i = warp + j * kWarps;
      shared.matrix[i][lane] = row + i < above ? in.sent[(placed.sent + row + i) * in.stride + image] : A(0);
      shared.x[i][lane] = column + i < states ? in.products[(placed.product + column + i) * in.stride + image] : A(0);
    }
    __syncthreads();
    A sum[kOwn] = {};
    for (int b = 0; b < kSide; ++b)
#pragma unroll
      for (int i = 0; i < kOwn; ++i) sum[i] += shared.matrix[warp * kOwn + i][b] * shared.x[lane][b];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) total[i] += double(sum[i]);
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int r = row + warp * kOwn + i;
    if (r < above && column + lane < states) sums[node.weights + Int(r) * states + column + lane] += total[i];
  }
}

// 32 states of a node's table. A category belongs to one warp, a state to one of its lanes.
template <class A>
__global__ void __launch_bounds__(kThreads)
    leaf_kernel(Group<A> in, int nodes, double* leaf_sums, double* missing_sums) {
  __shared__ A tile[kSide][kSide + 1];
  __shared__ std::int32_t codes[kSide];
  const Placed& placed = in.nodes[blockIdx.x % nodes];
  const TreeNode& node = placed.node;
  const int first = blockIdx.x / nodes * kSide, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (!node.observed() || first >= node.states) return;
  const Int place = node.latent() ? placed.product : in.nodes[node.parent].product;
  for (Int start = 0; start < in.stride && in.first + start < in.batch; start += kSide) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int k = warp + j * kWarps;
      tile[k][lane] = first + k < node.states ? in.posteriors[(place + first + k) * in.stride + start + lane] : A(0);
    }
    const Int image = in.first + start + lane;
    if (warp == 0) codes[lane] = image < in.batch ? in.codes[node.variable * in.batch + image] : -1;
    __syncthreads();
    for (int b = 0; b < kSide; ++b) {
      const std::int32_t x = codes[b];
      const bool seen = x >= 0 && x < node.categories;
      if ((seen ? x % kWarps : 0) != warp || first + lane >= node.states) continue;
      double* const to = seen ? leaf_sums + node.leaves + x * node.states : missing_sums + placed.missing;
      to[first + lane] += double(tile[lane][b]);
    }
  }
}

// Sets sums to zero (out is null), or rounds them.
template <class A>
__global__ void __launch_bounds__(kThreads) sums_kernel(double* sums, Int count, A* out) {
  const Int i = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  if (out)
    out[i] = A(sums[i]);
  else
    sums[i] = 0;
}

// Flows as they add up.
template <class A>
class Sums {
 public:
  Sums(Int count, Stream stream) : count_(count), sums_(count, stream), stream_(stream) { launch(nullptr); }
  void round_to(A* out) const { launch(out); }
  double* data() const { return sums_.data(); }

 private:
  void launch(A* out) const {
    const dim3 grid(unsigned((count_ + kThreads - 1) / kThreads));
    PK_LAUNCH((sums_kernel<A>), grid, dim3(kThreads), 0, stream_, sums_.data(), count_, out);
  }

  Int count_;
  Scratch<double> sums_;
  Stream stream_;
};

struct Size {
  Int products = 0, sent = 0, exponents = 0, states = 1;  // elements of an image, and the most states of a node

  explicit Size(const std::vector<TreeNode>& nodes) {
    for (const TreeNode& node : nodes) {
      if (!node.latent()) continue;
      products += node.states;
      if (node.children + node.observed() > 1) exponents += node.states;
      sent += node.parent < 0 ? 1 : nodes[node.parent].states;
      states = std::max(states, node.states);
    }
  }
};

// each(group) after every group's walk.
template <class A, bool kFlows, class Each>
void walk(Group<A> in, const std::vector<TreeNode>& nodes, Stream stream, const Each& each) {
  const Size size(nodes);
  const Int bytes = (size.products * (kFlows ? 2 : 1) + size.sent) * Int(sizeof(A)) + size.exponents * 4;
  const Int fitting = std::max<Int>(kScratchBytes / bytes / kSide, 1);
  const Int blocks = std::min(resident_blocks(walk_kernel<A, kFlows>, kThreads), fitting);
  const Int group = std::min((in.batch + kSide - 1) / kSide, blocks) * kSide;
  const Scratch<A> products(size.products * group, stream), sent(size.sent * group, stream);
  const Scratch<A> posteriors(kFlows ? size.products * group : 0, stream);
  const Scratch<std::int32_t> exponents(size.exponents * group, stream);
  in.products = products.data(), in.sent = sent.data(), in.posteriors = posteriors.data();
  in.exponents = exponents.data();
  for (in.first = 0; in.first < in.batch; in.first += group) {
    in.stride = (std::min(group, in.batch - in.first) + kSide - 1) / kSide * kSide;
    PK_LAUNCH((walk_kernel<A, kFlows>), dim3(unsigned(in.stride / kSide)), dim3(kThreads), 0, stream, in);
    each(in);
  }
}

template <class A>
Group<A> group_of(Maybe placed, const std::vector<TreeNode>& nodes, const TreeSizes& sizes, const void* weights,
                  const void* leaves, const void* codes, void* log_prob) {
  Group<A> in = {};
  in.nodes = placed.as<Placed>();
  in.count = Int(nodes.size());
  in.batch = sizes.batch;
  in.weights = static_cast<const A*>(weights);
  in.leaves = static_cast<const A*>(leaves);
  in.codes = static_cast<const std::int32_t*>(codes);
  in.log_prob = static_cast<A*>(log_prob);
  return in;
}

}  // namespace

void latent_tree_cuda(DType dtype, const void* weights, const void* leaves, const void* codes, Ints tree, Maybe placed,
                      void* log_prob, Int variables, Int batch, Int weight_count, Int leaf_count, Stream stream) {
  const TreeSizes sizes = {variables, batch, weight_count, leaf_count};
  const auto nodes = read_tree("latent_tree", tree, sizes);
  dispatch_float("latent_tree", dtype, [&](auto element) {
    using A = decltype(element);
    walk<A, false>(group_of<A>(placed, nodes, sizes, weights, leaves, codes, log_prob), nodes, stream,
                   [](const Group<A>&) {});
  });
}

void latent_tree_flows_cuda(DType dtype, const void* weights, const void* leaves, const void* codes, Ints tree,
                            Maybe placed, Maybe grad, void* log_prob, void* grad_weights, void* leaf_flows,
                            Maybe missing_flows, Int variables, Int batch, Int weight_count, Int leaf_count,
                            Stream stream) {
  const TreeSizes sizes = {variables, batch, weight_count, leaf_count};
  const auto nodes = read_tree("latent_tree_flows", tree, sizes);
  dispatch_float("latent_tree_flows", dtype, [&](auto element) {
    using A = decltype(element);
    auto in = group_of<A>(placed, nodes, sizes, weights, leaves, codes, log_prob);
    in.grad = grad.as<A>();
    const Sums<A> weight_sums(weight_count, stream), leaf_sums(leaf_count, stream);
    const Sums<A> missing_sums(count_missing(nodes), stream);
    const int count = int(nodes.size()), tiles = int((Size(nodes).states + kSide - 1) / kSide);
    walk<A, true>(in, nodes, stream, [&](const Group<A>& group) {
      PK_LAUNCH((weight_kernel<A>), dim3(count * tiles * tiles), dim3(kThreads), 0, stream, group, count, tiles,
                weight_sums.data());
      PK_LAUNCH((leaf_kernel<A>), dim3(count * tiles), dim3(kThreads), 0, stream, group, count, leaf_sums.data(),
                missing_sums.data());
    });
    weight_sums.round_to(static_cast<A*>(grad_weights));
    leaf_sums.round_to(static_cast<A*>(leaf_flows));
    if (missing_flows.ptr) missing_sums.round_to(const_cast<A*>(missing_flows.as<A>()));
  });
}

}  // namespace pk
