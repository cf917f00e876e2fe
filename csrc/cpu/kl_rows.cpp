// KL divergences between the softmaxes of two rows on the CPU. The forward walks over both rows in blocks that stay in
// the cache, with running maxima and sums below them: one read of memory. The backward reads both rows and writes both
// gradients once. Equations: python/probkernels/reference/kl_rows.py.
#include <algorithm>
#include <cmath>

#include "pk/launch.h"
#include "pk/logits.h"
#include "pk/vec_math.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kBlock = 1024;    // values of both rows at a time
constexpr Int kTask = 1 << 15;  // values of a thread's task

// The largest number so far, by which exponentials are shifted; how far a block raises it.
template <class A>
struct Top {
  A value = -kInfinity<A>;

  A shift() const { return value == -kInfinity<A> ? A(0) : value; }
  template <int B, class T>
  PK_HD A raise(const T* logits, Int count) {
    Vec<A, B> lanes = Vec<A, B>{} + value;
    for_lanes(count, [&](Int k, auto n) PK_INLINE { lanes = vec_max(load_logits<B>(logits + k, n), lanes); });
    A all[kLanes];
    store_vec(all, lanes);
    const Top before = *this;
    for (A lane : all) value = std::max(value, lane);
    return before.value == -kInfinity<A> ? A(0) : shift() - before.shift();
  }
};

// weight * gap where both logits are finite, else 0; `missing` counts values of which only the second is -infinity.
template <class A, int B>
PK_HD Vec<A, B> weighted_gap(const Vec<A, B>& weight, const Vec<A, B>& p, const Vec<A, B>& q, Vec<A, B>* missing) {
  Vec<A, B> product;
  for (int i = 0; i < product.kRegisters; ++i) {
    using R = typename Vec<A, B>::Register;
    const R low = R{} - kInfinity<A>, none = R{}, x = p.part[i], y = q.part[i];
    const R there = y > low ? weight.part[i] * (x - y) : none, lost = y == low ? none + A(1) : none;
    product.part[i] = x > low ? there : none;
    missing->part[i] += x > low ? lost : none;
  }
  return product;
}

struct Forward {
  template <int B, class T>
  PK_HD static void run(const T* logits_p, const T* logits_q, Int first, Int last, Int values, acc_t<T>* kl,
                        double* log_sums_p, double* log_sums_q) {
    using A = acc_t<T>;
    for (Int row = first; row < last; ++row) {
      const T *const p = logits_p + row * values, *const q = logits_q + row * values;
      Top<A> top_p, top_q;
      A sum_p = 0, sum_q = 0, sum_gap = 0;
      Vec<A, B> missing{};
      for (Int start = 0; start < values; start += kBlock) {
        const Int count = std::min(kBlock, values - start);
        const A rise_p = top_p.template raise<B>(p + start, count), rise_q = top_q.template raise<B>(q + start, count);
        const A keep = std::exp(-rise_p);
        sum_gap = (sum_gap + sum_p * (rise_q - rise_p)) * keep;
        Vec<A, B> lanes_p{}, lanes_q{}, lanes_gap{};
        for_lanes(count, [&](Int k, auto n) PK_INLINE {
          const Vec<A, B> x = load_logits<B>(p + start + k, n) - top_p.shift();
          const Vec<A, B> y = load_logits<B>(q + start + k, n) - top_q.shift();
          const Vec<A, B> weight = vec_exp_below_0(x);
          lanes_p += weight;
          lanes_q += vec_exp_below_0(y);
          lanes_gap += weighted_gap(weight, x, y, &missing);
        });
        sum_p = sum_p * keep + sum_lanes(lanes_p);
        sum_q = sum_q * std::exp(-rise_q) + sum_lanes(lanes_q);
        sum_gap += sum_lanes(lanes_gap);
      }
      const A log_p = std::log(sum_p), log_q = std::log(sum_q);
      const A infinite = sum_lanes(missing) > 0 ? kInfinity<A> : A(0);
      kl[row] = sum_gap / sum_p - log_p + log_q + infinite;
      log_sums_p[row] = double(top_p.shift()) + double(log_p);
      log_sums_q[row] = double(top_q.shift()) + double(log_q);
    }
  }
};

