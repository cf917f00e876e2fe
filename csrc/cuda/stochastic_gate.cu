// Stochastic gates on a GPU: a thread for the four neighbors that one counter gives numbers for, one pass forward and
// one backward, which draws the same noise again.
#include "pk/philox_gpu.h"
#include "pk/stochastic_gate.h"

namespace pk {
namespace {

using Int = std::int64_t;

template <class A>
__device__ __forceinline__ void gates(const GateRule& rule, const Quad& at, const A (&a)[4], A (&h)[4], A (&slope)[4]) {
  Words words{};
  A noise[4] = {};
  if (rule.sampled) words = rule.resolved().words(at.row, at.counter);
  if (rule.mode == Gate::kGauss) normals(words, noise);
  for_mode(rule.mode, [&](auto kind) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const Gated<A> one = gate_of<decltype(kind)::value>(a[k], words.word[k], noise[k], A(rule.slope), rule.sampled);
      h[k] = one.h;
      slope[k] = one.slope;
    }
  });
}

template <bool kWide, class T>
__global__ void __launch_bounds__(kQuadThreads)
    gate_kernel(const T* a, const T* v, T* y, const __grid_constant__ GateRule rule, Int rows, Int n) {
  using A = acc_t<T>;
  const Quad at = quad_of_thread(rows, n);
  if (at.count == 0) return;
  A x[4], value[4], h[4], slope[4];
  load_quad<kWide>(a + at.first, at.count, x);
  if (v) load_quad<kWide>(v + at.first, at.count, value);
  gates(rule, at, x, h, slope);
  if (v) {
#pragma unroll
    for (int k = 0; k < 4; ++k) h[k] = mul(h[k], value[k]);
  }
  store_quad<kWide>(y + at.first, at.count, h);
}

template <bool kWide, class T>
__global__ void __launch_bounds__(kQuadThreads)
    gate_bwd_kernel(const T* grad, const T* a, const T* v, T* grad_a, T* grad_v, const __grid_constant__ GateRule rule,
                    Int rows, Int n) {
  using A = acc_t<T>;
  const Quad at = quad_of_thread(rows, n);
  if (at.count == 0) return;
  A x[4], g[4], value[4], h[4], slope[4];
  load_quad<kWide>(a + at.first, at.count, x);
  load_quad<kWide>(grad + at.first, at.count, g);
  if (v) load_quad<kWide>(v + at.first, at.count, value);
  gates(rule, at, x, h, slope);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    slope[k] = mul(v ? mul(g[k], value[k]) : g[k], slope[k]);
    h[k] = mul(g[k], h[k]);
  }
  store_quad<kWide>(grad_a + at.first, at.count, slope);
  if (v) store_quad<kWide>(grad_v + at.first, at.count, h);
}

}  // namespace

void stochastic_gate_cuda(DType dtype, const void* a, Maybe v, Maybe seeds, void* y, Int rows, Int n, Int mode,
                          bool sampled, double slope, bool shared, Int seed, Int row, Int step, Stream stream) {
  const GateRule rule{Gate(mode), sampled, slope, {seeds.as<Int>(), seed, row, step}, shared};
  dispatch("stochastic_gate", dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel = quads_are_aligned<T>(n, a, v.ptr, y) ? gate_kernel<true, T> : gate_kernel<false, T>;
    PK_LAUNCH(kernel, quad_grid(rows, n), dim3(kQuadThreads), 0, stream, static_cast<const T*>(a), v.as<T>(),
              static_cast<T*>(y), rule, rows, n);
  });
}

void stochastic_gate_bwd_cuda(DType dtype, const void* grad, const void* a, Maybe v, Maybe seeds, Tensors grads,
                              Int rows, Int n, Int mode, bool sampled, double slope, bool shared, Int seed, Int row,
                              Int step, Stream stream) {
  GateRule rule{Gate(mode), sampled, slope, {seeds.as<Int>(), seed, row, step}, shared};
  if (!v.ptr) rule = rule.for_slopes();
  dispatch("stochastic_gate_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    T *const into_a = grads.at<T>(0), *const into_v = v.ptr ? grads.at<T>(1) : nullptr;
    const bool wide = quads_are_aligned<T>(n, grad, a, v.ptr, into_a, into_v);
    const auto kernel = wide ? gate_bwd_kernel<true, T> : gate_bwd_kernel<false, T>;
    PK_LAUNCH(kernel, quad_grid(rows, n), dim3(kQuadThreads), 0, stream, static_cast<const T*>(grad),
              static_cast<const T*>(a), v.as<T>(), into_a, into_v, rule, rows, n);
  });
}

}  // namespace pk
