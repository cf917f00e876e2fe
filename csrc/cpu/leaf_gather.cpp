// Lookups by category and sums by category on the CPU. Either way units lie side by side in the table and samples in
// the values, so that both are transpositions, four by four, of rows that the codes choose. Sums are added up in the
// order of the batch by the one thread that owns them.
#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "pk/launch.h"
#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kSpan = 256, kAhead = 16;    // samples of a task of lookups; how many ahead rows are prefetched
constexpr Int kSamples = 64, kUnits = 64;  // a block of values that is transposed at a time
constexpr Int kLineBytes = 64;

constexpr Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

// Remembers the first variable that has a code it should not have. No thread may throw; the launcher does.
class BadCode {
 public:
  void found(Int variable) {
    Int least = variable_.load();
    while (variable < least && !variable_.compare_exchange_weak(least, variable)) {
    }
  }
  void report(const char* op, const std::int32_t* codes, Int batch, Int categories) const {
    const Int v = variable_.load();
    if (v == kNone) return;
    const auto* bad = std::find_if(codes + v * batch, codes + (v + 1) * batch,
                                   [&](std::int32_t code) { return code < -1 || code >= categories; });
    fail(op, "argument 'codes': expected categories below " + std::to_string(categories) + ", or -1 for missing, got " +
                 std::to_string(*bad) + " for variable " + std::to_string(v) + ".");
  }

 private:
  static constexpr Int kNone = std::numeric_limits<Int>::max();
  std::atomic<Int> variable_{kNone};
};

// out[r * stride + k] = in[k][r] for k, r < 4.
template <class T>
PK_HD void transpose_four(const T* const (&in)[4], T* out, Int stride) {
#ifdef __SSE2__
  if constexpr (std::is_same_v<T, float>) {
    __m128 v[4] = {_mm_loadu_ps(in[0]), _mm_loadu_ps(in[1]), _mm_loadu_ps(in[2]), _mm_loadu_ps(in[3])};
    _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) _mm_storeu_ps(out + r * stride, v[r]);
    return;
  }
#endif
  for (int r = 0; r < 4; ++r)
    for (int k = 0; k < 4; ++k) out[r * stride + k] = in[k][r];
}

// out (length, stride): out[i * stride + k] = in[k][i], for `rows` <= 4 rows of `length` elements.
template <class T>
PK_HD void transpose_rows(const T* const (&in)[4], int rows, Int length, T* out, Int stride) {
  Int i = 0;
  if (rows == 4)
    for (; i + 4 <= length; i += 4) {
      const T* const at[4] = {in[0] + i, in[1] + i, in[2] + i, in[3] + i};
      transpose_four(at, out + i * stride, stride);
    }
  for (; i < length; ++i)
    for (int k = 0; k < rows; ++k) out[i * stride + k] = in[k][i];
}

struct Sizes {
  Int variables, categories, units, batch;
};

// Samples [begin, end) of one variable: table (C, K), codes (B), out (K, B). `zeros` (K) is the row of a missing code.
template <class T>
bool gather(const Sizes& n, const T* table, const std::int32_t* codes, const T* zeros, Int begin, Int end, T* out) {
  bool good = true;
  const auto row = [&](Int b) {
    const Int code = codes[b];
    good = good && code >= -1 && code < n.categories;
    return code >= 0 && code < n.categories ? table + code * n.units : zeros;
  };
  const Int line = kLineBytes / Int(sizeof(T));
  for (Int b = begin; b < end; b += 4) {
    const int rows = int(std::min<Int>(4, end - b));
    for (Int ahead = b + kAhead; ahead < std::min(b + kAhead + 4, end); ++ahead)
      if (codes[ahead] >= 0 && codes[ahead] < n.categories)
        for (Int k = 0; k < n.units; k += line) __builtin_prefetch(table + codes[ahead] * n.units + k);
    const T* in[4] = {};
    for (int k = 0; k < rows; ++k) in[k] = row(b + k);
    transpose_rows<T>(in, rows, n.units, out + b, n.batch);
  }
  return good;
}

