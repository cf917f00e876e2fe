// What the CPU kernel of latent trees walks: nodes with the addresses of their parameters and the places of their
// messages in a tile's memory, and how threads take turns.
//
// A message is (images of the tile, states), with states padded to whole registers by zeros. Parameters are read and
// flows written in place where their states are whole registers as they come; else all of them are copied.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "pk/latent_tree.h"
#include "pk/vec.h"
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace pk {

constexpr int kTile = 32;  // images

// Tiles whose flows are summed before the sum is added to that of the tiles before: float32 would lose too much in one
// long sum.
constexpr Int kSpan = 64;

// Uninitialized memory that begins on a cache line.
template <class A>
class Memory {
 public:
  void allocate(Int count) {
    memory_.reset(new char[count * sizeof(A) + kLine]);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    data_ = reinterpret_cast<A*>((address + kLine - 1) / kLine * kLine);
  }
  A* data() const { return data_; }

 private:
  static constexpr std::uintptr_t kLine = 64;
  std::unique_ptr<char[]> memory_;
  A* data_ = nullptr;
};

template <class A>
struct Problem {
  const std::vector<TreeNode>& tree;
  TreeSizes sizes;
  const A *weights, *leaves;
  const std::int32_t* codes;
  A* log_prob;
  // Of flows alone; `grad` may be null: ones.
  const A* grad = nullptr;
  A *grad_weights = nullptr, *leaf_flows = nullptr, *missing_flows = nullptr;
};

template <class A>
struct Node {
  Int states, width, above, above_width;  // states and padded states, its own and its parent's
  Int parent, children, categories;
  const std::int32_t* codes;          // (batch) of its variable
  const A *up, *down, *leaves;        // (states, above_width), (above, width), (categories, width); null: there is none
  A *grad_weights, *flows, *missing;  // (above, width), (categories, width), (width)
  Int e, m, to;                       // places: its own message, what it sends, the parent's product
  Int x, x_to;                        // exponents of its product's states and of the parent's, -1: there are none
  Int q, from;                        // posteriors of its latent variable, and of the parent's
  A enough;                           // its own message's largest state from which others may flush
  A lost;                             // a sum of its matrix below may lack what counts, 0: none can be
  bool first, rescale, again;  // the first factor of the parent's product; take that one's exponents afterwards, again

  PK_HD bool latent() const { return up != nullptr; }
  PK_HD bool observed() const { return codes != nullptr; }
};

// Gives out places for (images, width) elements and takes them back.
class Places {
 public:
  Int take(Int width) {
    auto& free = free_[width];
    if (!free.empty()) {
      const Int place = free.back();
      free.pop_back();
      return place;
    }
    return (size_ += width * kTile) - width * kTile;
  }
  void put_back(Int width, Int place) { free_[width].push_back(place); }
  Int size() const { return size_; }

 private:
  std::map<Int, std::vector<Int>> free_;
  Int size_ = 0;
};

template <class A>
class Model {
 public:
  Model(const Problem<A>& problem, int lanes, bool flows) : tree_(problem.tree), lanes_(lanes) {
    nodes.resize(tree_.size());
    for (const TreeNode& node : tree_) whole_ = whole_ && node.states % lanes == 0;
    in_place_ = whole_ && problem.sizes.batch <= kSpan * kTile;
    for (Int n = 0; n < count(); ++n) describe(n, problem);
    set_rescales(problem);
    place(flows);
    copy_parameters(problem, flows);
    ones_.allocate(max_width_);
    std::fill(ones_.data(), ones_.data() + max_width_, A(1));
    ones = ones_.data();
  }
  Int count() const { return Int(nodes.size()); }
  Int memory() const { return memory_; }
  Int max_width() const { return max_width_; }
  Int top() const { return top_; }

  // Adds the flows of a span of tiles to those before.
  void fold(const Problem<A>& problem, Threads threads);

  std::vector<Node<A>> nodes;
  const A* ones;  // a missing observation, and the product of no children

 private:
  Int padded(Int states) const { return (states + lanes_ - 1) / lanes_ * lanes_; }
  void describe(Int n, const Problem<A>& problem);
  void set_rescales(const Problem<A>& problem);
  void place(bool flows);
  void copy_parameters(const Problem<A>& problem, bool flows);

  const std::vector<TreeNode>& tree_;
  int lanes_;
  bool whole_ = true;  // states are whole registers: parameters are read where they are
  bool in_place_;      // and flows written where they belong
  Int max_width_ = 1, memory_ = 0, top_ = 0;
  Memory<A> ones_, copies_, sums_;  // sums_: flows of a span of tiles
};

template <class A>
void Model<A>::describe(Int n, const Problem<A>& problem) {
  const TreeNode& from = tree_[n];
  Node<A>& node = nodes[n];
  node = {};
  node.states = from.states;
  node.width = padded(from.states);
  node.above = n == 0 ? 1 : tree_[from.parent].states;
  node.above_width = padded(node.above);
  node.parent = from.parent;
  node.children = from.children;
  node.categories = from.categories;
  node.x = node.x_to = -1;
  if (from.observed()) node.codes = problem.codes + from.variable * problem.sizes.batch;
  max_width_ = std::max(max_width_, std::max(node.width, node.above_width));
}

// Where a product of many factors could leave the range, so that its states' exponents are taken out before. What a
// matrix sends is at least its least entry, as the largest state of a message is in [1, 2). If entries are zero, or as
// small as what flushes, sums are looked at: those below `lost` may be made of states that flushed.
template <class A>
void Model<A>::set_rescales(const Problem<A>& problem) {
  constexpr int kRange = PowerOfTwo<A>::kRange, kMantissa = PowerOfTwo<A>::kMantissa;
  std::vector<int> used(count(), 0);
  std::vector<Int> last(count(), -1);
  std::vector<bool> rescaled(count(), false);
  for (Int n = count() - 1; n >= 0; --n) {
    Node<A>& node = nodes[n];
    const bool latent = tree_[n].latent();
    const Int size = node.states * (latent ? node.above : node.categories);
    bool zeros = false;
    int low = 0, high = 0;
    run_best<Reach>(latent ? problem.weights + tree_[n].weights : problem.leaves + tree_[n].leaves, size, &zeros, &low,
                    &high);
    int reach = std::max(-low, high);
    if (latent) {
      const int sum = std::ilogb(double(node.states)) + 2;  // a sum of so many, each times less than 2
      const int lost = std::max(high, 0) + sum + kMantissa + 1 - kRange;
      node.enough = std::ldexp(A(1), std::min(reach + kMantissa + 1 - kRange, 0));
      if (zeros || low < lost) {
        node.lost = std::ldexp(A(1), lost);
        node.enough = std::numeric_limits<A>::infinity();
      }
      reach = zeros ? kRange : reach + sum;
    }
    const Int parent = node.parent;
    if (parent < 0) continue;
    reach = std::min(reach, kRange);
    if (last[parent] >= 0 && used[parent] + reach > kRange) {
      Node<A>& before = nodes[last[parent]];
      before.rescale = true;
      before.again = rescaled[parent];
      rescaled[parent] = true;
      nodes[parent].x = 0;  // it gets a place later
      used[parent] = 0;
    }
    used[parent] += reach;
    last[parent] = n;
  }
}

// Messages that flows are made of stay; without flows a product goes once it is sent, and so do posteriors.
template <class A>
void Model<A>::place(bool flows) {
  Places places;
  top_ = places.take(padded(1));  // what the root sends to; later the images' own factors
  std::vector<Int> factors(count(), 0), q(count(), 0), left(count(), 0);
  std::vector<Int> product(count(), -1);
  for (Int n = count() - 1; n >= 0; --n) {
    Node<A>& node = nodes[n];
    const Int parent = node.parent;
    if (tree_[n].latent() && product[n] < 0) product[n] = places.take(node.width);
    if (parent >= 0 && product[parent] < 0) {
      product[parent] = places.take(nodes[parent].width);
      if (nodes[parent].x >= 0) nodes[parent].x = places.take(nodes[parent].width);
    }
    if (parent >= 0) node.x_to = nodes[parent].x;
    if (node.x >= 0) places.put_back(node.width, node.x);
    node.e = product[n];
    node.to = parent < 0 ? top_ : product[parent];
    if (flows && tree_[n].latent()) node.m = places.take(node.above_width);
    if (!flows && tree_[n].latent()) places.put_back(node.width, product[n]);
    if (parent < 0) {
      node.first = true;
      continue;
    }
    node.first = factors[parent] == 0;
    ++factors[parent];
    left[parent] = std::max(left[parent], n);  // the child that comes last on the way down
  }
  if (flows) {
    for (Int n = 0; n < count(); ++n) {
      Node<A>& node = nodes[n];
      node.from = n == 0 ? top_ : q[node.parent];
      q[n] = tree_[n].latent() ? places.take(node.width) : node.from;
      node.q = q[n];
      if (tree_[n].latent() && !node.children) places.put_back(node.width, q[n]);
      if (n > 0 && left[node.parent] == n) places.put_back(nodes[node.parent].width, q[node.parent]);
    }
  }
  memory_ = places.size();
}

// A few rows at a time, so that whole lines are written.
template <class A>
void transpose(const A* from, Int rows, Int columns, A* to, Int width) {
  constexpr Int kRows = 16;
  for (Int row = 0; row < rows; row += kRows)
    for (Int k = 0; k < columns; ++k)
      for (Int i = row; i < std::min(rows, row + kRows); ++i) to[k * width + i] = from[i * columns + k];
}

template <class A>
void Model<A>::copy_parameters(const Problem<A>& problem, bool flows) {
  Int copied = 0, summed = 0;
  for (Int n = 0; n < count(); ++n) {
    const Node<A>& node = nodes[n];
    const bool latent = tree_[n].latent(), observed = tree_[n].observed();
    if (latent) copied += node.states * node.above_width + (whole_ ? 0 : node.above * node.width);
    if (!in_place_)
      summed += (latent ? node.above : 0) * node.width + (observed ? node.categories + 1 : 0) * node.width;
    if (!whole_ && observed) copied += node.categories * node.width;
  }
  copies_.allocate(copied);
  std::fill(copies_.data(), copies_.data() + copied, A(0));
  sums_.allocate(flows ? summed : 0);
  std::fill(sums_.data(), sums_.data() + (flows ? summed : 0), A(0));
  A *next = copies_.data(), *next_sum = sums_.data(), *missing = problem.missing_flows;
  const auto copy = [&](const A* from, Int rows, Int states, Int width) {
    if (whole_) return from;
    for (Int i = 0; i < rows; ++i) std::copy(from + i * states, from + (i + 1) * states, next + i * width);
    return const_cast<const A*>((next += rows * width) - rows * width);
  };
  const auto sum = [&](A* in_place, Int rows, Int width) {
    return !flows ? nullptr : in_place_ ? in_place : (next_sum += rows * width) - rows * width;
  };
  for (Int n = 0; n < count(); ++n) {
    Node<A>& node = nodes[n];
    if (tree_[n].latent()) {
      const A* const w = problem.weights + tree_[n].weights;
      transpose(w, node.above, node.states, next, node.above_width);
      node.up = next;
      next += node.states * node.above_width;
      node.down = copy(w, node.above, node.states, node.width);
      node.grad_weights = sum(problem.grad_weights + tree_[n].weights, node.above, node.width);
    }
    if (tree_[n].observed()) {
      node.leaves = copy(problem.leaves + tree_[n].leaves, node.categories, node.states, node.width);
      node.flows = sum(problem.leaf_flows + tree_[n].leaves, node.categories, node.width);
      node.missing = sum(missing, 1, node.width);
      missing += node.states;
    }
  }
}

template <class A>
void Model<A>::fold(const Problem<A>& problem, Threads threads) {
  if (in_place_) return;
  const auto move = [](A* from, Int rows, Int states, Int width, A* to) {
    for (Int i = 0; i < rows; ++i)
      for (Int k = 0; k < states; ++k) to[i * states + k] += from[i * width + k];
    std::fill(from, from + rows * width, A(0));
  };
  std::vector<A*> missing(count() + 1, problem.missing_flows);
  for (Int n = 0; n < count(); ++n) missing[n + 1] = missing[n] + (nodes[n].observed() ? nodes[n].states : 0);
#pragma omp parallel for schedule(static) num_threads(threads.count)
  for (Int n = 0; n < count(); ++n) {
    const Node<A>& node = nodes[n];
    if (node.latent())
      move(node.grad_weights, node.above, node.states, node.width, problem.grad_weights + tree_[n].weights);
    if (!node.observed()) continue;
    move(node.flows, node.categories, node.states, node.width, problem.leaf_flows + tree_[n].leaves);
    move(node.missing, 1, node.states, node.width, missing[n]);
  }
}

// A thread's memory, and the images that are in it.
template <class A>
class Tile {
 public:
  explicit Tile(const Model<A>& model) : top_(model.top()), top_width_(model.nodes[0].above_width) {
    memory_.allocate(model.memory() + kTile * model.max_width());
    data = memory_.data();
    ratios = data + model.memory();
  }

  void begin(Int tile, const Problem<A>& problem) {
    number = tile;
    first = tile * kTile;
    count = std::min<Int>(kTile, problem.sizes.batch - first);
    for (int b = 0; b < kTile; ++b) {
      grads[b] = b >= count ? A(0) : problem.grad ? problem.grad[first + b] : A(1);
      least[b] = PowerOfTwo<A>::kLeast * std::max(A(1), std::abs(grads[b]));
    }
  }

  // The root's factor has one state: its posterior is what an image counts.
  void set_posteriors() {
    A* const q = data + top_;
    std::fill(q, q + kTile * top_width_, A(0));
    for (int b = 0; b < kTile; ++b) q[b * top_width_] = lost[b] ? A(0) : grads[b];
  }

  typename PowerOfTwo<A>::Bits* exponents_at(Int place) const {
    return reinterpret_cast<typename PowerOfTwo<A>::Bits*>(data + place);
  }

  Int number, first, count;
  A *data, *ratios;
  std::int32_t exponents[kTile];
  bool lost[kTile];  // images of which a state flushed that counts
  A grads[kTile];    // what each image's flows are multiplied by
  A least[kTile];    // messages below are taken for zero: a ratio would overflow

 private:
  Int top_, top_width_;
  Memory<A> memory_;
};

// Tile t adds to node n's flows after tile t - 1. Tiles are begun in order, so somebody always can go on. A thread
// stays some nodes behind the one before it, or its prefetches would take away the lines that the other still writes
// to.
class Turns {
 public:
  Turns(Int nodes, int threads)
      : last_(nodes - 1),
        lag_(std::min<Int>(kMostLag, nodes / (4 * threads))),
        next_(threads > 1 ? new std::atomic<Int>[nodes] : nullptr) {
    for (Int n = 0; next_ && n < nodes; ++n) next_[n].store(0, std::memory_order_relaxed);
  }
  void wait(Int node, Int tile) const {
    if (!next_) return;
    const auto& next = next_[std::min(node + lag_, last_)];
    for (int spins = 0; next.load(std::memory_order_acquire) < tile;)
      if (++spins > kSpins) std::this_thread::yield();
  }
  void pass(Int node, Int tile) {
    if (next_) next_[node].store(tile + 1, std::memory_order_release);
  }

 private:
  static constexpr int kSpins = 1000;
  static constexpr Int kMostLag = 16;
  Int last_, lag_;
  std::unique_ptr<std::atomic<Int>[]> next_;
};

// Numbers below the normal range count as zero while one of these lives: they would cost a hundred cycles each.
class FlushSubnormals {
 public:
#ifdef __SSE2__
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

}  // namespace pk
