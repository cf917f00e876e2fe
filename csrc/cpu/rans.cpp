// Entropy coding of rows of symbols on the CPU: threads take rows. Equations: python/probkernels/reference/rans.py.
#include "pk/rans.h"

#include "pk/launch.h"
#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

template <int B>
PK_HD Vec<std::int32_t, B> load_counts(const std::int32_t* p) {
  Vec<std::int32_t, B> v;
  memcpy(&v, p, sizeof(v));
  return v;
}

struct Encode {
  template <int B>
  PK_HD static void run(const std::int32_t* symbols, Int n, const Counts& counts, std::uint8_t* out, Int capacity,
                        Int* size) {
    *size = encode_row(symbols, n, counts, out, capacity);
  }
};

struct Decode {
  template <int B>
  PK_HD static void run(const std::uint8_t* in, Int bytes, const Counts& counts, std::int32_t* symbols, Int n,
                        Int* damage) {
    const auto upto = [](const std::int32_t* c, std::int32_t slot) PK_INLINE {
      const auto candidates = load_counts<B>(c);
      Vec<std::int32_t, B> smaller;
      for (int i = 0; i < smaller.kRegisters; ++i) smaller.part[i] = candidates.part[i] <= slot;
      return -sum_lanes(smaller);  // true is -1
    };
    *damage = Int(decode_row(in, bytes, counts, symbols, n, upto));
  }
};

struct Quantize {
  template <int B, class T>
  PK_HD static void run(const T* pmf, Int k, Int bits, std::int32_t* counts) {
    quantize_row(pmf, k, int(bits), counts);
  }
};

}  // namespace

void quantize_cdf_cpu(DType dtype, const void* pmf, void* counts, Int rows, Int k, Int bits, Threads threads) {
  dispatch_wide("quantize_cdf", dtype, [&](auto zero) {
    using T = decltype(zero);
#pragma omp parallel for num_threads(threads.count) if (rows * k > 4096)
    for (Int i = 0; i < rows; ++i)
      run_best<Quantize>(static_cast<const T*>(pmf) + i * k, k, bits, static_cast<std::int32_t*>(counts) + i * (k + 1));
  });
}

void rans_encode_cpu(const void* symbols, const void* counts, void* payload, void* sizes, Int b, Int n, Int k,
                     Int row_step, Int step, Int bits, Int capacity, Threads threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (b > 1)
  for (Int i = 0; i < b; ++i) {
    const Counts here{static_cast<const std::int32_t*>(counts) + i * row_step, k, step, int(bits)};
    run_best<Encode>(static_cast<const std::int32_t*>(symbols) + i * n, n, here,
                     static_cast<std::uint8_t*>(payload) + i * capacity, capacity, static_cast<Int*>(sizes) + i);
  }
}

void rans_decode_cpu(const void* payload, const void* offsets, const void* counts, void* symbols, void* damage, Int b,
                     Int n, Int k, Int row_step, Int step, Int bits, Threads threads) {
  const Int* const at = static_cast<const Int*>(offsets);
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (b > 1)
  for (Int i = 0; i < b; ++i) {
    const Counts here{static_cast<const std::int32_t*>(counts) + i * row_step, k, step, int(bits)};
    run_best<Decode>(static_cast<const std::uint8_t*>(payload) + at[i], at[i + 1] - at[i], here,
                     static_cast<std::int32_t*>(symbols) + i * n, n, static_cast<Int*>(damage) + i);
  }
}

}  // namespace pk
