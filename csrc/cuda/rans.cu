// Entropy coding of rows of symbols on a GPU: a thread for each row. Equations: python/probkernels/reference/rans.py.
#include "pk/gpu.h"
#include "pk/launch.h"
#include "pk/rans.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kThreads = 64;

struct Upto {  // how many of sixteen candidates begin at the slot or before
  PK_HD int operator()(const std::int32_t* c, std::int32_t slot) const {
    int count = 0;
    for (int i = 0; i < 16; ++i) count += c[i] <= slot;
    return count;
  }
};

__global__ void __launch_bounds__(kThreads) encode_kernel(const std::int32_t* symbols, CountsOf counts,
                                                          std::uint8_t* payload, Int* sizes, Int b, Int capacity) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  sizes[row] = encode_row(symbols + row * counts.n, counts.n, counts.row(row), payload + row * capacity, capacity);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    encode_pmf_kernel(const std::int32_t* symbols, const T* pmf, std::uint8_t* payload, Int* sizes, Int b, Int n, Int k,
                      Int row_step, Int bits, Int capacity) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  const Probabilities<T> here{pmf + row * row_step, k, int(bits)};
  sizes[row] = encode_row(symbols + row * n, n, here, payload + row * capacity, capacity);
}

__global__ void __launch_bounds__(kThreads)
    decode_kernel(const std::uint8_t* payload, const Int* offsets, CountsOf counts, const std::uint16_t* lookup,
                  std::int32_t* symbols, Int* damage, Int b, int lookup_bits) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  const Search<Upto> search{counts.row(row), lookup, lookup_bits, {}};
  damage[row] = Int(decode_row(payload + offsets[row], offsets[row + 1] - offsets[row], search, counts.bits,
                               symbols + row * counts.n, counts.n));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    decode_pmf_kernel(const std::uint8_t* payload, const Int* offsets, const T* pmf, std::int32_t* room,
                      std::int32_t* symbols, Int* damage, Int b, Int n, Int k, Int row_step, Int bits) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  const ProbabilitySearch<T, Upto> search{{pmf + row * row_step, k, int(bits)}, room + row * (k + 1), {}};
  damage[row] =
      Int(decode_row(payload + offsets[row], offsets[row + 1] - offsets[row], search, int(bits), symbols + row * n, n));
}

__global__ void __launch_bounds__(kThreads) push_kernel(const std::int32_t* symbols, CountsOf counts,
                                                        std::uint64_t* states, std::int32_t* words, Int* sizes, Int b) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  const Int n = counts.n;
  sizes[row] = push_row(symbols + row * n, n, counts.row(row), states + row, words + row * n);
}

__global__ void __launch_bounds__(kThreads)
    pop_kernel(CountsOf counts, std::uint64_t* states, const std::int32_t* words, Int* sizes, std::int32_t* symbols,
               Int* damage, Int b, Int room) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= b) return;
  const Search<Upto> search{counts.row(row), nullptr, 0, {}};
  damage[row] = Int(
      pop_row(states + row, words + row * room, sizes + row, search, counts.bits, symbols + row * counts.n, counts.n));
}

__global__ void __launch_bounds__(kThreads)
    lookup_kernel(const std::int32_t* counts, std::uint16_t* lookup, Int tables, Int k, int bits, int lookup_bits) {
  const Int i = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (i < tables) fill_lookup(counts + i * (k + 1), k, bits, lookup_bits, lookup + (i << lookup_bits));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const T* pmf, std::int32_t* counts, Int rows, Int k, Int bits) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row < rows) quantize_row(pmf + row * k, k, int(bits), counts + row * (k + 1));
}

unsigned blocks(Int rows) { return unsigned((rows + kThreads - 1) / kThreads); }

CountsOf counts_of(const void* counts, Maybe index, Int n, Int k, Int row_step, Int step, Int tables, Int bits) {
  return {static_cast<const std::int32_t*>(counts), index.as<std::int32_t>(), n, k, row_step, step, tables, int(bits)};
}

}  // namespace

