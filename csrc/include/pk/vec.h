// SIMD on the CPU. A kernel is written once over Vec, sixteen lanes of the accumulation type, and compiled for every
// instruction set with that set's native registers; run_best picks one at run time. Sixteen lanes everywhere: sums are
// added in the same order on every machine (fused multiply-adds round differently, where a machine has them).
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "pk/dtype.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace pk {

constexpr int kLanes = 16;

template <auto v>
using Const = std::integral_constant<decltype(v), v>;

// Sixteen A in registers of `Bytes`.
template <class A, int Bytes>
struct Vec {
  static constexpr int kWidth = Bytes / int(sizeof(A)), kRegisters = kLanes / kWidth;
  typedef A Register __attribute__((vector_size(Bytes)));
  Register part[kRegisters];
};

#define PK_VEC_OPERATOR(op)                                                    \
  template <class A, int B>                                                    \
  PK_HD Vec<A, B> operator op(const Vec<A, B>& x, const Vec<A, B>& y) {        \
    Vec<A, B> z;                                                               \
    for (int i = 0; i < z.kRegisters; ++i) z.part[i] = x.part[i] op y.part[i]; \
    return z;                                                                  \
  }                                                                            \
  template <class A, int B>                                                    \
  PK_HD Vec<A, B> operator op(const Vec<A, B>& x, A y) {                       \
    Vec<A, B> z;                                                               \
    for (int i = 0; i < z.kRegisters; ++i) z.part[i] = x.part[i] op y;         \
    return z;                                                                  \
  }
PK_VEC_OPERATOR(+)
PK_VEC_OPERATOR(-)
PK_VEC_OPERATOR(*)
#undef PK_VEC_OPERATOR

template <class A, int B>
PK_HD void operator+=(Vec<A, B>& x, const Vec<A, B>& y) {
  x = x + y;
}

// Out of line: tails are rare, and inlined they would double the code of every kernel.
__attribute__((noinline)) inline void copy_some(void* to, const void* from, std::size_t bytes) {
  memcpy(to, from, bytes);
}

// A count of lanes that is known to be all of them, so that the compiler keeps the tail's path apart.
using Full = Const<kLanes>;

// Sixteen elements from memory, register by register: through an array on the stack, a wide load would have to wait
// for the narrow stores before it.
template <int B, class T>
PK_HD Vec<acc_t<T>, B> load_vec(const T* p, Full = {}) {
  Vec<acc_t<T>, B> v;
  constexpr int kWidth = v.kWidth;
  for (int i = 0; i < v.kRegisters; ++i) {
    if constexpr (std::is_same_v<T, acc_t<T>>) {
      memcpy(&v.part[i], p + i * kWidth, B);
    } else {
      for (int k = 0; k < kWidth; ++k) v.part[i][k] = load(p[i * kWidth + k]);
    }
  }
  return v;
}

template <class T, int B>
PK_HD void store_vec(T* p, const Vec<acc_t<T>, B>& v, Full = {}) {
  constexpr int kWidth = Vec<acc_t<T>, B>::kWidth;
  for (int i = 0; i < v.kRegisters; ++i) {
    if constexpr (std::is_same_v<T, acc_t<T>>) {
      memcpy(p + i * kWidth, &v.part[i], B);
    } else {
      for (int k = 0; k < kWidth; ++k) p[i * kWidth + k] = store<T>(v.part[i][k]);
    }
  }
}

// The first n elements at p; the other lanes are zero.
template <int B, class T>
PK_HD Vec<acc_t<T>, B> load_vec(const T* p, int n) {
  T some[kLanes] = {};
  copy_some(some, p, n * sizeof(T));
  return load_vec<B>(static_cast<const T*>(some));
}

template <class T, int B>
PK_HD void store_vec(T* p, const Vec<acc_t<T>, B>& v, int n) {
  T some[kLanes];
  store_vec(some, v);
  copy_some(p, some, n * sizeof(T));
}

// A full store that bypasses the caches: the line is not read first. p must be 16-byte aligned.
template <class T, int B>
PK_HD void stream_vec(T* p, const Vec<acc_t<T>, B>& v) {
#ifdef __SSE2__
  T all[kLanes];
  store_vec(all, v);
  __m128i part[sizeof(all) / 16];
  memcpy(part, all, sizeof(all));
  for (unsigned i = 0; i < sizeof(all) / 16; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(p) + i, part[i]);
#else
  store_vec(p, v);
#endif
}

// Call after a thread's last stream_vec, before another thread may read what was written.
inline void stream_done() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Calls body(i, lanes) for i = 0, 16, 32, ... < n; only the last call may have fewer than 16 lanes, and is then given
// an int instead of Full. With `whole`, n is a multiple of 16 and no code is made for a last one.
template <bool whole = false, class Body>
PK_HD void for_lanes(std::int64_t n, Body&& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Full{});
  if constexpr (!whole)
    if (i < n) body(i, int(n - i));
}

// The sum of a register's lanes: lane i and lane i + width / 2, again and again.
template <class A, int B>
PK_HD A sum_register(typename Vec<A, B>::Register v) {
  if constexpr (B / int(sizeof(A)) == 2) {
    return v[0] + v[1];
  } else if constexpr (B == 16) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    typename Vec<A, B / 2>::Register low, high;
    memcpy(&low, &v, B / 2);
    memcpy(&high, reinterpret_cast<const char*>(&v) + B / 2, B / 2);
    return sum_register<A, B / 2>(low + high);
  }
}

template <class A, int B>
PK_HD A sum_lanes(Vec<A, B> v) {
  for (int count = v.kRegisters / 2; count; count /= 2)
    for (int i = 0; i < count; ++i) v.part[i] += v.part[i + count];
  return sum_register<A, B>(v.part[0]);
}

// Kernel::run<bytes>(args...) compiled for the best instruction set that this processor has.
template <class Kernel, class... Args>
void run_baseline(const Args&... args) {
  Kernel::template run<16>(args...);
}
#if defined(__x86_64__) && defined(__GNUC__)
template <class Kernel, class... Args>
__attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))) void run_avx512(const Args&... args) {
  Kernel::template run<64>(args...);
}
template <class Kernel, class... Args>
__attribute__((target("arch=x86-64-v3"))) void run_avx2(const Args&... args) {
  Kernel::template run<32>(args...);
}
#endif

// 2: AVX-512, 1: AVX2, 0: the baseline. PK_SIMD=avx2 or PK_SIMD=baseline in the environment lowers it, for tests.
inline int simd_level() {
  static const int level = [] {
    const char* const named = std::getenv("PK_SIMD");
    const int most = !named ? 2 : !strcmp(named, "baseline") ? 0 : !strcmp(named, "avx2") ? 1 : 2;
    int found = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) found = 1;
    if (found && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      found = 2;
#endif
    return found < most ? found : most;
  }();
  return level;
}

template <class Kernel, class... Args>
void run_best(const Args&... args) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (simd_level() == 2) return run_avx512<Kernel>(args...);
  if (simd_level() == 1) return run_avx2<Kernel>(args...);
#endif
  run_baseline<Kernel>(args...);
}

}  // namespace pk
