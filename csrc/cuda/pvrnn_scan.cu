// PV-RNN scans on a GPU: a block for a sequence, step by step. The state stays in shared memory, and so do the weights
// where they fit (64 units and 8 latents do): a thread owns a unit or a latent. The backward pass computes the latents
// of a step again from the states; gradients of the weights are products over all steps at once, which the caller
// makes.
#include "pk/gpu.h"
#include "pk/pvrnn.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 128;
constexpr Int kSharedBytes = 48 << 10;  // what every device grants

struct Math {
  __device__ __forceinline__ static float tanh_of(float v) { return tanhf(v); }
  __device__ __forceinline__ static double tanh_of(double v) { return tanh(v); }
  __device__ __forceinline__ static float exp_of(float v) { return expf(v); }
  __device__ __forceinline__ static double exp_of(double v) { return exp(v); }
  template <class A>
  __device__ __forceinline__ static A clamp_of(A v, A low, A high) {
    return v < low ? low : v > high ? high : v;
  }
  // `value` where v lies within the bounds, else 0.
  template <class A>
  __device__ __forceinline__ static A inside(A v, A low, A high, A value) {
    return v >= low && v <= high ? value : A(0);
  }
};

// The weights, in shared memory with rows one longer, so that the threads of a warp read from different banks.
template <class A>
struct Weights {
  const A *weight, *z_weight;
  Int down, z_down;
};

template <class A>
Int weight_count(const Pvrnn<A>& in) {
  return in.all() * (in.d + 1) + in.d * (in.z + 1);
}

template <class A>
__device__ Weights<A> weights_of(const Pvrnn<A>& in, bool copied, A* room) {
  if (!copied) return {in.weight, in.z_weight, in.d, in.z};
  A* const z = room + in.all() * (in.d + 1);
  for (Int i = threadIdx.x; i < in.all() * in.d; i += kThreads) room[i / in.d * (in.d + 1) + i % in.d] = in.weight[i];
  for (Int i = threadIdx.x; i < in.d * in.z; i += kThreads) z[i / in.z * (in.z + 1) + i % in.z] = in.z_weight[i];
  return {room, z, in.d + 1, in.z + 1};
}

// sum over i < n of x[i] y[i * step]
template <class A>
__device__ __forceinline__ A dot(Int n, const A* x, const A* y, Int step) {
  A sum = 0;
  for (Int i = 0; i < n; ++i) sum += x[i] * y[i * step];
  return sum;
}

