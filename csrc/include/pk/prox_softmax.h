// The proximal softmax of one group of states (GPU) or of sixteen (CPU): V is a number or a Vec, A a number. Equations:
// python/probkernels/reference/prox_softmax.py.
#pragma once
#include <cmath>
#include <cstdint>

#include "pk/launch.h"

namespace pk {

constexpr int kMostRounds = 100;  // of Newton's method; 5 are usual. Rounding may use them up (float32, alpha <= 1e-6)

PK_HD float exp_of(float x) { return expf(x); }
PK_HD double exp_of(double x) { return exp(x); }
PK_HD float log_of(float x) { return logf(x); }
PK_HD double log_of(double x) { return log(x); }
PK_HD float reciprocal(float x) { return 1.0f / x; }
PK_HD double reciprocal(double x) { return 1.0 / x; }
// The larger or smaller one; the second if either is NaN.
template <class A>
PK_HD A larger(A x, A y) {
  return x > y ? x : y;
}
template <class A>
PK_HD A smaller(A x, A y) {
  return x < y ? x : y;
}
template <class A>
PK_HD A where_above(A x, A limit, A yes, A no) {
  return x > limit ? yes : no;
}
template <class A>
PK_HD bool any_left(A x, A limit) {
  return x > limit;
}

// A step of Newton's method with sum p step^2 below it was the last one: what remains is at most half of that sum.
template <class A>
constexpr A kSmallStep = sizeof(A) == 4 ? A(2e-8) : A(1e-16);

// a (n) holds a group's y; afterwards p (n) holds the probabilities, and all else is scratch of n. Newton's method acts
// on log p and on the multiplier of their sum at once. A group that has converged is left alone, so that it does not
// depend on its neighbors.
template <class V, class A, class Buffer>
PK_HD void prox_softmax_group(A alpha, int n, Buffer a, Buffer g, Buffer p, Buffer d) {
  const A curve = (A(1) - alpha) / alpha, warmth = A(1) / (alpha + (A(1) - alpha) / A(n)), cold = A(1) / alpha;
  const V zero = a[0] * A(0), one = zero * A(0) + A(1), floor = zero + A(-1e30);  // floor: for states of -infinity
  V most = a[0];
  for (int i = 1; i < n; ++i) most = larger(most, a[i]);
  most = most + (zero * A(0));
  V sum = zero;
  for (int i = 0; i < n; ++i) {
    const V shifted = a[i] - most;
    a[i] = larger(floor, shifted * cold);
    g[i] = larger(floor, shifted * warmth);
    p[i] = exp_of(g[i]);
    sum = i ? sum + p[i] : p[i];
  }
  const V log_sum = log_of(sum), inverse = reciprocal(sum);
  for (int i = 0; i < n; ++i) g[i] = g[i] - log_sum, p[i] = p[i] * inverse;
  if (curve == A(0)) return;
  V change = one;
  for (int round = 0; round < kMostRounds && any_left(change, kSmallStep<A>); ++round) {
    V missing = one, slope = zero;
    for (int i = 0; i < n; ++i) {
      d[i] = reciprocal(p[i] * curve + A(1));
      const V rate = p[i] * d[i], rest = a[i] - p[i] * curve - g[i];
      missing = missing - p[i] - rate * rest;
      slope = slope + rate;
    }
    const V multiplier = missing * reciprocal(slope);
    V moved = zero;
    for (int i = 0; i < n; ++i) {
      const V step = d[i] * (a[i] - p[i] * curve - g[i] + multiplier);
      const V before = p[i];
      g[i] = where_above(change, kSmallStep<A>, smaller(zero, g[i] + step), g[i]);
      p[i] = exp_of(g[i]);
      moved = moved + (before + p[i]) * step * step;  // after it too: a state may rise from nothing to 1
    }
    change = where_above(change, kSmallStep<A>, moved, change);
  }
}

// p (n) and the gradient v (n) of the probabilities; afterwards v holds that of y, and p the slopes.
template <class V, class A, class Buffer>
PK_HD void prox_softmax_bwd_group(A alpha, int n, Buffer p, Buffer v) {
  V slope = p[0] * A(0), along = slope;
  for (int i = 0; i < n; ++i) {
    p[i] = p[i] * reciprocal(p[i] * (A(1) - alpha) + alpha);
    slope = slope + p[i];
    along = along + p[i] * v[i];
  }
  const V mean = along * reciprocal(slope);
  for (int i = 0; i < n; ++i) v[i] = p[i] * (v[i] - mean);
}

}  // namespace pk
