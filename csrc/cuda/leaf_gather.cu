// Lookups by category and sums by category on a GPU. A lookup's threads are samples, which read the row of their code
// and write side by side. A sum belongs to one thread, which adds its samples up in the order of the batch: no atomics,
// the same bits every time.
#include <cmath>

#include "pk/gpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 128;
constexpr int kUnits = 32, kSamples = 32;   // of a block of values in shared memory
constexpr Int kTableBytes = Int(32) << 10;  // of sums in shared memory
constexpr int kLeastUnits = 4;              // with fewer, sums stay in global memory

struct Sizes {
  Int variables, categories, units, batch;
};

constexpr Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

// V neighboring units, moved by one instruction.
template <class T, int V>
struct alignas(V * sizeof(T)) Units {
  T unit[V];
};

template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const T* table, const std::int32_t* codes, T* out, Sizes n, Int tiles) {
  const Int v = blockIdx.x / tiles, b = blockIdx.x % tiles * kThreads + threadIdx.x;
  if (b >= n.batch) return;
  const Int code = codes[v * n.batch + b];
  const bool here = code >= 0 && code < n.categories;
  const T other = code < 0 ? T(0) : T(NAN);
  const T* const row = table + (v * n.categories + (here ? code : 0)) * n.units;
  out += v * n.units * n.batch + b;
  for (Int k = 0; k < n.units; k += V) {
    const auto units = *reinterpret_cast<const Units<T, V>*>(row + k);
#pragma unroll
    for (int i = 0; i < V; ++i) out[(k + i) * n.batch] = here ? units.unit[i] : other;
  }
}

// Sums of `width` units of one variable, in shared memory if they fit there.
template <bool kShared, class T>
__global__ void __launch_bounds__(kThreads)
    histogram_kernel(const T* values, const std::int32_t* codes, T* sums, Sizes n, int width, Int tiles) {
  PK_DYN_SMEM(T, shared);
  __shared__ T block[kSamples][kUnits + 1];  // a column more, so that a column's elements lie in different banks
  __shared__ std::int32_t code[kSamples];
  const Int v = blockIdx.x / tiles, first = blockIdx.x % tiles * width;
  const int thread = threadIdx.x, units = int(n.units - first < width ? n.units - first : width);
  values += (v * n.units + first) * n.batch;
  codes += v * n.batch;
  sums += v * n.categories * n.units + first;
  T* const table = kShared ? shared : sums;
  const Int stride = kShared ? width : n.units;
  for (Int i = thread; i < n.categories * width; i += kThreads)
    if (i % width < units) table[i / width * stride + i % width] = T(0);
  for (Int begin = 0; begin < n.batch; begin += kSamples) {
    __syncthreads();  // the block before this one may still be read
    for (int i = thread; i < units * kSamples; i += kThreads) {
      const Int b = begin + i % kSamples;
      if (b < n.batch) block[i % kSamples][i / kSamples] = values[i / kSamples * n.batch + b];
    }
    if (thread < kSamples) code[thread] = begin + thread < n.batch ? codes[begin + thread] : -1;
    __syncthreads();
    if (thread < units)
      for (int s = 0; s < kSamples; ++s)
        if (code[s] >= 0 && code[s] < n.categories) table[code[s] * stride + thread] += block[s][thread];
  }
  if (!kShared) return;
  __syncthreads();
  for (Int i = thread; i < n.categories * width; i += kThreads)
    if (i % width < units) sums[i / width * n.units + i % width] = table[i];
}

}  // namespace

void leaf_gather_cuda(DType dtype, const void* table, const void* codes, void* out, Int variables, Int categories,
                      Int units, Int batch, Stream stream) {
  dispatch_wide("leaf_gather", dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kWide = 16 / sizeof(T);
    const Sizes n{variables, categories, units, batch};
    const Int tiles = ceil_div(batch, kThreads);
    const bool wide = units % kWide == 0 && reinterpret_cast<std::uintptr_t>(table) % 16 == 0;
    const auto kernel = wide ? gather_kernel<kWide, T> : gather_kernel<1, T>;
    PK_LAUNCH(kernel, dim3(unsigned(variables * tiles)), dim3(kThreads), 0, stream, static_cast<const T*>(table),
              static_cast<const std::int32_t*>(codes), static_cast<T*>(out), n, tiles);
  });
}

void leaf_histogram_cuda(DType dtype, const void* values, const void* codes, void* sums, Int variables, Int categories,
                         Int units, Int batch, Stream stream) {
  dispatch_wide("leaf_histogram", dtype, [&](auto element) {
    using T = decltype(element);
    const Sizes n{variables, categories, units, batch};
    int width = kUnits;
    while (width > kLeastUnits && categories * width * Int(sizeof(T)) > kTableBytes) width /= 2;
    const Int bytes = categories * width * sizeof(T);
    const bool shared = bytes <= kTableBytes;
    if (!shared) width = kUnits;
    const auto kernel = shared ? histogram_kernel<true, T> : histogram_kernel<false, T>;
    const Int tiles = ceil_div(units, width);
    PK_LAUNCH(kernel, dim3(unsigned(variables * tiles)), dim3(kThreads), shared ? bytes : 0, stream,
              static_cast<const T*>(values), static_cast<const std::int32_t*>(codes), static_cast<T*>(sums), n, width,
              tiles);
  });
}

}  // namespace pk
