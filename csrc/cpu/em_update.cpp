// The M-step on the CPU: two passes over each block of K x M parameters, the second one while it is still cached. The
// block is read as one run of vectors, whatever M is: which distribution a lane belongs to repeats every M elements, so
// sums and coefficients repeat every M / gcd(M, 16) vectors. Equations: python/probkernels/reference/em_update.py.
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "pk/launch.h"
#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kTaskSize = 4096;  // parameters of a task, or one block
constexpr Int kFlush = 128;      // values that a lane sums up before the sums move on to double

template <class A>
struct Problem {
  A* params;              // (N, K, M)
  const A *flows, *kept;  // (N, K, M), (N, M) or null
  Int k, m;
  double step, pseudocount;

  Int period() const { return m / std::gcd(m, Int(kLanes)) * kLanes; }  // elements after which lanes repeat
};

// What an update multiplies an old parameter and a flow by, and what it adds, for a period of elements; and what a
// period's lanes have summed up, and then all lanes of a distribution.
template <class A>
struct Scratch {
  std::vector<A> old, flow, add;
  std::vector<A> sums, edges;
  std::vector<double> total, count;  // (M)
  explicit Scratch(const Problem<A>& in)
      : old(in.period()),
        flow(in.period()),
        add(in.period()),
        sums(in.period()),
        edges(in.period()),
        total(in.m),
        count(in.m) {}
};

// Calls body(at, place, lanes) for vectors of elements [begin, end), where `place` is within a period.
template <class Body>
PK_HD void for_places(Int begin, Int end, Int period, Body&& body) {
  for (Int first = begin; first < end; first += period)
    for_lanes(std::min(period, end - first), [&](Int i, auto lanes) PK_INLINE { body(first + i, i, lanes); });
}

struct Update {
  template <int B, class A>
  PK_HD static void run(const Problem<A>& in, Int first, Int last, Scratch<A>* scratch) {
    for (Int n = first; n < last; ++n) update<B>(in, n, *scratch);
  }

  template <int B, class A>
  PK_HD static void update(const Problem<A>& in, Int n, Scratch<A>& s) {
    const Int size = in.k * in.m, period = in.period();
    A* const params = in.params + n * size;
    const A* const flows = in.flows + n * size;
    add_up<B>(in, params, flows, size, period, s);
    if (!coefficients(in, n, period, s)) return update_far(in, n);
    for_places(0, size, period, [&](Int at, Int place, auto lanes) PK_INLINE {
      const auto p = load_vec<B>(params + at, lanes);
      auto next = p * load_vec<B>(s.old.data() + place) +
                  load_vec<B>(flows + at, lanes) * load_vec<B>(s.flow.data() + place) +
                  load_vec<B>(s.add.data() + place);
      for (int i = 0; i < p.kRegisters; ++i) next.part[i] = p.part[i] != A(0) ? next.part[i] : p.part[i];
      store_vec(params + at, next, lanes);
    });
  }

  // total and count (M): the flow of each distribution's edges, and how many there are.
  template <int B, class A>
  PK_HD static void add_up(const Problem<A>& in, const A* params, const A* flows, Int size, Int period, Scratch<A>& s) {
    std::fill(s.total.begin(), s.total.end(), 0.0);
    std::fill(s.count.begin(), s.count.end(), 0.0);
    for (Int begin = 0; begin < size; begin += kFlush * period) {
      std::fill(s.sums.begin(), s.sums.end(), A(0));
      std::fill(s.edges.begin(), s.edges.end(), A(0));
      for_places(begin, std::min(size, begin + kFlush * period), period, [&](Int at, Int place, auto lanes) PK_INLINE {
        const auto p = load_vec<B>(params + at, lanes), f = load_vec<B>(flows + at, lanes);
        auto sum = load_vec<B>(s.sums.data() + place), edges = load_vec<B>(s.edges.data() + place);
        const typename Vec<A, B>::Register zero{};
        for (int i = 0; i < p.kRegisters; ++i) {
          sum.part[i] += p.part[i] != zero ? f.part[i] : zero;
          edges.part[i] += p.part[i] != zero ? zero + A(1) : zero;
        }
        store_vec(s.sums.data() + place, sum);
        store_vec(s.edges.data() + place, edges);
      });
      if (in.m == 1) {
        s.total[0] += double(sum_lanes(load_vec<B>(s.sums.data())));
        s.count[0] += double(sum_lanes(load_vec<B>(s.edges.data())));
      } else {
        for (Int i = 0, m = 0; i < period; ++i, m = m + 1 < in.m ? m + 1 : 0) {
          s.total[m] += double(s.sums[i]);
          s.count[m] += double(s.edges[i]);
        }
      }
    }
  }

