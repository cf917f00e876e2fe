// Asynchronous leapfrog in fixed point on the CPU: one pass over all tensors, in blocks that the caches hold.
#include "pk/leapfrog_step.h"

#include <algorithm>

#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunk = 16384;  // elements of a task
constexpr Int kBlock = 256;

struct Widen {
  template <int B, class T>
  PK_HD static void run(const T* from, int count, double* to) {
    for (int k = 0; k < count; ++k) to[k] = double(load(from[k]));
  }
};

struct Narrow {
  template <int B, class T>
  PK_HD static void run(const double* from, double by, int count, T* to) {
    for (int k = 0; k < count; ++k) to[k] = store<T>(acc_t<T>(mul(from[k], by)));
  }
};

template <bool kDamped, bool kUndo>
struct Kick {
  template <int B>
  PK_HD static void run(const FrogRule& rule, const double* e, int count, Int* p, Int* rest, std::uint64_t* bad) {
    std::uint64_t wrong = 0;
#pragma GCC ivdep
    for (int k = 0; k < count; ++k) {
      FrogState at{0, p[k], kDamped ? rest[k] : 0};
      kick<kDamped, kUndo>(rule, e[k], &at, &wrong);
      p[k] = at.p;
      if (kDamped) rest[k] = at.rest;
    }
    *bad |= wrong;
  }
};

struct Move {
  template <int B>
  PK_HD static void run(const FrogRule& rule, const Int* p, int count, Int* y, double* between, double* after,
                        std::uint64_t* bad) {
    std::uint64_t wrong = 0;
#pragma GCC ivdep
    for (int k = 0; k < count; ++k) {
      FrogState at{y[k], p[k], 0};
      move_twice(rule, &at, between + k, after + k, &wrong);
      y[k] = at.y;
    }
    *bad |= wrong;
  }
};

struct Adjoint {
  template <int B, class T, class A>
  PK_HD static void run(const FrogCotangents<A>& rule, const T* along, int count, T* to_y, T* to_p, T* out) {
#pragma GCC ivdep
    for (int k = 0; k < count; ++k) {
      A y = load(to_y[k]), p = load(to_p[k]), o;
      rule.step(load(along[k]), &y, &p, &o);
      to_y[k] = store<T>(y);
      to_p[k] = store<T>(p);
      out[k] = store<T>(o);
    }
  }
};

void kick_block(const FrogRule& rule, const double* e, int count, Int* p, Int* rest, std::uint64_t* bad) {
  if (rest)
    rule.undo ? run_best<Kick<true, true>>(rule, e, count, p, rest, bad)
              : run_best<Kick<true, false>>(rule, e, count, p, rest, bad);
  else
    rule.undo ? run_best<Kick<false, true>>(rule, e, count, p, rest, bad)
              : run_best<Kick<false, false>>(rule, e, count, p, rest, bad);
}

}  // namespace

void leapfrog_step_cpu(DType dtype, void* y, void* p, Maybe rest, Maybe e, void* x, Maybe seen, void* bad, Int size,
                       double scale, double first, double second, double alpha, double last, Int keep, bool undo,
                       Threads threads) {
  const FrogRule rule{scale, first, second, alpha, last, keep, undo};
  Int *const ys = static_cast<Int*>(y), *const ps = static_cast<Int*>(p),
             *const rests = const_cast<Int*>(rest.as<Int>());
  std::uint64_t wrong = 0;
  dispatch("leapfrog_step", dtype, [&](auto element) {
    using T = decltype(element);
    T *const inputs = static_cast<T*>(x), *const between_too = const_cast<T*>(seen.as<T>());
#pragma omp parallel for schedule(static) num_threads(threads.count) if (size > kChunk) reduction(| : wrong)
    for (Int chunk = 0; chunk < size; chunk += kChunk) {
      alignas(64) double given[kBlock], between[kBlock], after[kBlock];
      for (Int at = chunk; at < std::min(size, chunk + kChunk); at += kBlock) {
        const int count = int(std::min(size - at, kBlock));
        std::uint64_t found = 0, *const flag = &found;
        double *const from = given, *const mid = between, *const end = after;
        if (e.ptr) {
          run_best<Widen>(e.as<T>() + at, count, from);
          kick_block(rule, from, count, ps + at, rests ? rests + at : nullptr, flag);
        }
        run_best<Move>(rule, static_cast<const Int*>(ps + at), count, ys + at, mid, end, flag);
        run_best<Narrow>(static_cast<const double*>(end), alpha, count, inputs + at);
        if (between_too) run_best<Narrow>(static_cast<const double*>(mid), last, count, between_too + at);
        wrong |= found;
      }
    }
  });
  if (wrong) *static_cast<std::int32_t*>(bad) = 1;
}

void leapfrog_adjoint_cpu(DType dtype, void* to_y, void* to_p, const void* along, void* out, Int size, double alpha,
                          double before, double after, double keep, double scale, Threads threads) {
  dispatch("leapfrog_adjoint", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const FrogCotangents<A> rule{A(alpha), A(before), A(after), A(keep), A(scale)};
#pragma omp parallel for schedule(static) num_threads(threads.count) if (size > kChunk)
    for (Int at = 0; at < size; at += kChunk)
      run_best<Adjoint>(rule, static_cast<const T*>(along) + at, int(std::min(size - at, kChunk)),
                        static_cast<T*>(to_y) + at, static_cast<T*>(to_p) + at, static_cast<T*>(out) + at);
  });
}

}  // namespace pk
