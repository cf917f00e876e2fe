// The types a launcher's parameters may have besides numbers and pointers. A plain pointer is never null.
#pragma once
#include <cstdint>
#include <vector>

#include "pk/dtype.h"

namespace pk {

// A tensor that may be absent. `ptr` is null exactly then.
struct Maybe {
  const void* ptr;
  template <class T>
  const T* as() const {
    return static_cast<const T*>(ptr);
  }
};

// A list of tensors, of which an empty one counts as absent. The whole list may be absent too.
struct Tensors {
  std::vector<void*> ptr;  // null: absent
  template <class T>
  T* at(std::int64_t i) const {
    return static_cast<T*>(ptr.empty() ? nullptr : ptr[i]);
  }
};

using Ints = std::vector<std::int64_t>;  // a list of integers

struct Threads {  // how many OpenMP threads to use
  int count;
};

struct Stream {  // a cudaStream_t; null is the default stream
  void* handle;
};

}  // namespace pk
