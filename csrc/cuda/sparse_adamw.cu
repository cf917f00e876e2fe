// AdamW on selected entries, on a GPU: one launch for all weights. A block takes a chunk of selected entries; a table
// of the first chunk of every weight says whose. Positions are unique, so nothing is added atomically. The table
// travels in the parameters of a small kernel, which needs no pinned memory, waits for nothing and may be captured into
// a graph.
#include <algorithm>

#include "pk/adamw.h"
#include "pk/gpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = kMomentBlock, kEach = 4, kChunk = kThreads * kEach;  // entries of a thread and of a block
constexpr int kWarps = kThreads / kWarp;
constexpr int kParameterBytes = 4000;
constexpr int kBatch = kParameterBytes / int(sizeof(AdamTensor) + sizeof(Int)) - 1;

// --- the table ---

struct Batch {
  AdamTensor tensors[kBatch];
  Int first_chunk[kBatch + 1];
};

__global__ void __launch_bounds__(kThreads)
    upload_kernel(const __grid_constant__ Batch batch, int n, AdamTensor* tensors, Int* first_chunk) {
  constexpr int kWords = sizeof(AdamTensor) / 8;
  static_assert(sizeof(AdamTensor) % 8 == 0);
  const auto* from = reinterpret_cast<const std::uint64_t*>(batch.tensors);
  for (int i = threadIdx.x; i < n * kWords; i += kThreads) reinterpret_cast<std::uint64_t*>(tensors)[i] = from[i];
  for (int i = threadIdx.x; i <= n; i += kThreads) first_chunk[i] = batch.first_chunk[i];
}

struct Table {
  const AdamTensor* tensors;
  const Int* first_chunk;  // (count + 1)
  int count;

  // The weight that a chunk belongs to, found by all threads of a block together.
  __device__ __forceinline__ const AdamTensor& find(Int chunk, Int* first) const {
    __shared__ int found;
    for (int i = threadIdx.x; i < count; i += kThreads)
      if (first_chunk[i] <= chunk && chunk < first_chunk[i + 1]) found = i;
    __syncthreads();
    *first = (chunk - first_chunk[found]) * kChunk;
    return tensors[found];
  }
};

// --- bitmap -> positions ---

// The last of the ascending ranks (n) that is <= first, found by all threads of a block together.
__device__ __forceinline__ Int find_rank(const std::int32_t* ranks, Int n, Int first) {
  __shared__ Int found;
  Int low = 0;
  for (Int length = n; length > 1;) {
    const Int step = (length + kThreads - 1) / kThreads, end = low + length, at = low + threadIdx.x * step;
    if (at < end && ranks[at] <= first && (at + step >= end || ranks[at + step] > first)) found = at;
    __syncthreads();
    low = found;
    length = step < end - low ? step : end - low;
    __syncthreads();  // before the next round writes
  }
  return low;
}

// The sum of v over the threads before this one; `total` over all.
__device__ __forceinline__ int scan(int v, int* total) {
  __shared__ int warps[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int sum = v;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int below = __shfl_up_sync(kFullMask, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == kWarp - 1) warps[warp] = sum;
  __syncthreads();
  int before = 0, all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += warps[w];
    all += warps[w];
  }
  __syncthreads();  // before the next scan writes
  *total = all;
  return before + sum - v;
}

// Positions of the n <= kChunk selected entries from number `first` on.
__device__ __forceinline__ void expand(const AdamTensor& t, Int first, int n, Int* to) {
  const Int words = (t.size + 63) / 64, ranks = (t.size + kBlockEntries - 1) / kBlockEntries;
  const Int block = find_rank(t.ranks, ranks, first);
  Int done = t.ranks[block] - first;  // entries before the words of this round, counted from `first`
  for (Int word = block * kBlockWords; word < words && done < n; word += kThreads) {
    const Int mine = word + threadIdx.x;
    std::uint64_t bits = mine < words ? t.words[mine] : 0;
    int total;
    Int k = done + scan(count_bits(bits), &total);
    for (; bits && k < n; bits &= bits - 1, ++k)
      if (k >= 0) to[k] = 64 * mine + lowest_bit(bits);
    done += total;
  }
  const Int missing = done > 0 ? done : 0;
  for (Int k = missing + threadIdx.x; k < n; k += kThreads) to[k] = 0;  // a wrong bitmap; but inside the weight
  __syncthreads();
}

// --- 8-bit moments ---

struct Codes {
  const float* tables;  // (2, 2, 256): of m and of v, values and midpoints
};

