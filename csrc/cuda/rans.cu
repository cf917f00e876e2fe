// Entropy coding of rows of symbols on a GPU: a thread for each row. Equations: python/probkernels/reference/rans.py.
#include "pk/gpu.h"
#include "pk/rans.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 64;

__global__ void __launch_bounds__(kThreads)
    encode_kernel(const std::int32_t* symbols, const std::int32_t* counts, std::uint8_t* payload, Int* sizes, Int b,
                  Int n, Int k, Int row_step, Int step, Int bits, Int capacity) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  const Counts here{counts + row * row_step, k, step, int(bits)};
  sizes[row] = encode_row(symbols + row * n, n, here, payload + row * capacity, capacity);
}

__global__ void __launch_bounds__(kThreads)
    decode_kernel(const std::uint8_t* payload, const Int* offsets, const std::int32_t* counts, std::int32_t* symbols,
                  Int* damage, Int b, Int n, Int k, Int row_step, Int step, Int bits) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  const Counts here{counts + row * row_step, k, step, int(bits)};
  const auto upto = [](const std::int32_t* c, std::int32_t slot) {
    int count = 0;
    for (int i = 0; i < 16; ++i) count += c[i] <= slot;
    return count;
  };
  damage[row] =
      Int(decode_row(payload + offsets[row], offsets[row + 1] - offsets[row], here, symbols + row * n, n, upto));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const T* pmf, std::int32_t* counts, Int rows, Int k, Int bits) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row < rows) quantize_row(pmf + row * k, k, int(bits), counts + row * (k + 1));
}

unsigned blocks(Int rows) { return unsigned((rows + kThreads - 1) / kThreads); }

}  // namespace

void quantize_cdf_cuda(DType dtype, const void* pmf, void* counts, Int rows, Int k, Int bits, Stream stream) {
  dispatch_wide("quantize_cdf", dtype, [&](auto zero) {
    using T = decltype(zero);
    PK_LAUNCH(quantize_kernel<T>, blocks(rows), kThreads, 0, stream, static_cast<const T*>(pmf),
              static_cast<std::int32_t*>(counts), rows, k, bits);
  });
}

void rans_encode_cuda(const void* symbols, const void* counts, void* payload, void* sizes, Int b, Int n, Int k,
                      Int row_step, Int step, Int bits, Int capacity, Stream stream) {
  PK_LAUNCH(encode_kernel, blocks(b), kThreads, 0, stream, static_cast<const std::int32_t*>(symbols),
            static_cast<const std::int32_t*>(counts), static_cast<std::uint8_t*>(payload), static_cast<Int*>(sizes), b,
            n, k, row_step, step, bits, capacity);
}

void rans_decode_cuda(const void* payload, const void* offsets, const void* counts, void* symbols, void* damage, Int b,
                      Int n, Int k, Int row_step, Int step, Int bits, Stream stream) {
  PK_LAUNCH(decode_kernel, blocks(b), kThreads, 0, stream, static_cast<const std::uint8_t*>(payload),
            static_cast<const Int*>(offsets), static_cast<const std::int32_t*>(counts),
            static_cast<std::int32_t*>(symbols), static_cast<Int*>(damage), b, n, k, row_step, step, bits);
}

}  // namespace pk
