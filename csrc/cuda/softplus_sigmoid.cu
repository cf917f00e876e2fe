// Softplus and its derivative on a GPU: a thread for four neighbors, one exponential for both.
#include <cmath>

#include "pk/philox_gpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

__device__ __forceinline__ float exp_of(float v) { return expf(v); }
__device__ __forceinline__ double exp_of(double v) { return exp(v); }
__device__ __forceinline__ float log1p_of(float v) { return log1pf(v); }
__device__ __forceinline__ double log1p_of(double v) { return log1p(v); }

// exp(-|z|), in (0, 1]: it cannot overflow.
template <class A>
__device__ __forceinline__ A exp_of_size(A z) {
  return exp_of(z > A(0) ? -z : z);
}

template <bool kWide, class T>
__global__ void __launch_bounds__(kQuadThreads) forward_kernel(const T* x, T* value, T* slope, acc_t<T> beta, Int n) {
  using A = acc_t<T>;
  const Quad at = quad_of_thread(1, n);
  if (at.count == 0) return;
  A in[4], sigmoid[4];
  load_quad<kWide>(x + at.first, at.count, in);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const A z = in[k] * beta, e = exp_of_size(z);
    sigmoid[k] = (z < A(0) ? e : A(1)) / (A(1) + e);
    in[k] = log1p_of(e) / beta + (z < A(0) ? A(0) : in[k]);
  }
  store_quad<kWide>(value + at.first, at.count, in);
  store_quad<kWide>(slope + at.first, at.count, sigmoid);
}

template <bool kWide, class T>
__global__ void __launch_bounds__(kQuadThreads)
    backward_kernel(const T* grad_value, const T* grad_slope, const T* x, T* grad, acc_t<T> beta, Int n) {
  using A = acc_t<T>;
  const Quad at = quad_of_thread(1, n);
  if (at.count == 0) return;
  A in[4], of_value[4], of_slope[4];
  load_quad<kWide>(x + at.first, at.count, in);
  load_quad<kWide>(grad_value + at.first, at.count, of_value);
  load_quad<kWide>(grad_slope + at.first, at.count, of_slope);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const A z = in[k] * beta, e = exp_of_size(z), inverse = A(1) / (A(1) + e), other = e * inverse;
    in[k] = of_value[k] * (z < A(0) ? other : inverse) + of_slope[k] * (beta * (inverse * other));
  }
  store_quad<kWide>(grad + at.first, at.count, in);
}

}  // namespace

void softplus_sigmoid_cuda(DType dtype, const void* x, void* value, void* slope, Int n, double beta, Stream stream) {
  dispatch("softplus_sigmoid", dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel = quads_are_aligned<T>(n, x, value, slope) ? forward_kernel<true, T> : forward_kernel<false, T>;
    PK_LAUNCH(kernel, quad_grid(1, n), dim3(kQuadThreads), 0, stream, static_cast<const T*>(x), static_cast<T*>(value),
              static_cast<T*>(slope), acc_t<T>(beta), n);
  });
}

void softplus_sigmoid_bwd_cuda(DType dtype, const void* grad_value, const void* grad_slope, const void* x, void* grad,
                               Int n, double beta, Stream stream) {
  dispatch("softplus_sigmoid_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    const bool wide = quads_are_aligned<T>(n, grad_value, grad_slope, x, grad);
    const auto kernel = wide ? backward_kernel<true, T> : backward_kernel<false, T>;
    PK_LAUNCH(kernel, quad_grid(1, n), dim3(kQuadThreads), 0, stream, static_cast<const T*>(grad_value),
              static_cast<const T*>(grad_slope), static_cast<const T*>(x), static_cast<T*>(grad), acc_t<T>(beta), n);
  });
}

}  // namespace pk