__device__ __forceinline__ void load_codes(const Codes& codes, float (*shared)[256]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) shared[i][threadIdx.x] = codes.tables[i * 256 + threadIdx.x];
  __syncthreads();
}

// How many of the 255 ascending midpoints lie below x.
template <class A>
__device__ __forceinline__ int nearest(const float* midpoints, A x) {
  int code = 0;
#pragma unroll
  for (int step = 128; step > 0; step /= 2)
    if (x > A(midpoints[code + step - 1])) code += step;
  return code;
}

// A NaN among the values stays.
template <class A>
__device__ __forceinline__ A larger(A a, A b) {
  return b > a || b != b ? b : a;
}

template <int R, class A>
__device__ __forceinline__ void block_max(A (&v)[R]) {
  __shared__ A shared[kWarps][R];
#pragma unroll
  for (int k = 0; k < R; ++k)
    for (int step = kWarp / 2; step > 0; step /= 2) v[k] = larger(v[k], __shfl_xor_sync(kFullMask, v[k], step));
  if (threadIdx.x % kWarp == 0)
#pragma unroll
    for (int k = 0; k < R; ++k) shared[threadIdx.x / kWarp][k] = v[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < R; ++k)
    for (int w = 0; w < kWarps; ++w) v[k] = larger(v[k], shared[w][k]);
}

// --- one chunk ---

// The entries of a thread: every kThreads-th of the chunk, so that a block of moments is one turn of all threads.
template <class T, bool k8>
struct Entries {
  using A = acc_t<T>;
  const AdamTensor& t;
  Int first;
  int n;
  Int at[kEach];
  A value[kEach], grad[kEach], m[kEach], v[kEach];

  __device__ __forceinline__ Int entry(int k) const { return first + k * kThreads + threadIdx.x; }
  __device__ __forceinline__ bool exists(int k) const { return int(k * kThreads + threadIdx.x) < n; }

  template <class G>
  __device__ __forceinline__ void load_grads() {
    const G* const from = static_cast<const G*>(t.grad);
#pragma unroll
    for (int k = 0; k < kEach; ++k) grad[k] = exists(k) ? load(from[t.dense ? at[k] : entry(k)]) : A(0);
  }

  __device__ __forceinline__ void load_all(const float (*tables)[256]) {
    if (t.grad_dtype == t.dtype)
      load_grads<T>();
    else
      load_grads<A>();
    const A* const values = static_cast<const A*>(t.values);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      value[k] = m[k] = v[k] = A(0);
      if (!exists(k)) continue;
      value[k] = values ? values[entry(k)] : load(static_cast<const T*>(t.weight)[at[k]]);
      if constexpr (k8) {
        const Int block = entry(k) / kMomentBlock;
        m[k] = A(tables[0][static_cast<unsigned char*>(t.m)[entry(k)]]) * static_cast<A*>(t.m_scale)[block];
        v[k] = A(tables[2][static_cast<unsigned char*>(t.v)[entry(k)]]) * static_cast<A*>(t.v_scale)[block];
      } else {
        m[k] = static_cast<A*>(t.m)[entry(k)];
        v[k] = static_cast<A*>(t.v)[entry(k)];
      }
    }
  }

  __device__ __forceinline__ void store_values() {
    A* const values = static_cast<A*>(t.values);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (!exists(k)) continue;
      if (values) values[entry(k)] = value[k];
      static_cast<T*>(t.weight)[at[k]] = store<T>(value[k]);
    }
  }

  __device__ __forceinline__ void store_codes(const float (*tables)[256]) {
    A scale[2 * kEach];
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      scale[k] = exists(k) ? fabs(m[k]) : A(0);
      scale[kEach + k] = exists(k) ? v[k] : A(0);
    }
    block_max(scale);  // also a barrier: every thread has read the old scales
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (!exists(k)) continue;
      const A ms = scale[k], vs = scale[kEach + k];
      if (threadIdx.x == 0) static_cast<A*>(t.m_scale)[entry(k) / kMomentBlock] = ms;
      if (threadIdx.x == 0) static_cast<A*>(t.v_scale)[entry(k) / kMomentBlock] = vs;
      static_cast<unsigned char*>(t.m)[entry(k)] = nearest(tables[1], m[k] / (ms > A(0) ? ms : A(1)));
      static_cast<unsigned char*>(t.v)[entry(k)] = nearest(tables[3], v[k] / (vs > A(0) ? vs : A(1)));
    }
  }

  __device__ __forceinline__ void store_moments() {
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (!exists(k)) continue;
      static_cast<A*>(t.m)[entry(k)] = m[k];
      static_cast<A*>(t.v)[entry(k)] = v[k];
    }
  }
};

