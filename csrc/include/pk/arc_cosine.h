// A layer of the kernels of infinitely wide networks, for one pair of points (GPU) or sixteen of a row (CPU): V is a
// number or a Vec, A a number. Equations: python/probkernels/reference/arc_cosine.py.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "pk/launch.h"

namespace pk {

constexpr int kRelu = 0, kErf = 1, kHeaviside = 2;
constexpr int kMostLayers = 128;  // MOST of python/probkernels/ops/arc_cosine.py

// The network: L activations, variances (L + 1) of weights and biases.
template <class A>
struct Network {
  const A *weight, *bias;
  int layers;
  bool residual, tangent;  // tangent: whether the NTK is wanted
  PK_HD bool skips(int layer) const { return residual && layer + 1 < layers; }
};

// What is given: (batch, rows, columns) inner products, and for each layer the lengths of the points and their
// inverses.
template <class A>
struct Pairs {
  const A *k, *left, *left_inverse, *right, *right_inverse;  // (B, M, N), (B, L, M) twice, (B, L, N) twice
  std::int64_t batch, rows, columns;
};

PK_HD float root_of(float x) { return sqrtf(x); }
PK_HD double root_of(double x) { return sqrt(x); }
PK_HD float asin_of(float x) { return asinf(x); }
PK_HD double asin_of(double x) { return asin(x); }
PK_HD float inverse_of(float x) { return 1.0f / x; }
PK_HD double inverse_of(double x) { return 1.0 / x; }
template <class A>
PK_HD A clamp_of(A x, A limit) {
  return x > limit ? limit : (x < -limit ? -limit : x);
}

template <class A>
constexpr A kInversePi = A(0.318309886183790671538);

template <class V>
struct Angle {
  V raw, cosine;  // cosine: clamped, so that the sine is not 0
  V sine, arc;    // of the angle; asin(cosine)
};

template <int kActivation, class A, class V>
PK_HD void set_cosine(Angle<V>& angle, const V& k, const V& inverse) {
  angle.raw = k * inverse * A(kActivation == kErf ? 2 : 1);
  angle.cosine = clamp_of(angle.raw, A(1) - std::numeric_limits<A>::epsilon());
}

template <int kActivation, class A, class V>
PK_HD Angle<V> angle_of(const V& k, const V& inverse) {
  Angle<V> found;
  set_cosine<kActivation, A>(found, k, inverse);
  found.sine = root_of((found.cosine * A(-1) + A(1)) * (found.cosine + A(1)));
  found.arc = asin_of(found.cosine);
  return found;
}

// The kernel behind the activation, and its slope: the factor of the tangent kernel.
template <int kActivation, class A, class V>
PK_HD void activate(const Angle<V>& at, const V& scale, const V& inverse, V& value, V& slope) {
  constexpr A kHalf = kInversePi<A> / 2;
  if constexpr (kActivation == kErf) {
    value = at.arc * (2 * kInversePi<A>);
    slope = inverse * inverse_of(at.sine) * (4 * kInversePi<A>);
  } else {
    const V share = at.arc * kHalf + A(0.25);  // (pi - angle) / (2 pi)
    if constexpr (kActivation == kRelu) {
      value = scale * (at.sine * kHalf + at.cosine * share);
      slope = share;
    } else {
      value = scale * share;
      slope = inverse_of(at.sine) * kHalf;
    }
  }
}

// k and t, the kernel and the tangent kernel, through an activation and the dense layer behind it.
template <class A, class V>
PK_HD void dense(const Network<A>& net, int layer, const V& value, const V& slope, V& k, V& t) {
  const V fresh = value * net.weight[layer + 1] + net.bias[layer + 1];
  const bool skips = net.skips(layer);
  if (net.tangent) {
    const V fresh_t = fresh + slope * t * net.weight[layer + 1];
    t = skips ? t + fresh_t : fresh_t;
  }
  k = skips ? k + fresh : fresh;
}

// What the backward keeps of a layer's input.
template <class V>
struct Kept {
  V k, t, sine, arc;
};

template <class V>
struct LayerGrads {
  V left, right, weight, bias;
};

// The gradients of a layer: grad_k and grad_t, those of its outputs, become those of its inputs.
template <int kActivation, class A, class V>
PK_HD LayerGrads<V> dense_backward(const Network<A>& net, int layer, const Kept<V>& kept, A left, A left_inverse,
                                   const V& right, const V& right_inverse, V& grad_k, V& grad_t) {
  constexpr A kHalf = kInversePi<A> / 2;
  const V scale = right * left, inverse = right_inverse * left_inverse;
  Angle<V> at;
  set_cosine<kActivation, A>(at, kept.k, inverse);
  at.sine = kept.sine, at.arc = kept.arc;
  V value, slope;
  activate<kActivation, A>(at, scale, inverse, value, slope);
  LayerGrads<V> found;
  const A weight = net.weight[layer + 1];
  const bool skips = net.skips(layer);
  found.bias = grad_k;
  V grad_slope = grad_k * A(0);
  if (net.tangent) {
    found.bias = grad_k + grad_t;
    grad_slope = grad_t * kept.t;
  }
  found.weight = found.bias * value + grad_slope * slope;
  const V grad_value = found.bias * weight;
  grad_slope = grad_slope * weight;
  V grad_cosine, before;
  if constexpr (kActivation == kErf) {
    const V over_sine = inverse_of(at.sine);
    const V along = grad_slope * slope;
    grad_cosine = grad_value * over_sine * (2 * kInversePi<A>)+along * at.cosine * over_sine * over_sine;
    const V both = (grad_cosine * at.raw + along) * A(-1);
    found.right = both * right_inverse;
    found.left = both * left_inverse;
    before = grad_cosine * inverse * A(2);
  } else if constexpr (kActivation == kRelu) {
    V of_slope = grad_slope;
    if (net.tangent) of_slope = grad_slope * inverse_of(at.sine) * kHalf;
    grad_cosine = grad_value * scale * slope + of_slope;
    const V of_scale = grad_value * (at.sine * kHalf + (at.cosine - at.raw) * slope), turned = of_slope * at.raw;
    found.right = of_scale * left - turned * right_inverse;
    found.left = of_scale * right - turned * left_inverse;
    before = grad_cosine * inverse;
  } else {
    grad_cosine = grad_value * scale * slope;
    const V of_scale = grad_value * (at.arc * kHalf + A(0.25)), turned = grad_cosine * at.raw;
    found.right = of_scale * left - turned * right_inverse;
    found.left = of_scale * right - turned * left_inverse;
    before = grad_cosine * inverse;
  }
  grad_k = skips ? grad_k + before : before;
  if (net.tangent) grad_t = skips ? grad_t + grad_t * slope * weight : grad_t * slope * weight;
  return found;
}

}  // namespace pk
