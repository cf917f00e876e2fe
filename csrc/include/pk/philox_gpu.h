// Four neighboring elements of a row for each thread of a GPU, which is what one counter gives numbers for; they are
// moved by one instruction where every row of every tensor is aligned to that.
#pragma once
#include "pk/gpu.h"
#include "pk/philox.h"

namespace pk {

constexpr int kQuadThreads = 256;

struct Quad {
  std::int64_t row, counter, first;  // first: the place of its first element in (rows, n)
  int count;                         // elements; 0 beyond the end
};

__device__ __forceinline__ Quad quad_of(std::int64_t index, std::int64_t rows, std::int64_t n) {
  const std::int64_t counters = (n + 3) / 4, row = index / counters, counter = index - row * counters;
  const std::int64_t left = n - 4 * counter;
  return {row, counter, row * n + 4 * counter, row >= rows ? 0 : left < 4 ? int(left) : 4};
}
__device__ __forceinline__ Quad quad_of_thread(std::int64_t rows, std::int64_t n) {
  return quad_of(std::int64_t(blockIdx.x) * kQuadThreads + threadIdx.x, rows, n);
}
inline dim3 quad_grid(std::int64_t rows, std::int64_t n) {
  return dim3(unsigned((rows * ((n + 3) / 4) + kQuadThreads - 1) / kQuadThreads));
}

template <class T>
struct alignas(4 * sizeof(T)) FourOf {
  T element[4];
};
// Whether quads of all rows of these tensors, of n elements of T, can be moved at once.
template <class T, class... Pointers>
bool quads_are_aligned(std::int64_t n, Pointers... pointers) {
  return n % 4 == 0 && ((reinterpret_cast<std::uintptr_t>(pointers) % (4 * sizeof(T)) == 0) && ...);
}

template <bool kWide, class T>
__device__ __forceinline__ void load_quad(const T* from, int count, acc_t<T> (&to)[4]) {
  if (kWide) {
    const auto four = *reinterpret_cast<const FourOf<T>*>(from);
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = load(four.element[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = k < count ? load(from[k]) : acc_t<T>(0);
  }
}

template <bool kWide, class T>
__device__ __forceinline__ void store_quad(T* to, int count, const acc_t<T> (&from)[4]) {
  if (kWide) {
    FourOf<T> four;
#pragma unroll
    for (int k = 0; k < 4; ++k) four.element[k] = store<T>(from[k]);
    *reinterpret_cast<FourOf<T>*>(to) = four;
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (k < count) to[k] = store<T>(from[k]);
  }
}

template <class A>
__device__ __forceinline__ void normals(const Words& words, A (&four)[4]) {
  box_muller(words.word[0], words.word[1], four);
  box_muller(words.word[2], words.word[3], four + 2);
}

}  // namespace pk
