// Softplus and its derivative on the CPU: one exponential for both, and one in the backward pass, which computes it
// again. Elements are independent of each other: the same bits for any number of threads.
#include <algorithm>

#include "pk/launch.h"
#include "pk/vec_math.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunk = 16384;  // elements of a task

// exp(-|z|), in (0, 1]: it cannot overflow.
template <class A, int B>
PK_HD Vec<A, B> exp_of_size(const Vec<A, B>& z) {
  return vec_exp(map_registers(z, [](auto v) PK_INLINE { return v > A(0) ? -v : v; }));
}

struct Forward {
  template <int B, class T, class A>
  PK_HD static void run(const T* x, T* value, T* slope, A beta, Int n) {
    using Register = typename Vec<A, B>::Register;
    const A inverse = A(1) / beta;
    for_lanes(n, [&](Int i, auto lanes) PK_INLINE {
      const Vec<A, B> in = load_vec<B>(x + i, lanes), z = in * beta, e = exp_of_size(z);
      const Vec<A, B> u = map_registers(e, [](auto v) PK_INLINE { return v + A(1); });
      Vec<A, B> soft = vec_log(u), sigmoid;
      for (int k = 0; k < u.kRegisters; ++k) {
        const auto one = u.part[k], small = e.part[k], argument = z.part[k], given = in.part[k];
        const auto log1p = soft.part[k] + (small - (one - A(1))) / one;  // what 1 + e rounded away
        soft.part[k] = log1p * inverse + (argument < A(0) ? Register{} : given);
        sigmoid.part[k] = (argument < A(0) ? small : Register{} + A(1)) / one;
      }
      store_vec(value + i, soft, lanes);
      store_vec(slope + i, sigmoid, lanes);
    });
  }
};

struct Backward {
  template <int B, class T, class A>
  PK_HD static void run(const T* grad_value, const T* grad_slope, const T* x, T* grad, A beta, Int n) {
    for_lanes(n, [&](Int i, auto lanes) PK_INLINE {
      const Vec<A, B> z = load_vec<B>(x + i, lanes) * beta, e = exp_of_size(z);
      Vec<A, B> of_value = load_vec<B>(grad_value + i, lanes), of_slope = load_vec<B>(grad_slope + i, lanes);
      for (int k = 0; k < z.kRegisters; ++k) {
        const auto small = e.part[k], inverse = A(1) / (small + A(1)), other = small * inverse;
        of_value.part[k] *= z.part[k] < A(0) ? other : inverse;
        of_value.part[k] += of_slope.part[k] * (beta * (inverse * other));
      }
      store_vec(grad + i, of_value, lanes);
    });
  }
};

// Calls body(first, count) for all chunks.
template <class Body>
void for_chunks(Int n, Threads threads, Body&& body) {
#pragma omp parallel for schedule(static) num_threads(threads.count) if (n > kChunk)
  for (Int first = 0; first < n; first += kChunk) body(first, std::min(kChunk, n - first));
}

}  // namespace

void softplus_sigmoid_cpu(DType dtype, const void* x, void* value, void* slope, Int n, double beta, Threads threads) {
  dispatch("softplus_sigmoid", dtype, [&](auto element) {
    using T = decltype(element);
    const T* const in = static_cast<const T*>(x);
    T *const soft = static_cast<T*>(value), *const sigmoid = static_cast<T*>(slope);
    for_chunks(n, threads, [&](Int first, Int count) {
      run_best<Forward>(in + first, soft + first, sigmoid + first, acc_t<T>(beta), count);
    });
  });
}

void softplus_sigmoid_bwd_cpu(DType dtype, const void* grad_value, const void* grad_slope, const void* x, void* grad,
                              Int n, double beta, Threads threads) {
  dispatch("softplus_sigmoid_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    const T *const of_value = static_cast<const T*>(grad_value), *const of_slope = static_cast<const T*>(grad_slope);
    const T* const in = static_cast<const T*>(x);
    T* const out = static_cast<T*>(grad);
    for_chunks(n, threads, [&](Int first, Int count) {
      run_best<Backward>(of_value + first, of_slope + first, in + first, out + first, acc_t<T>(beta), count);
    });
  });
}

}  // namespace pk
