// Stochastic gates: the value and the estimated slope of one element. Every operation is one that IEEE 754 rounds, as
// in philox.h, so that all backends and python/probkernels/reference/stochastic_gate.py give the same bits. Without
// branches, so that loops vectorize. Sources that include this are compiled with -ffp-contract=off.
#pragma once
#include "pk/launch.h"
#include "pk/philox.h"

namespace pk {

enum class Gate : int { kIdentity, kSigmoid, kSmooth, kGauss, kLogistic };  // MODES of ops/stochastic_gate.py
template <Gate mode>
using GateMode = std::integral_constant<Gate, mode>;

// Calls f(GateMode<mode>{}).
template <class F>
PK_HD void for_mode(Gate mode, F&& f) {
  switch (mode) {
    case Gate::kIdentity:
      return f(GateMode<Gate::kIdentity>{});
    case Gate::kSigmoid:
      return f(GateMode<Gate::kSigmoid>{});
    case Gate::kSmooth:
      return f(GateMode<Gate::kSmooth>{});
    case Gate::kGauss:
      return f(GateMode<Gate::kGauss>{});
    case Gate::kLogistic:
      return f(GateMode<Gate::kLogistic>{});
  }
}

// What all elements share.
struct GateRule {
  Gate mode;
  bool sampled;  // else a threshold decides
  double slope;
  Seeds seeds;
  bool shared;  // seeds.of_rows is a single seed, of all rows: where it lies is read by the kernel

  PK_HD Seeds resolved() const {
    return shared ? Seeds{nullptr, seeds.of_rows[0], seeds.row, seeds.step} : seeds;
  }
  // The same without noise, where only slopes are asked for that do not depend on it.
  GateRule for_slopes() const {
    GateRule rule = *this;
    if (mode == Gate::kIdentity || mode == Gate::kSigmoid) rule.sampled = false;
    return rule;
  }
};

template <class A>
using BitsOf = typename NormalMath<A>::Bits;

// All bits, or none.
template <class A>
PK_HD BitsOf<A> mask_of(bool condition) {
  return BitsOf<A>(0) - BitsOf<A>(condition);
}

template <class A>
struct ExpMath;
template <>
struct ExpMath<float> {
  static constexpr int kTerms = 7;
  static constexpr float kLow = -87.0f, kRound = 0x1.8p23f;  // adding it rounds to an integer, in the lowest bits
};
template <>
struct ExpMath<double> {
  static constexpr int kTerms = 13;
  static constexpr double kLow = -708.0, kRound = 0x1.8p52;
};

PK_HD constexpr double inverse_factorial(int n) { return n < 2 ? 1.0 : inverse_factorial(n - 1) / n; }

// exp of what is at most 0; 0 up to kLow. NaN gives 0.
template <class A>
PK_HD A exp_below(A x) {
  using M = NormalMath<A>;
  using E = ExpMath<A>;
  constexpr double kSeries[] = {inverse_factorial(0),  inverse_factorial(1),  inverse_factorial(2),
                                inverse_factorial(3),  inverse_factorial(4),  inverse_factorial(5),
                                inverse_factorial(6),  inverse_factorial(7),  inverse_factorial(8),
                                inverse_factorial(9),  inverse_factorial(10), inverse_factorial(11),
                                inverse_factorial(12), inverse_factorial(13)};
  const BitsOf<A> inside = mask_of<A>(x > E::kLow);
  const A t = select(inside, x, E::kLow);
  const A shifted = mul(t, A(1.4426950408889634)) + E::kRound, n = shifted - E::kRound;
  const A r = fused(n, -M::kLn2Low, fused(n, -M::kLn2High, t));
  A sum = A(kSeries[E::kTerms]);
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 16
#endif
  for (int k = E::kTerms - 1; k >= 0; --k) sum = fused(sum, r, A(kSeries[k]));
  const BitsOf<A> scale = (bit_cast<BitsOf<A>>(shifted) + BitsOf<A>(M::kBias)) << M::kMantissa;
  return select(inside, mul(sum, bit_cast<A>(scale)), A(0));
}

// A probability and 1 minus it: both to their last digits.
template <class A>
struct Chance {
  A yes, no;
};

template <class A>
PK_HD Chance<A> sigmoid(A x) {
  const A e = exp_below(bit_cast<A>(BitsOf<A>(bit_cast<BitsOf<A>>(x) | BitsOf<A>(1) << (8 * sizeof(A) - 1))));
  const A large = quotient(A(1), A(1) + e), small = mul(e, large);
  const BitsOf<A> positive = mask_of<A>(x > A(0));
  return {select(positive, large, small), select(positive, small, large)};
}

// All bits where a word's u is below the chance; decided by 1 - u and `no` where `yes` is near 1.
template <class A>
PK_HD BitsOf<A> happens(const Chance<A>& chance, std::uint32_t word) {
  const BitsOf<A> rare = mask_of<A>(chance.yes < chance.no);
  const A least = mul(select(rare, chance.yes, chance.no), A(0x1p31));
  const std::uint32_t side = (word ^ ~std::uint32_t(rare)) >> 1;
  return mask_of<A>(A(std::int32_t(side)) + A(0.5) < least) ^ ~rare;
}

// log((1 - u) / u) of a word's u: positive beside a where u < sigmoid(a).
template <class A>
PK_HD A logistic(std::uint32_t word) {
  A f;
  const std::int32_t k = parts_of(quotient(middle<A>(~word), middle<A>(word)), &f);
  return log_of_parts(A(k), f);
}

template <class A>
struct Gated {
  A h, slope;  // the gate, and what its estimator takes for dh/da
};

template <class A>
PK_HD Gated<A> rectified(A y) {
  const BitsOf<A> closed = mask_of<A>(y <= A(0));  // NaN stays
  return {select(closed, A(0), y), select(closed, A(0), A(1))};
}

// `word` and `noise` are those of the element; a mode reads one of them, and without `sampled` none.
template <Gate mode, class A>
PK_HD Gated<A> gate_of(A a, std::uint32_t word, A noise, A slope, bool sampled) {
  if constexpr (mode == Gate::kGauss) {
    return rectified(a + noise);
  } else if constexpr (mode == Gate::kLogistic) {
    return rectified(a + logistic<A>(word));
  } else {
    const BitsOf<A> number = mask_of<A>(a == a);
    const Chance<A> chance = sigmoid(mul(a, slope));
    Gated<A> at;
    if constexpr (mode == Gate::kSmooth) {
      const A size = root(chance.yes);
      const BitsOf<A> open = happens(Chance<A>{size, quotient(chance.no, A(1) + size)}, word);
      at = {select(open, size, A(0)), select(open, mul(mul(mul(chance.no, size), A(0.5)), slope), A(0))};
    } else {
      const BitsOf<A> open = sampled ? happens(chance, word) : mask_of<A>(a > A(0));
      at = {select(open, A(1), A(0)), mode == Gate::kIdentity ? A(1) : mul(mul(chance.yes, chance.no), slope)};
    }
    at.h = select(number, at.h, a);
    if (mode != Gate::kIdentity) at.slope = select(number, at.slope, a);
    return at;
  }
}

}  // namespace pk
