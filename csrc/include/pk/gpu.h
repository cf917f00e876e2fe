// One source, two compilers: nvcc, or for tests a C++ compiler with csrc/emu, which runs kernels on the CPU.
//
// PK_LAUNCH(kernel, grid, block, dynamic shared bytes, stream, arguments...) throws when the launch fails. Put a
// kernel with template arguments in parentheses. PK_DYN_SMEM(T, name) declares T* name, the dynamic shared memory.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "pk/launch.h"

#ifdef PK_EMULATE
#include <cuemu.h>
#define PK_LAUNCH(kernel, grid, block, smem, stream, ...) \
  ((void)(stream), cuemu::launch(kernel, grid, block, smem, __VA_ARGS__))
#define PK_DYN_SMEM(T, name) CUEMU_DYN_SMEM(T, name)
#else
#include <cuda_runtime.h>
#define PK_LAUNCH(kernel, grid, block, smem, stream, ...)                                   \
  do {                                                                                      \
    kernel<<<grid, block, smem, static_cast<cudaStream_t>((stream).handle)>>>(__VA_ARGS__); \
    ::pk::check_cuda(cudaGetLastError(), #kernel);                                          \
  } while (0)
#define PK_DYN_SMEM(T, name)                               \
  extern __shared__ __align__(16) unsigned char pk_smem[]; \
  T* name = reinterpret_cast<T*>(pk_smem)
#endif

namespace pk {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;

#ifdef PK_EMULATE

template <class Kernel>
std::int64_t resident_blocks(Kernel, int) {
  return 40;  // enough for small inputs to be cut into many chunks
}
inline void* allocate(std::size_t bytes, Stream) { return std::memset(::operator new(bytes), 0xff, bytes); }  // NaN
inline void release(void* memory, Stream) { ::operator delete(memory); }

#else

inline void check_cuda(cudaError_t error, const char* where) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(where) + ": " + cudaGetErrorString(error));
}

inline int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

// How many blocks of `kernel` the current device runs at once; a grid of that many keeps it busy to the end.
template <class Kernel>
std::int64_t resident_blocks(Kernel kernel, int threads) {
  int processors = 0, blocks = 0;
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, current_device()), "device attribute");
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0), "kernel occupancy");
  return std::int64_t(processors) * blocks;
}

// The pool of the current device that scratch memory comes from. It keeps what it once allocated: the default pool
// would hand everything back to the driver at each synchronization.
inline cudaMemPool_t scratch_pool() {
  static std::mutex lock;
  static std::map<int, cudaMemPool_t> pools;
  const std::lock_guard<std::mutex> guard(lock);
  const int device = current_device();
  cudaMemPool_t& pool = pools[device];
  if (!pool) {
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    check_cuda(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
    std::uint64_t keep = UINT64_MAX;
    check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
  }
  return pool;
}

inline void* allocate(std::size_t bytes, Stream stream) {
  void* memory = nullptr;
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  check_cuda(cudaMallocFromPoolAsync(&memory, bytes, scratch_pool(), handle), "scratch memory");
  return memory;
}
inline void release(void* memory, Stream stream) { cudaFreeAsync(memory, static_cast<cudaStream_t>(stream.handle)); }

#endif

// Uninitialized scratch memory of one launcher call, allocated and freed in stream order: nothing waits for it, and it
// is legal while the stream is captured into a graph.
template <class T>
class Scratch {
 public:
  Scratch(std::int64_t count, Stream stream)
      : memory_(static_cast<T*>(count ? allocate(count * sizeof(T), stream) : nullptr)), stream_(stream) {}
  ~Scratch() {
    if (memory_) release(memory_, stream_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return memory_; }

 private:
  T* memory_;
  Stream stream_;
};

}  // namespace pk
