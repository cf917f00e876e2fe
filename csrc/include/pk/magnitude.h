// Magnitudes as unsigned integers: with the sign cleared, the bits of floating-point numbers are ordered as the numbers
// are, and NaN lies above infinity. So comparing needs no conversion and is the same for every element type.
#pragma once
#include "pk/dtype.h"

namespace pk {

template <class T>
struct MagnitudeOf;
template <>
struct MagnitudeOf<float> {
  using type = std::uint32_t;
  static constexpr type kInfinity = 0x7f800000u;
};
template <>
struct MagnitudeOf<double> {
  using type = std::uint64_t;
  static constexpr type kInfinity = 0x7ff0000000000000u;
};
template <>
struct MagnitudeOf<half> {
  using type = std::uint16_t;
  static constexpr type kInfinity = 0x7c00;
};
template <>
struct MagnitudeOf<bfloat16> {
  using type = std::uint16_t;
  static constexpr type kInfinity = 0x7f80;
};
template <class T>
using magnitude_t = typename MagnitudeOf<T>::type;

template <class T>
constexpr magnitude_t<T> kInfinity = MagnitudeOf<T>::kInfinity;

template <class T>
PK_HD magnitude_t<T> magnitude(T v) {
  using U = magnitude_t<T>;
  return U(bit_cast<U>(v) & U(~U(0)) >> 1);
}

// The magnitudes low .. low + size - 1.
template <class T>
struct Range {
  using U = magnitude_t<T>;
  U low, size;

  PK_HD bool has(U magnitude) const { return U(magnitude - low) < size; }

  // |w| < threshold, or |w| > threshold; the threshold is rounded to T as torch rounds it.
  static Range of(double threshold, bool largest) {
    const T limit = store<T>(acc_t<T>(threshold));
    const U at = magnitude(limit), all = U(kInfinity<T> + 1);
    if (at > kInfinity<T>) return {0, 0};                                  // NaN
    if (bit_cast<U>(limit) != at && at) return {0, largest ? all : U(0)};  // below zero
    return largest ? Range{U(at + 1), U(kInfinity<T> - at)} : Range{0, at};
  }
};

// One 16-bit digit of the magnitudes of A = float or double, of those whose digits above it are `prefix`.
template <class A>
struct Digit {
  using U = magnitude_t<A>;
  int shift;
  bool highest;
  U prefix;

  Digit(int level, std::int64_t prefix)
      : shift(8 * int(sizeof(U)) - 16 * (level + 1)), highest(level == 0), prefix(U(prefix)) {}
  PK_HD bool has(U magnitude) const { return highest || magnitude >> (shift + 16) == prefix; }
  PK_HD unsigned of(U magnitude) const { return unsigned(magnitude >> shift) & 0xffff; }
};

constexpr int kDigits = 1 << 16;

}  // namespace pk
