// Deterministic row-parallel reduction on the CPU: the split into chunks depends on the sizes alone, never on the
// number of threads, and partial results are combined in order, so every thread count gives the same bits.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "pk/launch.h"

namespace pk {

constexpr std::int64_t kMaxChunks = 32;      // enough threads to fill a memory bus
constexpr std::int64_t kMinChunkRows = 512;  // fewer rows would not repay a partial result

struct Chunks {
  std::int64_t rows, count;
  std::int64_t begin(std::int64_t chunk) const { return rows * chunk / count; }
};

inline Chunks split_rows(std::int64_t rows) {
  return {rows, std::clamp<std::int64_t>(rows / kMinChunkRows, 1, kMaxChunks)};
}

// Runs body(first_row, last_row, sums) for every chunk and returns the sums (width,) of all chunks in double.
template <class Body>
std::vector<double> reduce_rows(std::int64_t rows, std::int64_t width, Threads threads, Body&& body) {
  const Chunks chunks = split_rows(rows);
  std::vector<double> partial(chunks.count * width, 0.0);
#pragma omp parallel for schedule(static) num_threads(threads.count) if (chunks.count > 1)
  for (std::int64_t k = 0; k < chunks.count; ++k) body(chunks.begin(k), chunks.begin(k + 1), &partial[k * width]);
  for (std::int64_t k = 1; k < chunks.count; ++k)
    for (std::int64_t i = 0; i < width; ++i) partial[i] += partial[k * width + i];
  partial.resize(width);
  return partial;
}

}  // namespace pk
