// The latents of a PV-RNN's step, and their backward pass: for a number on a GPU, for Vec on a CPU; Math
// has the functions of either. Equations: python/probkernels/reference/pvrnn_scan.py.
#pragma once
#include "pk/launch.h"

namespace pk {

// What a scan reads; S sequences of T steps, D units and Z latents, of which the first K steps have vectors A.
template <class A>
struct Pvrnn {
  const A *h0, *noise, *weight, *bias, *z_weight, *leak;  // (S,D), (S,T,Z), (D+4Z,D), (D+4Z), (D,Z), (D)
  const A* adapt;                                         // (S,K,2Z) or null
  const std::int64_t* lengths;                            // (S) or null
  std::int64_t rows, steps, d, z, adapted;
  bool start;
  A low, high;

  PK_HD std::int64_t all() const { return d + 4 * z; }
  PK_HD std::int64_t end(std::int64_t row) const { return lengths ? lengths[row] : steps; }
  PK_HD bool normal(std::int64_t t) const { return start && t == 0; }
  // Those of a step, or null: then its posterior is the prior.
  PK_HD const A* adapt_at(std::int64_t row, std::int64_t t) const {
    return adapt && t < adapted ? adapt + (row * adapted + t) * 2 * z : nullptr;
  }
};

template <class A>
struct PvrnnOutputs {
  A *d, *z, *stats, *kl, *last;  // (S,T,D), (S,T,Z), (S,T,4,Z), (S,T,Z), (S,D)
};

template <class A>
struct PvrnnGrads {
  const A *states, *d, *z, *stats, *kl, *last;  // states: the outputs d; of all others the cotangents
  A *pre, *h0, *noise;                          // (S,T,D+4Z), (S,D), (S,T,Z)
};

// Means and log sigmas, or their pre-activations, or the cotangents of either.
template <class V>
struct Latents {
  V prior_mean, prior_log, mean, log_sigma;
};

// `pre` without A; `to` has its part in mean and log_sigma.
template <class Math, class V, class A>
PK_HD Latents<V> latents_of(const Latents<V>& pre, const V& zero, bool normal, bool adapted, A low, A high) {
  Latents<V> s;
  s.prior_mean = normal ? zero : Math::tanh_of(pre.prior_mean);
  s.prior_log = normal ? zero : Math::clamp_of(pre.prior_log, low, high);
  s.mean = adapted ? Math::tanh_of(pre.mean) : s.prior_mean;
  s.log_sigma = adapted ? Math::clamp_of(pre.log_sigma, low, high) : s.prior_log;
  return s;
}

template <class Math, class A, class V>
PK_HD V kl_of(const Latents<V>& s) {
  const V far = (s.prior_mean - s.mean) * Math::exp_of(s.prior_log * A(-1));
  return s.prior_log - s.log_sigma + (far * far + Math::exp_of((s.log_sigma - s.prior_log) * A(2))) * A(0.5) + A(-0.5);
}

// Cotangents of the pre-activations from those of the statistics (`into`), of the KL and of z; `of_noise` is that of
// the noise.
template <class Math, class A, class V>
PK_HD Latents<V> into_latents(const Latents<V>& pre, const Latents<V>& s, Latents<V> into, const V& kl, const V& z,
                              const V& noise, const V& zero, bool normal, bool adapted, A low, A high, V& of_noise) {
  const V pull = (s.prior_mean - s.mean) * Math::exp_of(s.prior_log * A(-2));
  const V ratio = Math::exp_of((s.log_sigma - s.prior_log) * A(2));
  of_noise = z * Math::exp_of(s.log_sigma);
  into.prior_mean = into.prior_mean + kl * pull;
  into.prior_log = into.prior_log + kl * (((s.prior_mean - s.mean) * pull + ratio) * A(-1) + A(1));
  into.mean = into.mean + z - kl * pull;
  into.log_sigma = into.log_sigma + kl * (ratio + A(-1)) + of_noise * noise;
  if (adapted) {
    into.mean = into.mean * (s.mean * s.mean * A(-1) + A(1));
    into.log_sigma = Math::inside(pre.log_sigma, low, high, into.log_sigma);
  } else {
    into.prior_mean = into.prior_mean + into.mean;
    into.prior_log = into.prior_log + into.log_sigma;
    into.mean = into.log_sigma = zero;
  }
  into.prior_mean = normal ? zero : into.prior_mean * (s.prior_mean * s.prior_mean * A(-1) + A(1));
  into.prior_log = normal ? zero : Math::inside(pre.prior_log, low, high, into.prior_log);
  return into;
}

template <class A>
Pvrnn<A> pvrnn_of(const void* h0, const void* noise, const void* weight, const void* bias, const void* z_weight,
                  const void* leak, Maybe adapt, Maybe lengths, std::int64_t rows, std::int64_t steps, std::int64_t d,
                  std::int64_t z, std::int64_t adapted, bool start, double low, double high) {
  const auto in = [](const void* p) { return static_cast<const A*>(p); };
  return {in(h0), in(noise), in(weight), in(bias), in(z_weight), in(leak), adapt.as<A>(), lengths.as<std::int64_t>(),
          rows,   steps,     d,          z,        adapted,      start,    A(low),        A(high)};
}

}  // namespace pk
