// A latent tree model as the Python side lays it out, for host and device: seven int64 a node, parents before their
// children. A node with weights has a latent variable of its own; one without hangs its observed variable on the
// latent variable of its parent.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "pk/error.h"
#include "pk/launch.h"

namespace pk {

using Int = std::int64_t;

struct TreeNode {
  Int parent;      // -1: the root
  Int states;      // of its latent variable, or of the parent's
  Int variable;    // row of the codes, or -1
  Int weights;     // offset of (states of the parent, states), or -1: no latent variable
  Int leaves;      // offset of (categories, states), or -1
  Int categories;  // of its observed variable
  Int children;

  PK_HD bool latent() const { return weights >= 0; }
  PK_HD bool observed() const { return variable >= 0; }
};

struct TreeSizes {
  Int variables, batch, weights, leaves;  // codes (variables, batch), and the lengths of the flat tensors
};

// The nodes, checked: whoever walks them reads nothing outside of the tensors and never writes one entry twice.
inline std::vector<TreeNode> read_tree(const char* op, const Ints& tree, const TreeSizes& sizes) {
  constexpr Int kColumns = sizeof(TreeNode) / sizeof(Int);
  const Int count = Int(tree.size()) / kColumns;
  if (count == 0 || Int(tree.size()) % kColumns) fail(op, "argument 'tree': expected seven numbers a node");
  std::vector<TreeNode> nodes(count);
  memcpy(nodes.data(), tree.data(), count * sizeof(TreeNode));
  constexpr Int kMost = Int(1) << 31;
  std::vector<Int> children(count, 0);
  std::vector<std::pair<Int, Int>> weights, leaves;  // begin and end of every matrix and table
  for (Int n = 0; n < count; ++n) {
    const TreeNode& node = nodes[n];
    const auto demand = [&](bool holds, const char* what) {
      if (!holds) fail(op, "argument 'tree': node " + std::to_string(n) + ": " + what);
    };
    demand(n == 0 ? node.parent == -1 : node.parent >= 0 && node.parent < n, "its parent must come before it");
    demand(node.states >= 1 && node.states < kMost, "it needs at least one state");
    const Int above = n == 0 ? 1 : nodes[node.parent].states;
    if (n > 0) {
      demand(nodes[node.parent].latent(), "its parent has no latent variable");
      ++children[node.parent];
    }
    if (node.latent()) {
      demand(node.weights <= sizes.weights && node.states <= (sizes.weights - node.weights) / above,
             "its weights leave the tensor");
      weights.emplace_back(node.weights, node.weights + above * node.states);
    } else {
      demand(n > 0 && node.observed() && node.states == above,
             "without a latent variable it must observe its parent's");
    }
    if (node.observed()) {
      demand(node.variable < sizes.variables && node.categories >= 1 && node.categories < kMost,
             "its variable or its number of categories is wrong");
      demand(node.leaves >= 0 && node.leaves <= sizes.leaves &&
                 node.categories <= (sizes.leaves - node.leaves) / node.states,
             "its leaves leave the tensor");
      leaves.emplace_back(node.leaves, node.leaves + node.categories * node.states);
    }
  }
  for (Int n = 0; n < count; ++n)
    if (nodes[n].children != children[n])
      fail(op, "argument 'tree': node " + std::to_string(n) + ": it has another number of children");
  for (auto* list : {&weights, &leaves}) {
    std::sort(list->begin(), list->end());
    for (std::size_t i = 1; i < list->size(); ++i)
      if ((*list)[i].first < (*list)[i - 1].second) fail(op, "argument 'tree': nodes share parameters");
  }
  return nodes;
}

template <class F>
void dispatch_float(const char* op, DType dtype, F&& f) {
  if (dtype != DType::f32 && dtype != DType::f64) fail(op, "takes float32 and float64");
  dtype == DType::f32 ? f(float{}) : f(double{});
}

// How many flows of missing observations there are: the states of every node with an observed variable.
inline Int count_missing(const std::vector<TreeNode>& nodes) {
  Int count = 0;
  for (const TreeNode& node : nodes) count += node.observed() ? node.states : 0;
  return count;
}

// The power of two that brings a number >= 0 to [1, 2), from its bits: multiplying by it rounds nothing. Numbers at the
// ends of the range (zero, subnormals, above half of the largest) come as near as a power of two can bring them.
template <class A>
struct PowerOfTwo {
  using Bits = std::conditional_t<sizeof(A) == 8, std::int64_t, std::int32_t>;
  static constexpr int kMantissa = sizeof(A) == 8 ? 52 : 23, kBias = sizeof(A) == 8 ? 1023 : 127;
  static constexpr A kLeast = std::numeric_limits<A>::min();  // the least normal number
  static constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();
  static constexpr int kRange = kBias - 1;  // powers of two that a number may lie from 1, either way
  int exponent;

  PK_HD explicit PowerOfTwo(A largest) {
    const int field = int(bit_cast<Bits>(largest) >> kMantissa) & (2 * kBias + 1);
    exponent = (field < 2 * kBias - 1 ? field : 2 * kBias - 1) - kBias;
  }
  PK_HD A scale() const { return bit_cast<A>(Bits(kBias - exponent) << kMantissa); }
};

// 2^exponent, at least the least normal number and at most 1: a state that is positive stays so, and the exponent of
// one that is zero does not matter.
template <class A>
PK_HD A power_of_two(int exponent) {
  using Power = PowerOfTwo<A>;
  const int biased = exponent > 0 ? Power::kBias : exponent + Power::kBias;
  return bit_cast<A>(typename Power::Bits(biased > 1 ? biased : 1) << Power::kMantissa);
}

// A product's state that is multiplied by v. `before`, its exponent so far, may be null: zero.
template <class A>
struct Factor {
  A mantissa;
  int exponent;
  PK_HD Factor(A product, const std::int32_t* before, A v) : exponent(before ? *before : 0) {
    mantissa = taken(taken(product) * taken(v));
  }
  PK_HD A taken(A v) {
    const PowerOfTwo<A> power(v);
    exponent += power.exponent;
    return v * power.scale();
  }
};

// Between which powers of two the positive parameters lie, and whether others are zero: so count those below the normal
// range.
struct Reach {
  template <int B, class A>
  PK_HD static void run(const A* from, Int count, bool* zeros, int* low, int* high) {
    using Bits = typename PowerOfTwo<A>::Bits;
    constexpr Bits kNormal = Bits(1) << PowerOfTwo<A>::kMantissa, kMost = std::numeric_limits<Bits>::max();
    Bits least = kMost, lowest = kMost, most = 0;
    for (Int i = 0; i < count; ++i) {
      const Bits bits = bit_cast<Bits>(from[i]);
      const Bits positive = bits < kNormal ? kMost : bits;
      least = positive < least ? positive : least;
      lowest = bits < lowest ? bits : lowest;
      most = bits > most ? bits : most;
    }
    *zeros = lowest < kNormal;
    const auto exponent = [](Bits bits) { return int(bits >> PowerOfTwo<A>::kMantissa) - PowerOfTwo<A>::kBias; };
    *low = least == kMost ? 0 : exponent(least);
    *high = exponent(most) + 1;
  }
};

}  // namespace pk