void quantize_cdf_cuda(DType dtype, const void* pmf, void* counts, Int rows, Int k, Int bits, Stream stream) {
  dispatch_wide("quantize_cdf", dtype, [&](auto zero) {
    using T = decltype(zero);
    PK_LAUNCH(quantize_kernel<T>, blocks(rows), kThreads, 0, stream, static_cast<const T*>(pmf),
              static_cast<std::int32_t*>(counts), rows, k, bits);
  });
}

void rans_lookup_cuda(const void* counts, void* lookup, Int tables, Int k, Int bits, Int lookup_bits, Stream stream) {
  PK_LAUNCH(lookup_kernel, blocks(tables), kThreads, 0, stream, static_cast<const std::int32_t*>(counts),
            static_cast<std::uint16_t*>(lookup), tables, k, int(bits), int(lookup_bits));
}

void rans_encode_cuda(const void* symbols, const void* counts, Maybe index, void* payload, void* sizes, Int b, Int n,
                      Int k, Int row_step, Int step, Int tables, Int bits, Int capacity, Stream stream) {
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
  PK_LAUNCH(encode_kernel, blocks(b), kThreads, 0, stream, static_cast<const std::int32_t*>(symbols), all,
            static_cast<std::uint8_t*>(payload), static_cast<Int*>(sizes), b, capacity);
}

void rans_encode_pmf_cuda(DType dtype, const void* symbols, const void* pmf, void* payload, void* sizes, Int b, Int n,
                          Int k, Int row_step, Int bits, Int capacity, Stream stream) {
  dispatch_wide("rans_encode_pmf", dtype, [&](auto zero) {
    using T = decltype(zero);
    PK_LAUNCH(encode_pmf_kernel<T>, blocks(b), kThreads, 0, stream, static_cast<const std::int32_t*>(symbols),
              static_cast<const T*>(pmf), static_cast<std::uint8_t*>(payload), static_cast<Int*>(sizes), b, n, k,
              row_step, bits, capacity);
  });
}

void rans_decode_cuda(const void* payload, const void* offsets, const void* counts, Maybe index, Maybe lookup,
                      void* symbols, void* damage, Int b, Int n, Int k, Int row_step, Int step, Int tables, Int bits,
                      Int lookup_bits, Stream stream) {
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
  PK_LAUNCH(decode_kernel, blocks(b), kThreads, 0, stream, static_cast<const std::uint8_t*>(payload),
            static_cast<const Int*>(offsets), all, lookup.as<std::uint16_t>(), static_cast<std::int32_t*>(symbols),
            static_cast<Int*>(damage), b, int(lookup_bits));
}

void rans_decode_pmf_cuda(DType dtype, const void* payload, const void* offsets, const void* pmf, void* room,
                          void* symbols, void* damage, Int b, Int n, Int k, Int row_step, Int bits, Stream stream) {
  dispatch_wide("rans_decode_pmf", dtype, [&](auto zero) {
    using T = decltype(zero);
    PK_LAUNCH(decode_pmf_kernel<T>, blocks(b), kThreads, 0, stream, static_cast<const std::uint8_t*>(payload),
              static_cast<const Int*>(offsets), static_cast<const T*>(pmf), static_cast<std::int32_t*>(room),
              static_cast<std::int32_t*>(symbols), static_cast<Int*>(damage), b, n, k, row_step, bits);
  });
}

void rans_push_cuda(const void* symbols, const void* counts, Maybe index, void* states, void* words, void* sizes, Int b,
                    Int n, Int k, Int row_step, Int step, Int tables, Int bits, Stream stream) {
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
  PK_LAUNCH(push_kernel, blocks(b), kThreads, 0, stream, static_cast<const std::int32_t*>(symbols), all,
            static_cast<std::uint64_t*>(states), static_cast<std::int32_t*>(words), static_cast<Int*>(sizes), b);
}

void rans_pop_cuda(const void* counts, void* states, Maybe index, const void* words, void* sizes, void* symbols,
                   void* damage, Int b, Int n, Int k, Int row_step, Int step, Int tables, Int bits, Int room,
                   Stream stream) {
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
  PK_LAUNCH(pop_kernel, blocks(b), kThreads, 0, stream, all, static_cast<std::uint64_t*>(states),
            static_cast<const std::int32_t*>(words), static_cast<Int*>(sizes), static_cast<std::int32_t*>(symbols),
            static_cast<Int*>(damage), b, room);
}

}  // namespace pk
