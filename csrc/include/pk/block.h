// Sums over the threads of a warp or block. Every thread gets the result, bit for bit the same. An array of R values is
// summed element by element: R independent chains hide each other's latency.
#pragma once
#include "pk/gpu.h"

namespace pk {

// Over `width` neighboring lanes, a power of two.
template <int R, class A>
__device__ __forceinline__ void warp_sum(A (&v)[R], int width = kWarp) {
  for (int step = width / 2; step > 0; step /= 2)
#pragma unroll
    for (int k = 0; k < R; ++k) v[k] += __shfl_xor_sync(kFullMask, v[k], step);
}

// Over the whole block, a multiple of 32 threads. `shared` has R elements for each of its warps.
template <int R, class A>
__device__ __forceinline__ void block_sum(A (&v)[R], A* shared) {
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  warp_sum(v);
  __syncthreads();  // the sum before this one may still be read
  if (threadIdx.x % kWarp == 0)
#pragma unroll
    for (int k = 0; k < R; ++k) shared[warp * R + k] = v[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < R; ++k) v[k] = shared[k];
  for (int w = 1; w < warps; ++w)
#pragma unroll
    for (int k = 0; k < R; ++k) v[k] += shared[w * R + k];
}

}  // namespace pk
