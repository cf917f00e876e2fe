// Proximal softmax on a GPU: a thread takes a group of states, in registers where there are at most 32.
#include "pk/gpu.h"
#include "pk/prox_softmax.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 128;
constexpr int kMostStates = 32;  // in registers

// A column of a matrix in memory: neighboring threads have neighboring columns.
template <class A>
struct Column {
  A* first;
  Int stride;
  __device__ A& operator[](int i) const { return first[i * stride]; }
};

// kMost: the most states, or 0 for any number, in scratch (4, n, groups).
template <int kMost, class A>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const A* y, A* p, A* scratch, Int groups, int n, A alpha) {
  const Int group = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= groups) return;
  const A* const from = y + group * n;
  A* const to = p + group * n;
  if constexpr (kMost > 0) {
    A a[kMost], g[kMost], q[kMost], d[kMost];
    for (int i = 0; i < n; ++i) a[i] = from[i];
    prox_softmax_group<A, A, A*>(alpha, n, a, g, q, d);
    for (int i = 0; i < n; ++i) to[i] = q[i];
  } else {
    const auto buffer = [&](int i) { return Column<A>{scratch + Int(i) * n * groups + group, groups}; };
    const Column<A> a = buffer(0), q = buffer(2);
    for (int i = 0; i < n; ++i) a[i] = from[i];
    prox_softmax_group<A, A, Column<A>>(alpha, n, a, buffer(1), q, buffer(3));
    for (int i = 0; i < n; ++i) to[i] = q[i];
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const A* p, const A* grad, A* grad_y, Int groups, int n, A alpha) {
  const Int group = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= groups) return;
  const Int first = group * n;
  A slope = 0, along = 0;
  for (int i = 0; i < n; ++i) {
    const A rate = p[first + i] / (p[first + i] * (A(1) - alpha) + alpha);
    slope += rate;
    along += rate * grad[first + i];
  }
  const A mean = along / slope;
  for (int i = 0; i < n; ++i) {
    const A rate = p[first + i] / (p[first + i] * (A(1) - alpha) + alpha);
    grad_y[first + i] = rate * (grad[first + i] - mean);
  }
}

dim3 grid(Int groups) { return dim3(unsigned((groups + kThreads - 1) / kThreads)); }

}  // namespace

void prox_softmax_cuda(DType dtype, const void* y, void* p, Int groups, Int n, double alpha, Stream stream) {
  dispatch_wide("prox_softmax", dtype, [&](auto element) {
    using A = decltype(element);
    const Scratch<A> scratch(n > kMostStates ? 4 * n * groups : 0, stream);
    const auto kernel = n > kMostStates ? forward_kernel<0, A>
                        : n <= 4        ? forward_kernel<4, A>
                        : n <= 10       ? forward_kernel<10, A>
                                        : forward_kernel<kMostStates, A>;
    PK_LAUNCH(kernel, grid(groups), dim3(kThreads), 0, stream, static_cast<const A*>(y), static_cast<A*>(p),
              scratch.data(), groups, int(n), A(alpha));
  });
}

void prox_softmax_bwd_cuda(DType dtype, const void* p, const void* grad, void* grad_y, Int groups, Int n, double alpha,
                           Stream stream) {
  dispatch_wide("prox_softmax_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    PK_LAUNCH(backward_kernel<A>, grid(groups), dim3(kThreads), 0, stream, static_cast<const A*>(p),
              static_cast<const A*>(grad), static_cast<A*>(grad_y), groups, int(n), A(alpha));
  });
}

}  // namespace pk
