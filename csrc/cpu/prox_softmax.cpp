// Proximal softmax on the CPU: sixteen groups of states at a time, a group in a lane.
#include "pk/prox_softmax.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "pk/vec_math.h"

namespace pk {

template <class A, int B>
PK_HD Vec<A, B> exp_of(const Vec<A, B>& x) {
  return vec_exp(x);
}
template <class A, int B>
PK_HD Vec<A, B> log_of(const Vec<A, B>& x) {
  return vec_log(x);
}
template <class A, int B>
PK_HD Vec<A, B> reciprocal(const Vec<A, B>& x) {
  return map_registers(x, [](auto v) PK_INLINE { return A(1) / v; });
}
template <class A, int B>
PK_HD Vec<A, B> larger(const Vec<A, B>& x, const Vec<A, B>& y) {
  return vec_max(x, y);
}
template <class A, int B>
PK_HD Vec<A, B> smaller(const Vec<A, B>& x, const Vec<A, B>& y) {
  Vec<A, B> z;
  for (int i = 0; i < z.kRegisters; ++i) z.part[i] = x.part[i] < y.part[i] ? x.part[i] : y.part[i];
  return z;
}
template <class A, int B>
PK_HD Vec<A, B> where_above(const Vec<A, B>& x, A limit, const Vec<A, B>& yes, const Vec<A, B>& no) {
  Vec<A, B> z;
  for (int i = 0; i < z.kRegisters; ++i) z.part[i] = x.part[i] > limit ? yes.part[i] : no.part[i];
  return z;
}
template <class A, int B>
PK_HD bool any_left(const Vec<A, B>& x, A limit) {
  return any_above(x, Vec<A, B>{} + limit);
}

namespace {

using Int = std::int64_t;

constexpr Int kTask = 32;  // blocks of sixteen groups

// The states of `lanes` groups at from (lanes, n), a group in a lane; the other lanes are zero.
template <int B, class A, class Lanes>
PK_HD void gather(const A* from, int n, Lanes lanes, Vec<A, B>* to) {
  constexpr int kWidth = Vec<A, B>::kWidth;
  for (int i = 0; i < n; ++i)
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) to[i].part[k / kWidth][k % kWidth] = k < lanes ? from[k * n + i] : A(0);
}

template <int B, class A, class Lanes>
PK_HD void scatter(const Vec<A, B>* from, int n, Lanes lanes, A* to) {
  for (int i = 0; i < n; ++i) {
    A some[kLanes];
    store_vec(some, from[i]);
    for (int k = 0; k < lanes; ++k) to[k * n + i] = some[k];
  }
}

// Four buffers of N, or of n that `work` has room for.
template <class V, int N>
struct Buffers {
  V all[4][N];
  PK_HD V* at(int i, int, void*) { return all[i]; }
};
template <class V>
struct Buffers<V, 0> {
  PK_HD V* at(int i, int n, void* work) { return static_cast<V*>(work) + i * n; }
};

template <int N>
struct Forward {
  template <int B, class A>
  PK_HD static void run(A alpha, const A* y, A* p, Int count, int states, void* work) {
    using V = Vec<A, B>;
    const int n = N ? N : states;
    Buffers<V, N> buffers;
    V *const a = buffers.at(0, n, work), *const g = buffers.at(1, n, work), *const q = buffers.at(2, n, work),
             *const d = buffers.at(3, n, work);
    for_lanes(count, [&](Int first, auto lanes) PK_INLINE {
      gather<B>(y + first * n, n, lanes, a);
      prox_softmax_group<V, A>(alpha, n, a, g, q, d);
      scatter<B>(q, n, lanes, p + first * n);
    });
  }
};

// v[k ^ other] at place k.
template <int other, class Places, class R, int... k>
PK_HD R exchanged(R v, std::integer_sequence<int, k...>) {
#ifdef __clang__
  return v;  // not called
#else
  return __builtin_shuffle(v, Places{(k ^ other)...});
#endif
}

// Sums over groups of N = 2 or 4 neighboring lanes, in all of their lanes.
template <int N, class A, int B>
PK_HD Vec<A, B> sum_neighbors(const Vec<A, B>& x) {
  using Places = typename Integers<std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>, B>::Register;
  using All = std::make_integer_sequence<int, B / int(sizeof(A))>;
  Vec<A, B> y;
  for (int i = 0; i < y.kRegisters; ++i) {
    auto v = x.part[i];
    v += exchanged<1, Places>(v, All{});
    if constexpr (N == 4) v += exchanged<2, Places>(v, All{});
    y.part[i] = v;
  }
  return y;
}

#ifdef __clang__
constexpr bool kShuffles = false;
#else
constexpr bool kShuffles = true;
#endif

template <int N>
struct Backward {
  template <int B, class A>
  PK_HD static void run(A alpha, const A* p, const A* grad, A* grad_y, Int count, int states, void* work) {
    using V = Vec<A, B>;
    if constexpr (kShuffles && (N == 2 || N == 4) && N <= V::kWidth) {  // memory stays as it is
      for_lanes(count * N, [&](Int k, auto lanes) PK_INLINE {
        const V q = load_vec<B>(p + k, lanes), v = load_vec<B>(grad + k, lanes);
        const V rate = q * reciprocal(q * (A(1) - alpha) + alpha);
        const V mean = sum_neighbors<N>(rate * v) * reciprocal(sum_neighbors<N>(rate));
        store_vec(grad_y + k, rate * (v - mean), lanes);
      });
      return;
    }
    const int n = N ? N : states;
    Buffers<V, N> buffers;
    V *const q = buffers.at(0, n, work), *const v = buffers.at(1, n, work);
    for_lanes(count, [&](Int first, auto lanes) PK_INLINE {
      gather<B>(p + first * n, n, lanes, q);
      gather<B>(grad + first * n, n, lanes, v);
      prox_softmax_bwd_group<V, A>(alpha, n, q, v);
      scatter<B>(v, n, lanes, grad_y + first * n);
    });
  }
};

// Calls body(first group, how many, scratch) for some groups at a time.
template <class A, class Body>
void for_groups(Int groups, int n, Threads threads, Body&& body) {
  const Int each = kTask * kLanes, tasks = (groups + each - 1) / each;
#pragma omp parallel num_threads(threads.count) if (tasks > 1)
  {
    std::vector<A> scratch(n < 2 || n > 4 ? (4 * n + 4) * kLanes : 0);
    void* work = scratch.data();
    std::size_t room = scratch.size() * sizeof(A);
    if (!scratch.empty()) work = std::align(64, 4 * n * kLanes * sizeof(A), work, room);
#pragma omp for schedule(static)
    for (Int task = 0; task < tasks; ++task) body(task * each, std::min(each, groups - task * each), work);
  }
}

// Calls f(Const<N>{}) with the number of states that a kernel was compiled for, or 0.
template <class F>
void for_states(int n, F&& f) {
  if (n == 2) return f(Const<2>{});
  if (n == 3) return f(Const<3>{});
  if (n == 4) return f(Const<4>{});
  f(Const<0>{});
}

}  // namespace

void prox_softmax_cpu(DType dtype, const void* y, void* p, Int groups, Int n, double alpha, Threads threads) {
  dispatch_wide("prox_softmax", dtype, [&](auto element) {
    using A = decltype(element);
    for_groups<A>(groups, int(n), threads, [&](Int first, Int count, void* work) {
      for_states(int(n), [&](auto states) {
        run_best<Forward<decltype(states)::value>>(A(alpha), static_cast<const A*>(y) + first * n,
                                                   static_cast<A*>(p) + first * n, count, int(n), work);
      });
    });
  });
}

void prox_softmax_bwd_cpu(DType dtype, const void* p, const void* grad, void* grad_y, Int groups, Int n, double alpha,
                          Threads threads) {
  dispatch_wide("prox_softmax_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    for_groups<A>(groups, int(n), threads, [&](Int first, Int count, void* work) {
      for_states(int(n), [&](auto states) {
        const Int offset = first * n;
        run_best<Backward<decltype(states)::value>>(A(alpha), static_cast<const A*>(p) + offset,
                                                    static_cast<const A*>(grad) + offset,
                                                    static_cast<A*>(grad_y) + offset, count, int(n), work);
      });
    });
  });
}

}  // namespace pk
