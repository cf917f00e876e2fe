// The types a launcher's parameters may have besides numbers and pointers. A plain pointer is never null.
#pragma once
#include <cstdint>

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

struct Threads {  // how many OpenMP threads to use
  int count;
};

struct Stream {  // a cudaStream_t; null is the default stream
  void* handle;
};

}  // namespace pk
