// The log-probability of one entry of each row's softmax on the CPU. The forward walks over a row in blocks that stay
// in the cache, with a running maximum and a sum below it: one read of memory. The backward reads and writes a row
// once. Equations: python/probkernels/reference/bar_log_prob.py.
#include <algorithm>
#include <cmath>

#include "pk/launch.h"
#include "pk/logits.h"
#include "pk/vec_math.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kBlock = 2048;    // logits of a row at a time
constexpr Int kTask = 1 << 16;  // logits of a thread's task

template <int B, class T>
PK_HD acc_t<T> largest(const T* logits, Int count) {
  using A = acc_t<T>;
  Vec<A, B> lanes = Vec<A, B>{} - kInfinity<A>;
  for_lanes(count, [&](Int k, auto n) PK_INLINE { lanes = vec_max(load_logits<B>(logits + k, n), lanes); });
  A all[kLanes], top = -kInfinity<A>;
  store_vec(all, lanes);
  for (A lane : all) top = std::max(top, lane);
  return top;
}

struct Forward {
  template <int B, class T>
  PK_HD static void run(const T* logits, const Int* index, Int first, Int last, Int bars, acc_t<T>* log_prob,
                        double* log_sums) {
    using A = acc_t<T>;
    for (Int row = first; row < last; ++row) {
      const T* const x = logits + row * bars;
      A shift = -kInfinity<A>, sum = 0;
      for (Int start = 0; start < bars; start += kBlock) {
        const Int count = std::min(kBlock, bars - start);
        const A found = largest<B>(x + start, count);
        if (found > shift) {
          sum *= shift == -kInfinity<A> ? A(1) : std::exp(shift - found);
          shift = found;
        }
        const A by = shift == -kInfinity<A> ? A(0) : shift;
        Vec<A, B> lanes{};
        for_lanes(count,
                  [&](Int k, auto n) PK_INLINE { lanes += vec_exp_below_0(load_logits<B>(x + start + k, n) - by); });
        sum += sum_lanes(lanes);
      }
      if (shift == -kInfinity<A>) shift = 0;
      const A log_sum = std::log(sum);
      log_prob[row] = A(load(x[index[row]])) - shift - log_sum;
      log_sums[row] = double(shift) + double(log_sum);
    }
  }
};

// grad (rows, bars) = softmax (grad_sum - grad_log_prob) + one-hot grad_log_prob. A large log-sum is two numbers, so
// that logits keep their digits below it.
struct Backward {
  template <int B, class T>
  PK_HD static void run(const T* logits, const Int* index, const double* log_sums, const acc_t<T>* grad_log_prob,
                        const double* grad_log_sums, Int first, Int last, Int bars, T* grad) {
    using A = acc_t<T>;
    for (Int row = first; row < last; ++row) {
      const T* const x = logits + row * bars;
      T* const out = grad + row * bars;
      const A high = A(log_sums[row]), low = std::isinf(high) ? A(0) : A(log_sums[row] - double(high));
      const A own = grad_log_prob[row], all = A(grad_log_sums[row] - double(own));
      const A share = all * std::exp(-low);
      const A chosen = std::exp(A(load(x[index[row]])) - high) * share + own;
      for_lanes(bars, [&](Int k, auto n)
                          PK_INLINE { store_vec(out + k, vec_exp_below_0(load_vec<B>(x + k, n) - high) * share, n); });
      out[index[row]] = store<T>(chosen);
    }
  }
};

}  // namespace

void bar_log_prob_cpu(DType dtype, const void* logits, const void* index, void* log_prob, void* log_sums, Int rows,
                      Int bars, Threads threads) {
  dispatch("bar_log_prob", dtype, [&](auto element) {
    using T = decltype(element);
    const T* const x = static_cast<const T*>(logits);
    const Int* const chosen = static_cast<const Int*>(index);
    auto* const found = static_cast<acc_t<T>*>(log_prob);
    double* const sums = static_cast<double*>(log_sums);
    for_tasks(rows, std::max<Int>(kTask / bars, 1), threads,
              [&](Int first, Int last) { run_best<Forward>(x, chosen, first, last, bars, found, sums); });
  });
}

void bar_log_prob_bwd_cpu(DType dtype, const void* logits, const void* index, const void* log_sums,
                          const void* grad_log_prob, const void* grad_log_sums, void* grad, Int rows, Int bars,
                          Threads threads) {
  dispatch("bar_log_prob_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    const T* const x = static_cast<const T*>(logits);
    const Int* const chosen = static_cast<const Int*>(index);
    const auto in_double = [](const void* p) { return static_cast<const double*>(p); };
    const auto* const own = static_cast<const acc_t<T>*>(grad_log_prob);
    T* const out = static_cast<T*>(grad);
    const double *const sums = in_double(log_sums), *const all = in_double(grad_log_sums);
    for_tasks(rows, std::max<Int>(kTask / bars, 1), threads,
              [&](Int first, Int last) { run_best<Backward>(x, chosen, sums, own, all, first, last, bars, out); });
  });
}

}  // namespace pk
