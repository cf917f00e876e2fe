// Likelihoods and circuit flows of latent tree models on the CPU. A tile of images goes up the tree and down again
// while its messages are cached; SIMD lanes run over the states, so that a leaf's probabilities are one row of its
// table and a flow is added to one row. Messages are linear: a node scales each image's by a power of two, which rounds
// nothing, and the exponents are added up as integers; while a product has more factors than its range covers, every
// state has an exponent of its own. Tiles have a fixed size, and threads add their flows to a node's
// in the order of the tiles (Turns), so any number of threads gives the same bits, and what is left over in memory is
// one tile's. An image that needs states which flushed (it takes zero weights) comes out as NaN, without flows: the
// caller computes it otherwise.
#include <cmath>
#include <memory>

#include "pk/latent_tree_cpu.h"
#include "pk/rows.h"

namespace pk {
namespace {

// --- one tile ---

constexpr Int kMostFetched = 4096;  // bytes; of more, the processor sees that they come one after the other

// The walk up and the walk down.
template <int B, bool kFlows, class A>
class Walk {
 public:
  using Register = typename Vec<A, B>::Register;
  static constexpr int W = Vec<A, B>::kWidth;

  PK_HD Walk(const Model<A>& model, Tile<A>& tile) : model_(model), tile_(tile) {}

  PK_HD void up() {
    std::fill(tile_.exponents, tile_.exponents + kTile, 0);
    std::fill(tile_.lost, tile_.lost + kTile, false);
    ahead(model_.count() - 1, -1);
    for (Int n = model_.count() - 1; n >= 0; --n) {
      const Node<A>& node = model_.nodes[n];
      std::swap(rows_, next_rows_);
      ahead(n - 1, -1);
      if (node.latent()) {
        finish(node);
        node.lost > 0 ? send<true>(node) : send<false>(node);
      } else {
        times_leaves(node);
      }
      if (node.rescale) rescale(node);
    }
  }

  PK_HD void down(Turns& turns) {
    ahead(0, 1);
    for (Int n = 0; n < model_.count(); ++n) {
      const Node<A>& node = model_.nodes[n];
      std::swap(rows_, next_rows_);
      ahead(n + 1, 1);
      if (node.latent()) ratios(node);
      turns.wait(n, tile_.number);
      if (node.latent()) receive(node);
      if (node.observed()) add_leaves(node);
      turns.pass(n, tile_.number);
    }
  }

