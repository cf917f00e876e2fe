// Element types, their conversion to the type they are accumulated in, and the switch from a runtime DType.
#pragma once
#include <cstdint>
#include <cstring>

#include "pk/error.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define PK_HD __host__ __device__ __forceinline__
#define PK_INLINE
#else
#define PK_HD inline __attribute__((always_inline))
// For lambdas inside kernels: only inlined code is compiled for the kernel's instruction set.
#define PK_INLINE __attribute__((always_inline))
#endif

namespace pk {

enum class DType : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };

struct half {
  std::uint16_t bits;
};
struct bfloat16 {
  std::uint16_t bits;
};

// The type sums and running state are kept in: float for half precision, else the type itself.
template <class T>
struct AccOf {
  using type = T;
};
template <>
struct AccOf<half> {
  using type = float;
};
template <>
struct AccOf<bfloat16> {
  using type = float;
};
template <class T>
using acc_t = typename AccOf<T>::type;

template <class To, class From>
PK_HD To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

PK_HD float load(float v) { return v; }
PK_HD double load(double v) { return v; }
PK_HD float load(bfloat16 v) { return bit_cast<float>(std::uint32_t(v.bits) << 16); }

// Conversions without branches, so that loops over them vectorize on every compiler; round to nearest even.
PK_HD float load(half v) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(v.bits));
#elif defined(__FLT16_MAX__)
  return float(bit_cast<_Float16>(v.bits));
#else
  const std::uint32_t magnitude = std::uint32_t(v.bits & 0x7fff) << 13, sign = std::uint32_t(v.bits & 0x8000) << 16;
  const float scaled = bit_cast<float>(magnitude) * 0x1p112f;  // also normalizes half's subnormals
  const std::uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return bit_cast<float>(bit_cast<std::uint32_t>(scaled) | special | sign);
#endif
}

template <class T>
PK_HD T store(acc_t<T> v);
template <>
PK_HD float store<float>(float v) {
  return v;
}
template <>
PK_HD double store<double>(double v) {
  return v;
}
template <>
PK_HD bfloat16 store<bfloat16>(float v) {
#ifdef __CUDA_ARCH__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
#else
  const std::uint32_t bits = bit_cast<std::uint32_t>(v);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return {std::uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
#endif
}
template <>
PK_HD half store<half>(float v) {
#ifdef __CUDA_ARCH__
  return {__half_as_ushort(__float2half_rn(v))};
#elif defined(__FLT16_MAX__)
  return {bit_cast<std::uint16_t>(_Float16(v))};
#else
  const std::uint32_t bits = bit_cast<std::uint32_t>(v), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const std::uint32_t odd = (magnitude >> 13) & 1u;
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + odd) >> 13;
  // Adding a power of two lets the floating-point unit round a subnormal result.
  const std::uint32_t subnormal = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  std::uint32_t result = magnitude < (113u << 23) ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;  // rounds beyond 65504
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return {std::uint16_t(result | sign)};
#endif
}

// Calls f(T{}) with the element type that `dtype` names.
template <class F>
void dispatch(const char* op, DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::f16:
      return f(half{});
    case DType::bf16:
      return f(bfloat16{});
  }
  fail(op, "unknown dtype code " + std::to_string(int(dtype)));
}

// The same for ops that take float32 and float64 only.
template <class F>
void dispatch_wide(const char* op, DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f64) return f(double{});
  fail(op, "takes float32 and float64 only, not dtype code " + std::to_string(int(dtype)));
}

}  // namespace pk