  // Whether they are normal numbers; else nothing is set.
  template <class A>
  PK_HD static bool coefficients(const Problem<A>& in, Int n, Int period, Scratch<A>& s) {
    for (Int m = 0; m < in.m; ++m) {
      const double kept = in.kept ? double(in.kept[n * in.m + m]) : 0;
      const double total = s.total[m] + in.pseudocount + kept, share = total == 0 ? 0 : in.step / total;
      const bool normal = share >= std::numeric_limits<A>::min() && share <= std::numeric_limits<A>::max();
      if (in.step != 0 && total != 0 && !normal) return false;
      s.old[m] = A(total == 0 ? 1 : 1 - in.step + share * kept);
      s.flow[m] = A(share);
      s.add[m] = A(s.count[m] == 0 ? 0 : share * in.pseudocount / s.count[m]);
    }
    for (std::vector<A>* all : {&s.old, &s.flow, &s.add})
      if (in.m == 1)
        std::fill(all->begin(), all->end(), all->front());
      else
        for (Int i = in.m; i < period; i += in.m) std::copy_n(all->data(), in.m, all->data() + i);
    return true;
  }

  // For flows so small or large that sums, or the step over them, leave the range: in double, and flows over their sum
  // before anything else.
  template <class A>
  PK_HD static void update_far(const Problem<A>& in, Int n) {
    for (Int m = 0; m < in.m; ++m) {
      A* const params = in.params + n * in.k * in.m + m;
      const A* const flows = in.flows + n * in.k * in.m + m;
      const double kept = in.kept ? double(in.kept[n * in.m + m]) : 0;
      double total = in.pseudocount + kept, count = 0;
      for (Int k = 0; k < in.k; ++k)
        if (params[k * in.m] != A(0)) total += double(flows[k * in.m]), ++count;
      if (total == 0) continue;
      const double old = 1 - in.step + in.step * (kept / total), add = in.step * (in.pseudocount / total) / count;
      for (Int k = 0; k < in.k; ++k) {
        A& p = params[k * in.m];
        if (p != A(0)) p = A(double(p) * old + in.step * (double(flows[k * in.m]) / total) + add);
      }
    }
  }
};

}  // namespace

void em_update_cpu(DType dtype, void* params, const void* flows, Maybe kept, Int n, Int k, Int m, double step,
                   double pseudocount, Threads threads) {
  dispatch_wide("em_update", dtype, [&](auto element) {
    using A = decltype(element);
    const Problem<A> in{static_cast<A*>(params), static_cast<const A*>(flows), kept.as<A>(), k, m, step, pseudocount};
    const Int each = std::max(kTaskSize / (k * m), Int(1)), tasks = (n + each - 1) / each;
#pragma omp parallel num_threads(threads.count) if (tasks > 1)
    {
      Scratch<A> scratch(in);
#pragma omp for schedule(static)
      for (Int task = 0; task < tasks; ++task)
        run_best<Update>(in, task * each, std::min(n, (task + 1) * each), &scratch);
    }
  });
}

}  // namespace pk
