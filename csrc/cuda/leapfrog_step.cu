// Asynchronous leapfrog in fixed point on a GPU: one launch and one pass over all tensors, an element a thread.
#include "pk/gpu.h"
#include "pk/leapfrog_step.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 256;

inline dim3 grid_of(Int size) { return dim3(unsigned((size + kThreads - 1) / kThreads)); }

template <bool kDamped, class T>
__global__ void __launch_bounds__(kThreads) leapfrog_kernel(const __grid_constant__ FrogRule rule, Int* y, Int* p,
                                                            Int* rest, const T* e, T* x, T* seen, int* bad, Int size) {
  const Int i = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  FrogState at{y[i], p[i], kDamped ? rest[i] : 0};
  std::uint64_t wrong = 0;
  if (e) {
    const double given = double(load(e[i]));
    rule.undo ? kick<kDamped, true>(rule, given, &at, &wrong) : kick<kDamped, false>(rule, given, &at, &wrong);
    p[i] = at.p;
    if (kDamped) rest[i] = at.rest;
  }
  double between, after;
  move_twice(rule, &at, &between, &after, &wrong);
  y[i] = at.y;
  x[i] = store<T>(acc_t<T>(mul(after, rule.alpha)));
  if (seen) seen[i] = store<T>(acc_t<T>(mul(between, rule.last)));
  if (wrong) atomicOr(bad, 1);
}

template <class T>
__global__ void __launch_bounds__(kThreads) adjoint_kernel(const __grid_constant__ FrogCotangents<acc_t<T>> rule,
                                                           T* to_y, T* to_p, const T* along, T* out, Int size) {
  const Int i = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  acc_t<T> y = load(to_y[i]), p = load(to_p[i]), o;
  rule.step(load(along[i]), &y, &p, &o);
  to_y[i] = store<T>(y);
  to_p[i] = store<T>(p);
  out[i] = store<T>(o);
}

}  // namespace

void leapfrog_step_cuda(DType dtype, void* y, void* p, Maybe rest, Maybe e, void* x, Maybe seen, void* bad, Int size,
                        double scale, double first, double second, double alpha, double last, Int keep, bool undo,
                        Stream stream) {
  const FrogRule rule{scale, first, second, alpha, last, keep, undo};
  dispatch("leapfrog_step", dtype, [&](auto element) {
    using T = decltype(element);
    PK_LAUNCH((rest.ptr ? leapfrog_kernel<true, T> : leapfrog_kernel<false, T>), grid_of(size), dim3(kThreads), 0,
              stream, rule, static_cast<Int*>(y), static_cast<Int*>(p), const_cast<Int*>(rest.as<Int>()), e.as<T>(),
              static_cast<T*>(x), const_cast<T*>(seen.as<T>()), static_cast<int*>(bad), size);
  });
}

void leapfrog_adjoint_cuda(DType dtype, void* to_y, void* to_p, const void* along, void* out, Int size, double alpha,
                           double before, double after, double keep, double scale, Stream stream) {
  dispatch("leapfrog_adjoint", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const FrogCotangents<A> rule{A(alpha), A(before), A(after), A(keep), A(scale)};
    PK_LAUNCH(adjoint_kernel<T>, grid_of(size), dim3(kThreads), 0, stream, rule, static_cast<T*>(to_y),
              static_cast<T*>(to_p), static_cast<const T*>(along), static_cast<T*>(out), size);
  });
}

}  // namespace pk
