// One step of AdamW on the selected entries of many weights: what the CPU's and the GPU's kernels share. Equations and
// the coding of 8-bit moments: python/probkernels/reference/sparse_adamw.py.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "pk/selection.h"

namespace pk {

constexpr int kMomentBlock = 256;  // entries that share an absmax

// A weight of `size` entries, of which `count` are selected, in ascending order of position: by `index` (count), or by
// `words`, a bit an entry, and `ranks`, the number selected before every 512th entry.
struct AdamTensor {
  void *weight, *values;  // values: a master copy of the selected entries, or null
  const void* grad;
  void *m, *v;              // moments, or codes of m and of the square root of v
  void *m_scale, *v_scale;  // each block's absmax, or null
  const std::int32_t* index;
  const std::uint64_t* words;
  const std::int32_t* ranks;
  std::int64_t size, count;
  double rate, inv_root_bias2;  // lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step)
  DType dtype, grad_dtype;
  int dense;  // whether grad has the weight's entries and not only the selected ones
};

template <class A>
struct AdamRule {
  A beta1, fresh1, beta2, fresh2, eps, decay;
  AdamRule(double lr, double beta1, double beta2, double eps, double weight_decay)
      : beta1(A(beta1)),
        fresh1(A(1 - beta1)),
        beta2(A(beta2)),
        fresh2(A(1 - beta2)),
        eps(A(eps)),
        decay(A(1 - lr * weight_decay)) {}
};

// kRoots: v is kept as its square root, of which 8 bits reach as far down as 16 bits of v would.
template <bool kRoots, class A>
PK_HD void adam_update(const AdamRule<A>& rule, A rate, A inv_root_bias2, A g, A& value, A& m, A& v) {
  m = rule.beta1 * m + rule.fresh1 * g;
  v = rule.beta2 * (kRoots ? v * v : v) + rule.fresh2 * (g * g);
  const A root = std::sqrt(v);
  if (kRoots) v = root;
  value = value * rule.decay - rate * m / (root * inv_root_bias2 + rule.eps);
}

// The lists of a launcher's call, one item a weight.
struct AdamLists {
  const Ints& dtypes;
  const Tensors &weights, &values;
  const Ints &grad_dtypes, &dense;
  const Tensors &grads, &m, &v, &m_scale, &v_scale, &index, &words, &ranks;
  const Ints &sizes, &counts, &steps;

  std::vector<AdamTensor> tensors(double lr, double beta1, double beta2) const {
    std::vector<AdamTensor> all;
    for (std::size_t i = 0; i < dtypes.size(); ++i) {
      dispatch("sparse_adamw", DType(dtypes[i]), [](auto) {});  // an unknown one throws here, outside any thread
      all.push_back({weights.at<void>(i), values.at<void>(i), grads.at<void>(i), m.at<void>(i), v.at<void>(i),
                     m_scale.at<void>(i), v_scale.at<void>(i), index.at<std::int32_t>(i), words.at<std::uint64_t>(i),
                     ranks.at<std::int32_t>(i), sizes[i], counts[i], lr / (1 - std::pow(beta1, double(steps[i]))),
                     1 / std::sqrt(1 - std::pow(beta2, double(steps[i]))), DType(dtypes[i]), DType(grad_dtypes[i]),
                     int(dense[i])});
      const AdamTensor& t = all.back();
      const bool selects = t.index || (t.words && t.ranks);
      if (!t.weight || !t.grad || !t.m || !t.v || !selects || !t.m_scale != !t.v_scale)
        fail("sparse_adamw", "null data pointer: a fake or meta tensor, or an empty one, reached a native kernel");
    }
    return all;
  }
};

}  // namespace pk