// The pre-activations of a latent.
template <class A>
__device__ Latents<A> pre_at(const A* heads, Int z, const A* adapt, Int k) {
  Latents<A> pre{heads[k], heads[z + k], heads[2 * z + k], heads[3 * z + k]};
  if (adapt) {
    pre.mean += adapt[k];
    pre.log_sigma += adapt[z + k];
  }
  return pre;
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    scan_kernel(const __grid_constant__ Pvrnn<A> in, const __grid_constant__ PvrnnOutputs<A> out, bool copied) {
  PK_DYN_SMEM(A, shared);
  A *const h = shared, *const d = h + in.d, *const z = d + in.d, *const heads = z + in.z;
  const Weights<A> w = weights_of(in, copied, heads + 4 * in.z);
  const Int row = blockIdx.x, end = in.end(row);
  for (Int i = threadIdx.x; i < in.d; i += kThreads) {
    h[i] = in.h0[row * in.d + i];
    d[i] = Math::tanh_of(h[i]);
  }
  __syncthreads();
  for (Int t = 0; t < in.steps; ++t) {
    const Int at = row * in.steps + t;
    if (t >= end) {
      for (Int i = threadIdx.x; i < in.d; i += kThreads) out.d[at * in.d + i] = 0;
      for (Int k = threadIdx.x; k < in.z; k += kThreads) out.z[at * in.z + k] = out.kl[at * in.z + k] = 0;
      for (Int k = threadIdx.x; k < 4 * in.z; k += kThreads) out.stats[at * 4 * in.z + k] = 0;
      continue;
    }
    for (Int k = threadIdx.x; k < 4 * in.z; k += kThreads)
      heads[k] = in.bias[in.d + k] + dot(in.d, d, w.weight + (in.d + k) * w.down, Int(1));
    __syncthreads();
    const A* const adapt = in.adapt_at(row, t);
    for (Int k = threadIdx.x; k < in.z; k += kThreads) {
      const Latents<A> s =
          latents_of<Math>(pre_at(heads, in.z, adapt, k), A(0), in.normal(t), adapt != nullptr, in.low, in.high);
      z[k] = s.mean + Math::exp_of(s.log_sigma) * in.noise[at * in.z + k];
      out.z[at * in.z + k] = z[k];
      out.kl[at * in.z + k] = kl_of<Math, A>(s);
      A* const stats = out.stats + at * 4 * in.z + k;
      stats[0] = s.prior_mean;
      stats[in.z] = s.prior_log;
      stats[2 * in.z] = s.mean;
      stats[3 * in.z] = s.log_sigma;
    }
    __syncthreads();
    for (Int i = threadIdx.x; i < in.d; i += kThreads) {
      const A input =
          in.bias[i] + dot(in.d, d, w.weight + i * w.down, Int(1)) + dot(in.z, z, w.z_weight + i * w.z_down, Int(1));
      h[i] += in.leak[i] * (input - h[i]);
    }
    __syncthreads();  // all have read the states
    for (Int i = threadIdx.x; i < in.d; i += kThreads) out.d[at * in.d + i] = d[i] = Math::tanh_of(h[i]);
    __syncthreads();
  }
  for (Int i = threadIdx.x; i < in.d; i += kThreads) out.last[row * in.d + i] = h[i];
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    scan_bwd_kernel(const __grid_constant__ Pvrnn<A> in, const __grid_constant__ PvrnnGrads<A> g, bool copied) {
  PK_DYN_SMEM(A, shared);
  A *const into_h = shared, *const into_d = into_h + in.d, *const d = into_d + in.d, *const pre = d + in.d;
  A *const into_z = pre + in.all(), *const heads = into_z + in.z;
  const Weights<A> w = weights_of(in, copied, heads + 4 * in.z);
  const Int row = blockIdx.x, end = in.end(row);
  for (Int i = threadIdx.x; i < in.d; i += kThreads) {
    into_h[i] = g.last[row * in.d + i];
    into_d[i] = 0;
  }
  for (Int t = in.steps - 1; t >= 0; --t) {
    const Int at = row * in.steps + t;
    if (t >= end) {
      for (Int i = threadIdx.x; i < in.all(); i += kThreads) g.pre[at * in.all() + i] = 0;
      for (Int k = threadIdx.x; k < in.z; k += kThreads) g.noise[at * in.z + k] = 0;
      continue;
    }
    for (Int i = threadIdx.x; i < in.d; i += kThreads) {
      const A state = g.states[at * in.d + i];
      into_h[i] += (into_d[i] + g.d[at * in.d + i]) * (A(1) - state * state);
      pre[i] = in.leak[i] * into_h[i];
      into_h[i] -= pre[i];
      g.pre[at * in.all() + i] = pre[i];
      d[i] = t ? g.states[(at - 1) * in.d + i] : Math::tanh_of(in.h0[row * in.d + i]);
    }
    __syncthreads();
    for (Int k = threadIdx.x; k < 5 * in.z; k += kThreads)
      if (k < 4 * in.z)
        heads[k] = in.bias[in.d + k] + dot(in.d, d, w.weight + (in.d + k) * w.down, Int(1));
      else
        into_z[k - 4 * in.z] = g.z[at * in.z + k - 4 * in.z] + dot(in.d, pre, w.z_weight + k - 4 * in.z, w.z_down);
    __syncthreads();
    const A* const adapt = in.adapt_at(row, t);
    for (Int k = threadIdx.x; k < in.z; k += kThreads) {
      const Latents<A> before = pre_at(heads, in.z, adapt, k);
      const Latents<A> s = latents_of<Math>(before, A(0), in.normal(t), adapt != nullptr, in.low, in.high);
      const A* const stats = g.stats + at * 4 * in.z + k;
      const Latents<A> given{stats[0], stats[in.z], stats[2 * in.z], stats[3 * in.z]};
      A of_noise;
      const Latents<A> into =
          into_latents<Math, A>(before, s, given, g.kl[at * in.z + k], into_z[k], in.noise[at * in.z + k], A(0),
                                in.normal(t), adapt != nullptr, in.low, in.high, of_noise);
      g.noise[at * in.z + k] = of_noise;
      A* const to = pre + in.d + k;
      to[0] = into.prior_mean;
      to[in.z] = into.prior_log;
      to[2 * in.z] = into.mean;
      to[3 * in.z] = into.log_sigma;
    }
    __syncthreads();
    for (Int k = threadIdx.x; k < 4 * in.z; k += kThreads) g.pre[at * in.all() + in.d + k] = pre[in.d + k];
    for (Int i = threadIdx.x; i < in.d; i += kThreads) into_d[i] = dot(in.all(), pre, w.weight + i, w.down);
    __syncthreads();
  }
  for (Int i = threadIdx.x; i < in.d; i += kThreads) {
    const A first = Math::tanh_of(in.h0[row * in.d + i]);
    g.h0[row * in.d + i] = into_h[i] + into_d[i] * (A(1) - first * first);
  }
}

// Calls launch(bytes of shared memory, whether the weights are in it) for a kernel with `numbers` besides weights.
template <class A, class Launch>
void with_shared(const Pvrnn<A>& in, const char* op, Int numbers, const Launch& launch) {
  const Int plain = numbers * Int(sizeof(A)), whole = plain + weight_count(in) * Int(sizeof(A));
  if (plain > kSharedBytes) fail(op, "too many units and latents for a GPU: their state must fit into 48 KiB");
  launch(whole <= kSharedBytes ? whole : plain, whole <= kSharedBytes);
}

}  // namespace

void pvrnn_scan_cuda(DType dtype, const void* h0, const void* noise, const void* weight, const void* bias,
                     const void* z_weight, const void* leak, Maybe adapt, Maybe lengths, void* d, void* z, void* stats,
                     void* kl, void* last, Int rows, Int steps, Int units, Int latents, Int adapted, bool start,
                     double low, double high, Stream stream) {
  dispatch_wide("pvrnn_scan", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in = pvrnn_of<A>(h0, noise, weight, bias, z_weight, leak, adapt, lengths, rows, steps, units, latents,
                                adapted, start, low, high);
    const auto to = [](void* p) { return static_cast<A*>(p); };
    const PvrnnOutputs<A> out{to(d), to(z), to(stats), to(kl), to(last)};
    with_shared(in, "pvrnn_scan", 2 * units + 5 * latents, [&](Int bytes, bool copied) {
      PK_LAUNCH((scan_kernel<A>), dim3(unsigned(rows)), dim3(kThreads), bytes, stream, in, out, copied);
    });
  });
}