template <class T, bool k8>
__device__ __forceinline__ void step(const AdamTensor& t, const AdamRule<acc_t<T>>& rule, Int first, int n,
                                     const Int* positions, const float (*tables)[256]) {
  using A = acc_t<T>;
  Entries<T, k8> own = {t, first, n, {}, {}, {}, {}, {}};
#pragma unroll
  for (int k = 0; k < kEach; ++k)
    own.at[k] = !own.exists(k) ? 0 : t.index ? Int(t.index[own.entry(k)]) : positions[k * kThreads + threadIdx.x];
  own.load_all(tables);
  const A rate = A(t.rate), root = A(t.inv_root_bias2);
#pragma unroll
  for (int k = 0; k < kEach; ++k) adam_update<k8>(rule, rate, root, own.grad[k], own.value[k], own.m[k], own.v[k]);
  own.store_values();
  if constexpr (k8)
    own.store_codes(tables);
  else
    own.store_moments();
}

template <class A, bool k8>
__global__ void __launch_bounds__(kThreads) step_kernel(Table table, AdamRule<A> rule, Codes codes) {
  __shared__ Int positions[kChunk];
  __shared__ float tables[k8 ? 4 : 1][256];
  Int first;
  const AdamTensor& t = table.find(blockIdx.x, &first);
  const int n = int(t.count - first < kChunk ? t.count - first : kChunk);
  if (k8) load_codes(codes, tables);
  if (!t.index) expand(t, first, n, positions);
  if constexpr (sizeof(A) == sizeof(double)) {
    step<double, k8>(t, rule, first, n, positions, tables);
  } else if (t.dtype == DType::f32) {
    step<float, k8>(t, rule, first, n, positions, tables);
  } else if (t.dtype == DType::f16) {
    step<half, k8>(t, rule, first, n, positions, tables);
  } else {
    step<bfloat16, k8>(t, rule, first, n, positions, tables);
  }
}

// --- the launch ---

// All weights whose accumulation type is A.
template <class A>
void step_all(const std::vector<AdamTensor>& all, const AdamRule<A>& rule, const Codes& codes, Stream stream) {
  std::vector<AdamTensor> tensors;
  std::vector<Int> first_chunk(1, 0);
  for (const AdamTensor& t : all) {
    if ((t.dtype == DType::f64) != (sizeof(A) == sizeof(double))) continue;
    tensors.push_back(t);
    first_chunk.push_back(first_chunk.back() + (t.count + kChunk - 1) / kChunk);
  }
  const int count = int(tensors.size());
  if (count == 0) return;
  const Scratch<AdamTensor> device_tensors(count, stream);
  const Scratch<Int> device_chunks(count + 1, stream);
  for (int from = 0; from < count; from += kBatch) {
    const int n = std::min(count - from, kBatch);
    Batch batch = {};
    std::copy_n(&tensors[from], n, batch.tensors);
    std::copy_n(&first_chunk[from], n + 1, batch.first_chunk);
    PK_LAUNCH(upload_kernel, dim3(1), dim3(kThreads), 0, stream, batch, n, device_tensors.data() + from,
              device_chunks.data() + from);
  }
  const Table table = {device_tensors.data(), device_chunks.data(), count};
  const dim3 grid(unsigned(first_chunk.back())), block(kThreads);
  if (tensors[0].m_scale)
    PK_LAUNCH((step_kernel<A, true>), grid, block, 0, stream, table, rule, codes);
  else
    PK_LAUNCH((step_kernel<A, false>), grid, block, 0, stream, table, rule, codes);
}

}  // namespace

void sparse_adamw_cuda(Ints dtypes, Tensors weights, Tensors values, Ints grad_dtypes, Ints dense, Tensors grads,
                       Tensors m, Tensors v, Tensors m_scale, Tensors v_scale, Tensors index, Tensors words,
                       Tensors ranks, Ints sizes, Ints counts, Ints steps, Maybe codes, Maybe, double lr, double beta1,
                       double beta2, double eps, double weight_decay, Stream stream) {
  const auto tensors = AdamLists{dtypes,  weights, values, grad_dtypes, dense, grads, m,      v,
                                 m_scale, v_scale, index,  words,       ranks, sizes, counts, steps}
                           .tensors(lr, beta1, beta2);
  step_all<float>(tensors, {lr, beta1, beta2, eps, weight_decay}, {codes.as<float>()}, stream);
  step_all<double>(tensors, {lr, beta1, beta2, eps, weight_decay}, {codes.as<float>()}, stream);
}

}  // namespace pk
