// Adaptive coding of bytes on the CPU: threads take chunks, each with a model of its own. Equations:
// python/probkernels/reference/adaptive_code.py.
#include <vector>

#include "pk/adaptive.h"
#include "pk/launch.h"

namespace pk {

void adaptive_encode_cpu(const void* bytes, void* payload, void* sizes, std::int64_t n, std::int64_t each,
                         std::int64_t order, std::int64_t capacity, Threads threads) {
  const std::int64_t chunks = (n + each - 1) / each;
#pragma omp parallel num_threads(threads.count) if (chunks > 1)
  {
    std::vector<Decision> table(decisions(order));
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < chunks; ++i) {
      clear(table.data(), table.size());
      static_cast<std::int64_t*>(sizes)[i] =
          encode_bytes(table.data(), order, static_cast<const std::uint8_t*>(bytes) + i * each,
                       n - i * each < each ? n - i * each : each, static_cast<std::uint8_t*>(payload) + i * capacity);
    }
  }
}

void adaptive_decode_cpu(const void* payload, const void* offsets, const void* starts, void* bytes, void* damage,
                         std::int64_t chunks, std::int64_t order, Threads threads) {
  const auto *at = static_cast<const std::int64_t*>(offsets), *first = static_cast<const std::int64_t*>(starts);
#pragma omp parallel num_threads(threads.count) if (chunks > 1)
  {
    std::vector<Decision> table(decisions(order));
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < chunks; ++i) {
      clear(table.data(), table.size());
      static_cast<std::int64_t*>(damage)[i] = std::int64_t(
          decode_bytes(table.data(), order, static_cast<const std::uint8_t*>(payload) + at[i], at[i + 1] - at[i],
                       first[i + 1] - first[i], static_cast<std::uint8_t*>(bytes) + first[i]));
    }
  }
}

}  // namespace pk