void pvrnn_scan_bwd_cuda(DType dtype, const void* h0, const void* noise, const void* weight, const void* bias,
                         const void* z_weight, const void* leak, Maybe adapt, Maybe lengths, const void* states,
                         const void* grad_d, const void* grad_z, const void* grad_stats, const void* grad_kl,
                         const void* grad_last, void* pre, void* grad_h0, void* grad_noise, Int rows, Int steps,
                         Int units, Int latents, Int adapted, bool start, double low, double high, Stream stream) {
  dispatch_wide("pvrnn_scan_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in = pvrnn_of<A>(h0, noise, weight, bias, z_weight, leak, adapt, lengths, rows, steps, units, latents,
                                adapted, start, low, high);
    const auto of = [](const void* p) { return static_cast<const A*>(p); };
    const auto to = [](void* p) { return static_cast<A*>(p); };
    const PvrnnGrads<A> grads{of(states),    of(grad_d), of(grad_z),  of(grad_stats), of(grad_kl),
                              of(grad_last), to(pre),    to(grad_h0), to(grad_noise)};
    with_shared(in, "pvrnn_scan_bwd", 4 * units + 9 * latents, [&](Int bytes, bool copied) {
      PK_LAUNCH((scan_bwd_kernel<A>), dim3(unsigned(rows)), dim3(kThreads), bytes, stream, in, grads, copied);
    });
  });
}

}  // namespace pk
