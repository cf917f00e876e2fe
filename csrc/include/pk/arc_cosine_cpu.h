// What a layer of pk/arc_cosine.h needs of sixteen pairs of points.
#pragma once
#include "pk/arc_cosine.h"
#include "pk/vec_math.h"

namespace pk {

template <class A, int B>
PK_HD Vec<A, B> root_of(const Vec<A, B>& x) {
  return vec_sqrt(x);
}
template <class A, int B>
PK_HD Vec<A, B> asin_of(const Vec<A, B>& x) {
  return vec_asin(x);
}
template <class A, int B>
PK_HD Vec<A, B> inverse_of(const Vec<A, B>& x) {
  return map_registers(x, [](auto v) PK_INLINE { return A(1) / v; });
}
template <class A, int B>
PK_HD Vec<A, B> clamp_of(const Vec<A, B>& x, A limit) {
  return map_registers(x, [=](auto v) PK_INLINE {
    const auto most = decltype(v){} + limit, least = -most;
    v = v > most ? most : v;
    return v < least ? least : v;
  });
}

}  // namespace pk
