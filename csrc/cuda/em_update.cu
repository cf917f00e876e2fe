// The M-step on a GPU: one pass that adds up the flow of every distribution and one that moves its parameters. A block
// takes several distributions; the threads of each are a rectangle of rows (entries of a distribution) and columns
// (neighboring distributions), so that neighbors in memory are read together whatever M is.
#include <algorithm>
#include <limits>

#include "pk/gpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 256;
constexpr Int kColumns = 32;

template <class A>
struct Problem {
  A* params;              // (N, K, M)
  const A *flows, *kept;  // (N, K, M), (N, M) or null
  Int n, k, m;
  double step, pseudocount;
  int columns, rows, blocks;  // of a rectangle of threads, and how many rectangles a block of threads has
  Int tiles;                  // rectangles side by side
};

template <class A>
struct Normal {
  static constexpr double kLeast = std::numeric_limits<A>::min(), kMost = std::numeric_limits<A>::max();
};

template <class A>
__global__ void __launch_bounds__(kThreads) update_kernel(Problem<A> in) {
  __shared__ double sums[kThreads], counts[kThreads];
  const int thread = threadIdx.x, size = in.columns * in.rows;
  const int row = thread % size / in.columns;
  const Int n = blockIdx.x / in.tiles * in.blocks + thread / size;
  const Int m = blockIdx.x % in.tiles * in.columns + thread % in.columns;
  const bool active = thread < size * in.blocks && n < in.n && m < in.m;
  A* const params = in.params + n * in.k * in.m + m;
  const A* const flows = in.flows + n * in.k * in.m + m;

  double sum = 0, count = 0;
  if (active)
    for (Int k = row; k < in.k; k += in.rows)
      if (params[k * in.m] != A(0)) {
        sum += double(flows[k * in.m]);
        count += 1;
      }
  sums[thread] = sum;
  counts[thread] = count;
  for (int left = in.rows; left > 1;) {  // rows of partial sums, of which the lower half goes to the upper one
    const int half = (left + 1) / 2;
    __syncthreads();
    if (active && row + half < left) {
      sums[thread] += sums[thread + half * in.columns];
      counts[thread] += counts[thread + half * in.columns];
    }
    left = half;
  }
  __syncthreads();
  if (!active) return;

  const int first = thread - row * in.columns;
  const double kept = in.kept ? double(in.kept[n * in.m + m]) : 0, total = sums[first] + in.pseudocount + kept;
  if (total == 0) return;
  const double old = 1 - in.step + in.step * (kept / total), add = in.step * (in.pseudocount / total) / counts[first];
  const double share = in.step / total;
  // Else flows are divided first, in double.
  const bool normal = in.step == 0 || (share >= Normal<A>::kLeast && share <= Normal<A>::kMost);
  for (Int k = row; k < in.k; k += in.rows) {
    const A p = params[k * in.m], flow = flows[k * in.m];
    if (p == A(0)) continue;
    params[k * in.m] =
        normal ? p * A(old) + flow * A(share) + A(add) : A(double(p) * old + in.step * (double(flow) / total) + add);
  }
}

}  // namespace

void em_update_cuda(DType dtype, void* params, const void* flows, Maybe kept, Int n, Int k, Int m, double step,
                    double pseudocount, Stream stream) {
  dispatch_wide("em_update", dtype, [&](auto element) {
    using A = decltype(element);
    const int columns = int(std::min(m, kColumns)), rows = int(std::min<Int>(kThreads / columns, k));
    const int blocks = kThreads / (columns * rows);
    const Int tiles = (m + columns - 1) / columns;
    const Problem<A> in{static_cast<A*>(params),
                        static_cast<const A*>(flows),
                        kept.as<A>(),
                        n,
                        k,
                        m,
                        step,
                        pseudocount,
                        columns,
                        rows,
                        blocks,
                        tiles};
    PK_LAUNCH(update_kernel<A>, dim3(unsigned((n + blocks - 1) / blocks * tiles)), dim3(kThreads), 0, stream, in);
  });
}

}  // namespace pk
