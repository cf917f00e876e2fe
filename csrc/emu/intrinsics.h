// CUDA's device functions on the emulator, as far as our kernels use them. Included by cuemu.h alone. The last two
// parameters of those that wait are filled in by the compiler with the place of the call.
#pragma once

#define CUEMU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUEMU_PLACE) { cuemu::wait(cuemu::State::at_barrier, {"__syncthreads", file, line}); }
inline void __syncwarp(unsigned mask = ~0u, CUEMU_PLACE) {
  cuemu::wait(cuemu::State::in_warp, {"__syncwarp", file, line}, mask);
}
template <class T>
T __shfl_sync(unsigned mask, T v, int source, CUEMU_PLACE) {
  return cuemu::exchange({"__shfl_sync", file, line}, mask, v, source & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, CUEMU_PLACE) {
  return cuemu::exchange({"__shfl_xor_sync", file, line}, mask, v, cuemu::lane() ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, int delta, CUEMU_PLACE) {
  return cuemu::exchange({"__shfl_down_sync", file, line}, mask, v, cuemu::lane() + delta);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, int delta, CUEMU_PLACE) {
  return cuemu::exchange({"__shfl_up_sync", file, line}, mask, v, cuemu::lane() - delta);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUEMU_PLACE) {
  cuemu::exchange({"__ballot_sync", file, line}, mask, predicate != 0, 0);
  unsigned votes = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) votes |= unsigned(cuemu::block->threads[(cuemu::block->current & ~31) + l].received & 1) << l;
  return votes;
}
template <class T>
T atomicAdd(T* address, T v) {
  T seen, sum;
  __atomic_load(address, &seen, __ATOMIC_RELAXED);
  do sum = seen + v;
  while (!__atomic_compare_exchange(address, &seen, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return seen;
}
template <class T>
T atomicOr(T* address, T v) {
  return __atomic_fetch_or(address, v, __ATOMIC_RELAXED);
}
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
void __stwb(T* address, T v) {
  *address = v;
}
inline float rsqrt(float v) { return 1.0f / sqrtf(v); }
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
