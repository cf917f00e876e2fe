// Selecting by magnitude on a GPU: one pass over the weight in which every warp votes on the entries of a block of 512,
// then a scan of the blocks' counts in a fixed order. And the histograms that find a k-th magnitude: counts are
// integers, so adding them atomically gives the same result in any order. Both work on the bits of the numbers:
// pk/magnitude.h.
#include <algorithm>

#include "pk/block.h"
#include "pk/magnitude.h"
#include "pk/selection.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kVotes = kBlockEntries / kWarp;                  // of a block
constexpr int kScanOwn = 16, kScanTile = kThreads * kScanOwn;  // counts of a thread, of a block of threads
constexpr int kWindow = 8192;                                  // digits counted in shared memory

PK_HD Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

// halves (2 ceil(n / 64)): the words of the bitmap, low half first; counts (ceil(n / 512)).
template <class T>
__global__ void __launch_bounds__(kThreads)
    select_kernel(const T* w, Int n, Range<T> range, std::uint32_t* halves, std::int32_t* counts) {
  const int lane = threadIdx.x % kWarp;
  const Int block = Int(blockIdx.x) * kWarps + threadIdx.x / kWarp, first = block * kBlockEntries + lane;
  if (block * kBlockEntries >= n) return;
  T entries[kVotes] = {};
#pragma unroll
  for (int i = 0; i < kVotes; ++i)
    if (first + i * kWarp < n) entries[i] = w[first + i * kWarp];
  unsigned own = 0;
  int count = 0;
#pragma unroll
  for (int i = 0; i < kVotes; ++i) {
    const unsigned votes = __ballot_sync(kFullMask, first + i * kWarp < n && range.has(magnitude(entries[i])));
    count += count_bits(votes);
    if (lane == i) own = votes;
  }
  const Int half = block * kVotes + lane, half_count = ceil_div(n, kWordEntries) * 2;
  if (lane < kVotes && half < half_count) halves[half] = own;
  if (lane == 0) counts[block] = count;
}

// The sum over all threads of the block, in every thread. 64 bits: a sum of ranks may pass an int32, which is found
// out.
__device__ __forceinline__ Int sum_threads(Int value) {
  __shared__ Int shared[kWarps];
  Int one[1] = {value};
  block_sum(one, shared);
  return one[0];
}

// The counts of a tile that this thread owns; zeros past the end.
__device__ __forceinline__ Int load_own(const std::int32_t* counts, Int blocks, std::int32_t (&own)[kScanOwn]) {
  const Int first = Int(blockIdx.x) * kScanTile + threadIdx.x * kScanOwn;
  Int sum = 0;
#pragma unroll
  for (int i = 0; i < kScanOwn; ++i) {
    own[i] = first + i < blocks ? counts[first + i] : 0;
    sum += own[i];
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads) tile_kernel(const std::int32_t* counts, Int blocks, Int* tiles) {
  std::int32_t own[kScanOwn];
  const Int sum = sum_threads(load_own(counts, blocks, own));
  if (threadIdx.x == 0) tiles[blockIdx.x] = sum;
}

// Turns counts into ranks, in place: what lies in tiles, warps, threads and counts before.
__global__ void __launch_bounds__(kThreads) rank_kernel(std::int32_t* counts, Int blocks, const Int* tiles) {
  __shared__ Int of_warp[kWarps];
  std::int32_t own[kScanOwn];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Int before = 0;
  for (Int tile = threadIdx.x; tile < blockIdx.x; tile += kThreads) before += tiles[tile];
  before = sum_threads(before);
  const Int mine = load_own(counts, blocks, own);
  Int through = mine;
  for (int step = 1; step < kWarp; step *= 2) {
    const Int left = __shfl_up_sync(kFullMask, through, step);
    if (lane >= step) through += left;
  }
  if (lane == kWarp - 1) of_warp[warp] = through;
  __syncthreads();
  for (int w = 0; w < warp; ++w) before += of_warp[w];
  before += through - mine;
  const Int first = Int(blockIdx.x) * kScanTile + threadIdx.x * kScanOwn;
#pragma unroll
  for (int i = 0; i < kScanOwn; ++i) {
    if (first + i < blocks) counts[first + i] = std::int32_t(std::uint32_t(before));
    before += own[i];
  }
}

// The highest digits of ordinary weights, counted in shared memory: from kWindow / 2 below that of 256.
template <class A>
PK_HD int window_start() {
  return int(magnitude(A(256)) >> (8 * sizeof(A) - 16)) - kWindow;
}

// Pruned weights are full of zeros, and half precision's lower digits are too: a register counts these.
template <class T>
__global__ void __launch_bounds__(kThreads)
    histogram_kernel(const T* w, Int n, Digit<acc_t<T>> digit, unsigned long long* histogram) {
  using A = acc_t<T>;
  __shared__ unsigned window[kWindow];
  const int start = window_start<A>();
  for (int i = threadIdx.x; i < kWindow; i += kThreads) window[i] = 0;
  __syncthreads();
  Int zeros = 0;
  const Int stride = Int(gridDim.x) * kThreads;
  for (Int i = Int(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    const auto m = magnitude(A(load(w[i])));
    if (m > kInfinity<A> || !digit.has(m)) continue;
    const int d = int(digit.of(m)), at = d - start;
    if (d == 0)
      ++zeros;
    else if (digit.highest && at >= 0 && at < kWindow)
      atomicAdd(&window[at], 1u);
    else
      atomicAdd(&histogram[d], 1ull);
  }
  zeros = sum_threads(zeros);
  if (threadIdx.x == 0 && zeros) atomicAdd(&histogram[0], static_cast<unsigned long long>(zeros));
  __syncthreads();
  for (int i = threadIdx.x; digit.highest && i < kWindow; i += kThreads)
    if (window[i]) atomicAdd(&histogram[start + i], static_cast<unsigned long long>(window[i]));
}

}  // namespace

void magnitude_select_cuda(DType dtype, const void* w, void* words, void* ranks, Int n, double threshold, bool largest,
                           Stream stream) {
  auto* const counts = static_cast<std::int32_t*>(ranks);
  const Int blocks = ceil_div(n, kBlockEntries);
  dispatch("magnitude_select", dtype, [&](auto element) {
    using T = decltype(element);
    PK_LAUNCH(select_kernel<T>, dim3(unsigned(ceil_div(blocks, kWarps))), dim3(kThreads), 0, stream,
              static_cast<const T*>(w), n, Range<T>::of(threshold, largest), static_cast<std::uint32_t*>(words),
              counts);
  });
  const Int tiles = ceil_div(blocks, kScanTile);
  const Scratch<Int> sums(tiles, stream);
  PK_LAUNCH(tile_kernel, dim3(unsigned(tiles)), dim3(kThreads), 0, stream, counts, blocks, sums.data());
  PK_LAUNCH(rank_kernel, dim3(unsigned(tiles)), dim3(kThreads), 0, stream, counts, blocks, sums.data());
}

void magnitude_histogram_cuda(DType dtype, const void* w, void* histogram, Int n, Int level, Int prefix,
                              Stream stream) {
  auto* const counts = static_cast<unsigned long long*>(histogram);
  dispatch("magnitude_histogram", dtype, [&](auto element) {
    using T = decltype(element);
    const Int wanted = std::min(resident_blocks(histogram_kernel<T>, kThreads), ceil_div(n, kWindow));
    PK_LAUNCH(histogram_kernel<T>, dim3(unsigned(wanted)), dim3(kThreads), 0, stream, static_cast<const T*>(w), n,
              Digit<acc_t<T>>(int(level), prefix), counts);
  });
}

}  // namespace pk
