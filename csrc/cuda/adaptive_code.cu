// Adaptive coding of bytes on a GPU: a thread for each chunk, with a model of its own, as every byte waits for the one
// before. Equations: python/probkernels/reference/adaptive_code.py.
#include "pk/adaptive.h"
#include "pk/gpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 32;
constexpr Int kInFlight = 1 << 10;  // chunks at a time, which bounds the memory of their models

__global__ void __launch_bounds__(kThreads) encode_kernel(const std::uint8_t* bytes, std::uint8_t* payload, Int* sizes,
                                                          Decision* tables, Int n, Int each, Int order, Int capacity) {
  const Int chunk = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (chunk * each >= n) return;
  Decision* const table = tables + chunk * decisions(order);
  clear(table, decisions(order));
  const Int left = n - chunk * each;
  sizes[chunk] =
      encode_bytes(table, order, bytes + chunk * each, left < each ? left : each, payload + chunk * capacity);
}

__global__ void __launch_bounds__(kThreads)
    decode_kernel(const std::uint8_t* payload, const Int* offsets, const Int* starts, std::uint8_t* bytes, Int* damage,
                  Decision* tables, Int chunks, Int order) {
  const Int chunk = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (chunk >= chunks) return;
  Decision* const table = tables + chunk * decisions(order);
  clear(table, decisions(order));
  damage[chunk] = Int(decode_bytes(table, order, payload + offsets[chunk], offsets[chunk + 1] - offsets[chunk],
                                   starts[chunk + 1] - starts[chunk], bytes + starts[chunk]));
}

unsigned blocks(Int chunks) { return unsigned((chunks + kThreads - 1) / kThreads); }

}  // namespace

void adaptive_encode_cuda(const void* bytes, void* payload, void* sizes, Int n, Int each, Int order, Int capacity,
                          Stream stream) {
  const Int chunks = (n + each - 1) / each, most = chunks < kInFlight ? chunks : kInFlight;
  const Scratch<Decision> tables(most * decisions(order), stream);
  for (Int first = 0; first < chunks; first += most) {
    const Int count = chunks - first < most ? chunks - first : most, begin = first * each;
    const Int bytes_here = n - begin < count * each ? n - begin : count * each;
    PK_LAUNCH(encode_kernel, blocks(count), kThreads, 0, stream, static_cast<const std::uint8_t*>(bytes) + begin,
              static_cast<std::uint8_t*>(payload) + first * capacity, static_cast<Int*>(sizes) + first, tables.data(),
              bytes_here, each, order, capacity);
  }
}

void adaptive_decode_cuda(const void* payload, const void* offsets, const void* starts, void* bytes, void* damage,
                          Int chunks, Int order, Stream stream) {
  const Int most = chunks < kInFlight ? chunks : kInFlight;
  const Scratch<Decision> tables(most * decisions(order), stream);
  for (Int first = 0; first < chunks; first += most) {
    const Int count = chunks - first < most ? chunks - first : most;
    PK_LAUNCH(decode_kernel, blocks(count), kThreads, 0, stream, static_cast<const std::uint8_t*>(payload),
              static_cast<const Int*>(offsets) + first, static_cast<const Int*>(starts) + first,
              static_cast<std::uint8_t*>(bytes), static_cast<Int*>(damage) + first, tables.data(), count, order);
  }
}

}  // namespace pk
