// What ops on rows of logits share on the CPU: loads whose missing lanes have probability 0, and tasks of whole rows.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "pk/launch.h"
#include "pk/vec.h"

namespace pk {

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

// The first elements at p; the other lanes are -infinity, of which the exponential is 0.
template <int B, class T>
PK_HD Vec<acc_t<T>, B> load_logits(const T* p, Full) {
  return load_vec<B>(p);
}
template <int B, class T>
PK_HD Vec<acc_t<T>, B> load_logits(const T* p, int n) {
  T some[kLanes];
  std::fill(some, some + kLanes, store<T>(-kInfinity<acc_t<T>>));
  copy_some(some, p, n * sizeof(T));
  return load_vec<B>(static_cast<const T*>(some));
}

// Calls body(first, last) for blocks of `each` rows.
template <class Body>
void for_tasks(std::int64_t rows, std::int64_t each, Threads threads, Body&& body) {
  const std::int64_t tasks = (rows + each - 1) / each;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (tasks > 1)
  for (std::int64_t task = 0; task < tasks; ++task) body(task * each, std::min(rows, (task + 1) * each));
}

}  // namespace pk
