// Small kernels, right and wrong ones, that the emulator itself is tested with. Each takes n floats in `data`.
#include "pk/block.h"

namespace {

// --- right ---

__global__ void reverse_static(float* data, int n) {
  __shared__ float shared[256];
  shared[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = shared[n - 1 - threadIdx.x];
}

__global__ void reverse_dynamic(float* data, int n) {
  PK_DYN_SMEM(float, shared);
  shared[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = shared[n - 1 - threadIdx.x];
}

__global__ void dynamic_starts_as_nan(float* data, int) {
  PK_DYN_SMEM(float, shared);
  data[threadIdx.x] = shared[threadIdx.x];
}

__global__ void static_starts_as_nan(float* data, int n) {
  __shared__ float shared[64];
  __shared__ double wide[64];
  if (n < 0) shared[0] = wide[0] = 0;  // never, but without it the compiler sees constants
  data[threadIdx.x] = shared[threadIdx.x] + float(wide[threadIdx.x]);
}

__global__ void flag_starts_as_poison(float* data, int n) {
  __shared__ int found;
  if (n < 0) found = 0;
  data[threadIdx.x] = float(found);
}

__global__ void shuffles(float* data, int) {  // data (6, 32)
  const int lane = threadIdx.x;
  const float v = data[lane];
  data[lane + 32] = __shfl_sync(pk::kFullMask, v, 5);
  data[lane + 64] = __shfl_xor_sync(pk::kFullMask, v, 3);
  data[lane + 96] = __shfl_up_sync(pk::kFullMask, v, 2);
  data[lane + 128] = __shfl_down_sync(pk::kFullMask, v, 2);
  data[lane + 160] = float(__ballot_sync(pk::kFullMask, lane % 3 == 0) == 0x49249249u);
}

__global__ void half_warps(float* data, int) {  // each half sums itself, a different number of times, then they meet
  const bool low = threadIdx.x < 16;
  float v[1] = {data[threadIdx.x]};
  for (int turn = 0; turn < (low ? 1 : 3); ++turn)
    for (int step = 8; step > 0; step /= 2) v[0] += __shfl_xor_sync(low ? 0xffffu : 0xffff0000u, v[0], step);
  pk::warp_sum(v);
  data[threadIdx.x] = v[0];
}

__global__ void block_sums(float* data, int n) {
  __shared__ double shared[32 * 2];
  double v[2] = {double(data[threadIdx.x]), 1.0};
  pk::block_sum(v, shared);
  data[threadIdx.x] = float(v[0] + n * v[1]);
}

__global__ void early_return(float* data, int n) {  // threads that have returned are not waited for
  if (threadIdx.x % 2) return;
  __syncthreads();
  data[threadIdx.x] = float(n);
}

__global__ void vote_after_return(float* data, int) {
  if (threadIdx.x >= 5) return;
  data[threadIdx.x] = float(__ballot_sync(pk::kFullMask, threadIdx.x != 1));
}

__global__ void count(float* data, int) { atomicAdd(data, 1.0f); }

__global__ void indices(float* data, int n) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
  if (i < unsigned(n)) data[i] = float(i);
}

// --- wrong ---

__global__ void missing_barrier(float* data, int n) {
  __shared__ float shared[256];
  shared[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = shared[n - 1 - threadIdx.x];
}

__global__ void divergent_barrier(float* data, int) {
  if (threadIdx.x % 2) {
    __syncthreads();
    data[0] = 1;
  } else {
    __syncthreads();
    data[1] = 2;
  }
}

__global__ void mixed_intrinsics(float* data, int) {
  if (threadIdx.x < 16)
    data[threadIdx.x] = __shfl_xor_sync(pk::kFullMask, data[threadIdx.x], 1);
  else
    data[threadIdx.x] = float(__ballot_sync(pk::kFullMask, 1));
}

__global__ void different_masks(float* data, int) {
  data[threadIdx.x] = __shfl_xor_sync(threadIdx.x % 32 < 16 ? 0xffffffffu : 0xfffffffeu, data[threadIdx.x], 16);
}

__global__ void outside_mask(float* data, int) { data[threadIdx.x] = __shfl_sync(0xffffu, data[threadIdx.x], 0); }

__global__ void deadlock(float* data, int) {
  if (threadIdx.x == 0)
    __syncthreads();
  else
    data[threadIdx.x] = __shfl_sync(pk::kFullMask, data[threadIdx.x], 0);
}

__global__ void stack_overflow(float* data, int n) {
  volatile char large[80 << 10];
  for (int i = 0; i < int(sizeof(large)); ++i) large[i] = char(n);
  data[threadIdx.x] = large[threadIdx.x];
}

__global__ void out_of_bounds(float* data, int n) { data[threadIdx.x] = data[threadIdx.x + n - 31]; }

std::string message;

}  // namespace

// Runs a kernel by name; returns what it threw, or null.
extern "C" __attribute__((visibility("default"))) const char* run(const char* name, const unsigned* grid,
                                                                  const unsigned* block, int smem, float* data, int n) {
#define KERNEL(k) \
  {               \
    #k, k         \
  }
  const std::map<std::string, void (*)(float*, int)> kernels = {
      KERNEL(reverse_static),
      KERNEL(reverse_dynamic),
      KERNEL(dynamic_starts_as_nan),
      KERNEL(static_starts_as_nan),
      KERNEL(flag_starts_as_poison),
      KERNEL(shuffles),
      KERNEL(half_warps),
      KERNEL(block_sums),
      KERNEL(early_return),
      KERNEL(vote_after_return),
      KERNEL(count),
      KERNEL(indices),
      KERNEL(missing_barrier),
      KERNEL(divergent_barrier),
      KERNEL(mixed_intrinsics),
      KERNEL(different_masks),
      KERNEL(outside_mask),
      KERNEL(deadlock),
      KERNEL(stack_overflow),
      KERNEL(out_of_bounds),
  };
  try {
    PK_LAUNCH(kernels.at(name), dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), smem, pk::Stream{},
              data, n);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}