// A large log-sum is two numbers, so that logits keep their digits below it.
template <class A>
struct LogSum {
  A high, low;
  explicit LogSum(double sum) : high(A(sum)), low(std::isinf(high) ? A(0) : A(sum - double(high))) {}

  template <int B>
  PK_HD Vec<A, B> below(const Vec<A, B>& logits) const {
    return logits - high - low;
  }
};

// The numbers of a row that its gradients depend on.
template <class A>
struct Row {
  LogSum<A> p, q;
  A kl, grad, of_sum_p, of_sum_q;
};

struct Backward {
  template <int B, class T>
  PK_HD static void run(const T* p, const T* q, const Row<acc_t<T>>& row, Int values, T* grad_p, T* grad_q) {
    using V = Vec<acc_t<T>, B>;
    for_lanes(values, [&](Int k, auto n) PK_INLINE {
      const V log_p = row.p.below(load_vec<B>(p + k, n)), log_q = row.q.below(load_vec<B>(q + k, n));
      const V share_p = vec_exp_below_0(log_p), share_q = vec_exp_below_0(log_q);
      store_vec(grad_q + k, (share_q - share_p) * row.grad + share_q * row.of_sum_q, n);
      V surplus = log_p - log_q - row.kl;
      for (int i = 0; i < surplus.kRegisters; ++i) {
        using R = typename V::Register;
        surplus.part[i] = log_p.part[i] == R{} - kInfinity<acc_t<T>> ? R{} : surplus.part[i];
      }
      store_vec(grad_p + k, share_p * (surplus * row.grad + row.of_sum_p), n);
    });
  }
};

}  // namespace

void kl_rows_cpu(DType dtype, const void* logits_p, const void* logits_q, void* kl, void* log_sums_p, void* log_sums_q,
                 Int rows, Int values, Threads threads) {
  dispatch("kl_rows", dtype, [&](auto element) {
    using T = decltype(element);
    const T *const p = static_cast<const T*>(logits_p), *const q = static_cast<const T*>(logits_q);
    auto* const found = static_cast<acc_t<T>*>(kl);
    double *const sums_p = static_cast<double*>(log_sums_p), *const sums_q = static_cast<double*>(log_sums_q);
    for_tasks(rows, std::max<Int>(kTask / values, 1), threads,
              [&](Int first, Int last) { run_best<Forward>(p, q, first, last, values, found, sums_p, sums_q); });
  });
}

void kl_rows_bwd_cpu(DType dtype, const void* logits_p, const void* logits_q, const void* kl, const void* log_sums_p,
                     const void* log_sums_q, const void* grad_kl, const void* grad_log_sums_p,
                     const void* grad_log_sums_q, void* grad_p, void* grad_q, Int rows, Int values, Threads threads) {
  dispatch("kl_rows_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const T *const p = static_cast<const T*>(logits_p), *const q = static_cast<const T*>(logits_q);
    const A *const found = static_cast<const A*>(kl), *const grad = static_cast<const A*>(grad_kl);
    const auto in_double = [](const void* from, Int row) { return static_cast<const double*>(from)[row]; };
    T *const out_p = static_cast<T*>(grad_p), *const out_q = static_cast<T*>(grad_q);
    for_tasks(rows, std::max<Int>(kTask / values, 1), threads, [&](Int first, Int last) {
      for (Int row = first; row < last; ++row) {
        const Row<A> numbers{
            LogSum<A>(in_double(log_sums_p, row)), LogSum<A>(in_double(log_sums_q, row)), found[row], grad[row],
            A(in_double(grad_log_sums_p, row)),    A(in_double(grad_log_sums_q, row))};
        const Int at = row * values;
        run_best<Backward>(p + at, q + at, numbers, values, out_p + at, out_q + at);
      }
    });
  });
}

}  // namespace pk
