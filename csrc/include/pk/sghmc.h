// What the kernels of a step of SGHMC share. Equations: python/probkernels/reference/sghmc_step.py.
#pragma once
#include <vector>

#include "pk/launch.h"
#include "pk/philox.h"

namespace pk {

template <class A>
struct SghmcRule {
  A rate, decay, noise, less, least, scale, eps;  // lr^2, mdecay, 2 lr^2 mdecay, lr^4, least variance, of gradients
  SghmcRule(double lr, double mdecay, double scale_grad, double eps)
      : rate(A(lr * lr)),
        decay(A(mdecay)),
        noise(A(2 * lr * lr * mdecay)),
        less(A(lr * lr * (lr * lr))),
        least(A(1e-16)),
        scale(A(scale_grad)),
        eps(A(eps)) {}
};

// One entry: z is its normal number.
template <bool kBurnIn, class A>
PK_HD void sghmc_update(const SghmcRule<A>& rule, A grad, A z, A& weight, A& m, A& tau, A& g, A& v) {
  const A gradient = mul(grad, rule.scale);
  if (kBurnIn) {
    const A share = quotient(A(1), tau + A(1));
    tau = (tau + A(1)) - mul(tau, quotient(mul(g, g), v + rule.eps));
    g = g + mul(share, gradient - g);
    v = v + mul(share, mul(gradient, gradient) - v);
  }
  const A scale = quotient(A(1), root(v) + rule.eps);
  const A wanted = mul(scale, rule.noise) - rule.less;
  const A variance = wanted > rule.least ? wanted : rule.least;
  m = ((m - mul(mul(scale, gradient), rule.rate)) - mul(m, rule.decay)) + mul(root(variance), z);
  weight = weight + m;
}

template <class A>
struct SghmcTensor {
  A *weight, *m, *tau, *g, *v;
  const A* grad;
  std::int64_t size, row;
};

// The lists of a launcher's call, one item a tensor.
template <class A>
std::vector<SghmcTensor<A>> sghmc_tensors(const Tensors& weights, const Tensors& m, const Tensors& tau,
                                          const Tensors& g, const Tensors& v, const Tensors& grads, const Ints& sizes,
                                          const Ints& rows) {
  std::vector<SghmcTensor<A>> all;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    all.push_back(
        {weights.at<A>(i), m.at<A>(i), tau.at<A>(i), g.at<A>(i), v.at<A>(i), grads.at<const A>(i), sizes[i], rows[i]});
    const auto& t = all.back();
    if (!t.weight || !t.m || !t.tau || !t.g || !t.v || !t.grad)
      fail("sghmc_step", "null data pointer: a fake or meta tensor, or an empty one, reached a native kernel");
  }
  return all;
}

}  // namespace pk