// Units [first, last) of one variable: values (K, B), codes (B), sums (C, K).
struct Histogram {
  template <int, class T>
  PK_HD static void run(const Sizes& n, const T* values, const std::int32_t* codes, Int first, Int last, T* block,
                        T* sums, bool* good) {
    const Int width = last - first;
    for (Int c = 0; c < n.categories; ++c) std::fill(sums + c * n.units + first, sums + c * n.units + last, T(0));
    for (Int begin = 0; begin < n.batch; begin += kSamples) {
      const Int count = std::min(kSamples, n.batch - begin);
      for (Int k = first; k < last; k += 4) {
        const int rows = int(std::min<Int>(4, last - k));
        const T* in[4] = {};
        for (int r = 0; r < rows; ++r) in[r] = values + (k + r) * n.batch + begin;
        transpose_rows<T>(in, rows, count, block + (k - first), width);
      }
      for (Int b = 0; b < count; ++b) {
        const Int code = codes[begin + b];
        if (code < 0 || code >= n.categories) {
          *good = *good && code == -1;
          continue;
        }
        T* const to = sums + code * n.units + first;
        const T* const from = block + b * width;
        for (Int k = 0; k < width; ++k) to[k] += from[k];
      }
    }
  }
};

template <class T>
bool histogram(const Sizes& n, const T* values, const std::int32_t* codes, Int first, Int last, T* block, T* sums) {
  bool good = true;
  run_best<Histogram>(n, values, codes, first, last, block, sums, &good);
  return good;
}

}  // namespace

void leaf_gather_cpu(DType dtype, const void* table, const void* codes, void* out, Int variables, Int categories,
                     Int units, Int batch, Threads threads) {
  const auto* const code = static_cast<const std::int32_t*>(codes);
  BadCode bad;
  dispatch_wide("leaf_gather", dtype, [&](auto element) {
    using T = decltype(element);
    const Sizes n{variables, categories, units, batch};
    const std::vector<T> zeros(units, T(0));
    const Int spans = ceil_div(batch, kSpan);
#pragma omp parallel for schedule(static) num_threads(threads.count) if (variables * spans > 1)
    for (Int task = 0; task < variables * spans; ++task) {
      const Int v = task / spans, begin = task % spans * kSpan, end = std::min(batch, begin + kSpan);
      if (!gather(n, static_cast<const T*>(table) + v * categories * units, code + v * batch, zeros.data(), begin, end,
                  static_cast<T*>(out) + v * units * batch))
        bad.found(v);
    }
  });
  bad.report("leaf_gather", code, batch, categories);
}

void leaf_histogram_cpu(DType dtype, const void* values, const void* codes, void* sums, Int variables, Int categories,
                        Int units, Int batch, Threads threads) {
  const auto* const code = static_cast<const std::int32_t*>(codes);
  BadCode bad;
  dispatch_wide("leaf_histogram", dtype, [&](auto element) {
    using T = decltype(element);
    const Sizes n{variables, categories, units, batch};
    const Int blocks = ceil_div(units, kUnits);
#pragma omp parallel num_threads(threads.count) if (variables * blocks > 1)
    {
      std::vector<T> block(kSamples * std::min(kUnits, units));
#pragma omp for schedule(static)
      for (Int task = 0; task < variables * blocks; ++task) {
        const Int v = task / blocks, first = task % blocks * kUnits, last = std::min(units, first + kUnits);
        if (!histogram(n, static_cast<const T*>(values) + v * units * batch, code + v * batch, first, last,
                       block.data(), static_cast<T*>(sums) + v * categories * units))
          bad.found(v);
      }
    }
  });
  bad.report("leaf_histogram", code, batch, categories);
}

}  // namespace pk