 private:
  // Begins to fetch what node n needs, while the one before it is computed with.
  PK_HD void ahead(Int n, int step) {
    if (n < 0 || n >= model_.count()) return;
    const Node<A>& node = model_.nodes[n];
    if (node.latent()) {
      fetch(step < 0 ? node.up : node.grad_weights, node.above * node.width);
      if (step > 0) {
        fetch(node.down, node.above * node.width);
        fetch(tile_.data + node.e, kTile * node.width);
        fetch(tile_.data + node.m, kTile * node.above_width);
      }
    }
    if (node.observed()) find_rows(node, step < 0 ? node.leaves : node.flows);
    n += step;
    if (n >= 0 && n < model_.count() && model_.nodes[n].observed())
      fetch(model_.nodes[n].codes + tile_.first, tile_.count);
  }
  template <class T>
  PK_HD static void fetch(const T* from, Int count) {
    count = std::min<Int>(count, kMostFetched / sizeof(T));
    for (Int i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
  }

  // The row of every image's category, or -1: missing. A code that no table has is taken for missing too.
  PK_HD void find_rows(const Node<A>& node, const A* table) {
    const std::int32_t* const codes = node.codes + tile_.first;
    std::int32_t some[kTile];
    if (tile_.count < kTile) {
      std::fill(some, some + kTile, -1);
      std::copy(codes, codes + tile_.count, some);
    }
    const std::int32_t* const from = tile_.count < kTile ? some : codes;
    const auto categories = std::uint32_t(node.categories);
    for (int b = 0; b < kTile; ++b) next_rows_[b] = std::uint32_t(from[b]) < categories ? from[b] : -1;
    for (int b = 0; b < kTile; ++b) fetch(table + (next_rows_[b] < 0 ? 0 : next_rows_[b]) * node.width, node.width);
  }
  PK_HD const A* leaf(const Node<A>& node, int b) const {
    return rows_[b] < 0 ? model_.ones : node.leaves + rows_[b] * node.width;
  }

  // The node's own message: its leaves times what its children sent, scaled.
  PK_HD void finish(const Node<A>& node) {
    A* const e = tile_.data + node.e;
    const auto* const x = node.x < 0 ? nullptr : tile_.exponents_at(node.x);
    for (int b = 0; b < kTile; ++b) {
      const A* const from = node.observed() ? leaf(node, b) : model_.ones;
      A* const to = e + b * node.width;
      const A* const product = node.children ? to : model_.ones;
      tile_.exponents[b] += x                 ? aligned_product<B>(from, product, x + b * node.width, to, node.width)
                            : node.width == W ? scaled_product<B, 1>(from, product, to, node.width, node.enough)
                                              : scaled_product<B, 2>(from, product, to, node.width, node.enough);
    }
  }

  // What the parent's product is multiplied by is stored too when flows are asked for, or when it is looked at.
  template <bool kLook>
  PK_HD void send(const Node<A>& node) {
    A *const m = kFlows ? tile_.data + node.m : tile_.ratios, *const to = tile_.data + node.to;
    const A* const before = node.first ? model_.ones : to;
    const Int stride = node.first ? 0 : node.above_width;
    product<B>(kTile, node.above_width, node.states, Broadcast<A>{tile_.data + node.e, node.width, 1}, node.up,
               [&](Int b, Int j, Register sum) PK_INLINE {
                 if constexpr (kFlows || kLook) memcpy(m + b * node.above_width + j, &sum, B);
                 Register v;
                 memcpy(&v, before + b * stride + j, B);
                 v *= sum;
                 memcpy(to + b * node.above_width + j, &v, B);
               });
    if constexpr (kLook)
      for (int b = 0; b < kTile; ++b)
        if (any_below(node.lost, m + b * node.above_width, node.above_width))
          find_lost(node, b, m + b * node.above_width);
  }

  PK_HD static bool any_below(A limit, const A* sums, Int width) {
    Register most = {}, sum;
    for (Int j = 0; j < width; j += W) {
      memcpy(&sum, sums + j, B);
      const Register below = limit - sum;
      most = below > most ? below : most;
    }
    return max_register<A, B>(most) > 0;
  }

  // Marks an image of which a sum is small though terms of it are not zero: some may have flushed.
  __attribute__((noinline)) void find_lost(const Node<A>& node, int b, const A* sums) {
    const A* const e = tile_.data + node.e + b * node.width;
    for (Int i = 0; i < node.above && !tile_.lost[b]; ++i) {
      if (!(sums[i] < node.lost)) continue;
      const A* const weight = node.up + i;
      for (Int k = 0; k < node.states; ++k)
        if (weight[k * node.above_width] > 0 && e[k] > 0) tile_.lost[b] = true;
    }
  }

  PK_HD void times_leaves(const Node<A>& node) {
    A* const to = tile_.data + node.to;
    for (int b = 0; b < kTile; ++b) {
      const A *const row = leaf(node, b), *const before = node.first ? model_.ones : to + b * node.width;
      for (Int j = 0; j < node.width; j += W) {
        Register v, w;
        memcpy(&v, before + j, B);
        memcpy(&w, row + j, B);
        v *= w;
        memcpy(to + b * node.width + j, &v, B);
      }
    }
  }

  // A product of many factors may leave the range of A before it is finished, in some states long before others: every
  // state keeps an exponent of its own.
  PK_HD void rescale(const Node<A>& node) {
    take_exponents<B>(tile_.data + node.to, tile_.exponents_at(node.x_to), kTile * node.above_width, node.again);
  }

  // The parent's posterior over the message that it got: what the message is multiplied by from elsewhere.
  PK_HD void ratios(const Node<A>& node) {
    const A *const q = tile_.data + node.from, *const m = tile_.data + node.m;
    for (int b = 0; b < kTile; ++b)
      for (Int j = 0; j < node.above_width; j += W) {
        Register v, w;
        memcpy(&v, q + b * node.above_width + j, B);
        memcpy(&w, m + b * node.above_width + j, B);
        v = w < Register{} + tile_.least[b] ? Register{} : v / w;
        memcpy(tile_.ratios + b * node.above_width + j, &v, B);
      }
  }

  PK_HD void receive(const Node<A>& node) {
    const A* const e = tile_.data + node.e;
    product<B>(node.above, node.width, kTile, Broadcast<A>{tile_.ratios, 1, node.above_width}, e,
               [&](Int i, Int j, Register sum) PK_INLINE {
                 Register v;
                 A* const to = node.grad_weights + i * node.width + j;
                 memcpy(&v, to, B);
                 v += sum;
                 memcpy(to, &v, B);
               });
    if (!node.children && !node.observed()) return;
    A* const q = tile_.data + node.q;
    product<B>(kTile, node.width, node.above, Broadcast<A>{tile_.ratios, node.above_width, 1}, node.down,
               [&](Int b, Int j, Register sum) PK_INLINE {
                 Register v;
                 memcpy(&v, e + b * node.width + j, B);
                 v *= sum;
                 memcpy(q + b * node.width + j, &v, B);
               });
  }

  // The leaves' flows. The category that the first image has is common in a tile of real data: it is summed by itself,
  // as adding to one row over and over would wait for memory each time.
  PK_HD void add_leaves(const Node<A>& node) {
    const A* const q = tile_.data + node.q;
    const std::int32_t common = rows_[0];
    const auto row = [&](std::int32_t x) PK_INLINE { return x < 0 ? node.missing : node.flows + x * node.width; };
    if (node.width > 2 * W) {
      for (int b = 0; b < kTile; ++b) add_row<B>(row(rows_[b]), q + b * node.width, node.width);
      return;
    }
    const bool two = node.width == 2 * W;
    Register sum = {}, sum2 = {}, v;
    for (int b = 0; b < kTile; ++b) {
      const A* const term = q + b * node.width;
      if (rows_[b] != common) {
        add_row<B>(row(rows_[b]), term, node.width);
        continue;
      }
      memcpy(&v, term, B);
      sum += v;
      if (!two) continue;
      memcpy(&v, term + W, B);
      sum2 += v;
    }
    A total[2 * W];
    memcpy(total, &sum, B);
    memcpy(total + W, &sum2, B);
    add_row<B>(row(common), total, node.width);
  }

  const Model<A>& model_;
  Tile<A>& tile_;
  std::int32_t storage_[2][kTile], *rows_ = storage_[0], *next_rows_ = storage_[1];
};

// A tile's log probabilities, and if asked for its flows.
template <bool kFlows>
struct RunTile {
  template <int B, class A>
  PK_HD static void run(const Model<A>& model, Tile<A>* at, A* log_prob, Turns* turns) {
    Tile<A>& tile = *at;
    Walk<B, kFlows, A> walk(model, tile);
    walk.up();
    const A* const p = tile.data + model.nodes[0].to;
    const Int stride = model.nodes[0].above_width;
    for (Int b = 0; b < tile.count; ++b)
      log_prob[tile.first + b] =
          tile.lost[b] ? PowerOfTwo<A>::kNaN : A(std::log(double(p[b * stride])) + M_LN2 * tile.exponents[b]);
    if constexpr (kFlows) {
      tile.set_posteriors();
      walk.down(*turns);
    }
  }
};

struct RegisterBytes {
  template <int B>
  PK_HD static void run(int* bytes) {
    *bytes = B;
  }
};

template <bool kFlows, class A>
void run(const Problem<A>& problem, Threads threads) {
  int bytes = 0;
  run_best<RegisterBytes>(&bytes);
  Model<A> model(problem, bytes / int(sizeof(A)), kFlows);
  const Int tiles = (problem.sizes.batch + kTile - 1) / kTile;
  Turns turns(model.count(), threads.count);
  std::atomic<Int> next{0};
  for (Int end = 0; end < tiles;) {
    end = kFlows ? std::min(tiles, end + kSpan) : tiles;
#pragma omp parallel num_threads(int(std::min<Int>(threads.count, tiles))) if (tiles > 1)
    {
      const FlushSubnormals flush;
      Tile<A> tile(model);
      for (Int t; (t = next.fetch_add(1)) < end;) {
        tile.begin(t, problem);
        run_best<RunTile<kFlows>>(model, &tile, problem.log_prob, &turns);
      }
    }
    next.store(end);
    if (kFlows) model.fold(problem, threads);
  }
}

}  // namespace

void latent_tree_cpu(DType dtype, const void* weights, const void* leaves, const void* codes, Ints tree, Maybe,
                     void* log_prob, Int variables, Int batch, Int weight_count, Int leaf_count, Threads threads) {
  const TreeSizes sizes = {variables, batch, weight_count, leaf_count};
  const auto nodes = read_tree("latent_tree", tree, sizes);
  dispatch_float("latent_tree", dtype, [&](auto element) {
    using A = decltype(element);
    Problem<A> problem = {nodes,
                          sizes,
                          static_cast<const A*>(weights),
                          static_cast<const A*>(leaves),
                          static_cast<const std::int32_t*>(codes),
                          static_cast<A*>(log_prob)};
    run<false>(problem, threads);
  });
}

void latent_tree_flows_cpu(DType dtype, const void* weights, const void* leaves, const void* codes, Ints tree, Maybe,
                           Maybe grad, void* log_prob, void* grad_weights, void* leaf_flows, Maybe missing_flows,
                           Int variables, Int batch, Int weight_count, Int leaf_count, Threads threads) {
  const TreeSizes sizes = {variables, batch, weight_count, leaf_count};
  const auto nodes = read_tree("latent_tree_flows", tree, sizes);
  dispatch_float("latent_tree_flows", dtype, [&](auto element) {
    using A = decltype(element);
    std::vector<A> unwanted(missing_flows.ptr ? 0 : count_missing(nodes));
    Problem<A> problem = {nodes,
                          sizes,
                          static_cast<const A*>(weights),
                          static_cast<const A*>(leaves),
                          static_cast<const std::int32_t*>(codes),
                          static_cast<A*>(log_prob)};
    problem.grad = grad.as<A>();
    problem.grad_weights = static_cast<A*>(grad_weights);
    problem.leaf_flows = static_cast<A*>(leaf_flows);
    problem.missing_flows = missing_flows.ptr ? const_cast<A*>(missing_flows.as<A>()) : unwanted.data();
    run<true>(problem, threads);
  });
}

}  // namespace pk
