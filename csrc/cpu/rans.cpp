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

template <int B>
struct Upto {  // how many of sixteen candidates begin at the slot or before
  PK_HD int operator()(const std::int32_t* c, std::int32_t slot) const {
    const auto candidates = load_counts<B>(c);
    Vec<std::int32_t, B> smaller;
    for (int i = 0; i < smaller.kRegisters; ++i) smaller.part[i] = candidates.part[i] <= slot;
    return -sum_lanes(smaller);  // true is -1
  }
};

struct Encode {
  template <int B, class Model>
  PK_HD static void run(const std::int32_t* symbols, Int n, const Model& model, std::uint8_t* out, Int capacity,
                        Int* size) {
    *size = encode_row(symbols, n, model, out, capacity);
  }
};

struct Decode {
  template <int B>
  PK_HD static void run(const std::uint8_t* in, Int bytes, const Counts& counts, const std::uint16_t* lookup,
                        int lookup_bits, std::int32_t* symbols, Int n, Int* damage) {
    const Search<Upto<B>> search{counts, lookup, lookup_bits, {}};
    *damage = Int(decode_row(in, bytes, search, counts.bits, symbols, n));
  }
};

struct DecodePmf {
  template <int B, class T>
  PK_HD static void run(const std::uint8_t* in, Int bytes, const Probabilities<T>& pmf, std::int32_t* room,
                        std::int32_t* symbols, Int n, Int* damage) {
    const ProbabilitySearch<T, Upto<B>> search{pmf, room, {}};
    *damage = Int(decode_row(in, bytes, search, pmf.bits, symbols, n));
  }
};

struct Pop {
  template <int B>
  PK_HD static void run(std::uint64_t* state, const std::int32_t* words, Int* size, const Counts& counts,
                        std::int32_t* symbols, Int n, Int* damage) {
    const Search<Upto<B>> search{counts, nullptr, 0, {}};
    *damage = Int(pop_row(state, words, size, search, counts.bits, symbols, n));
  }
};

struct Quantize {
  template <int B, class T>
  PK_HD static void run(const T* pmf, Int k, Int bits, std::int32_t* counts) {
    quantize_row(pmf, k, int(bits), counts);
  }
};

CountsOf counts_of(const void* counts, Maybe index, Int n, Int k, Int row_step, Int step, Int tables, Int bits) {
  return {static_cast<const std::int32_t*>(counts), index.as<std::int32_t>(), n, k, row_step, step, tables, int(bits)};
}

}  // namespace

void quantize_cdf_cpu(DType dtype, const void* pmf, void* counts, Int rows, Int k, Int bits, Threads threads) {
  dispatch_wide("quantize_cdf", dtype, [&](auto zero) {
    using T = decltype(zero);
#pragma omp parallel for num_threads(threads.count) if (rows * k > 4096)
    for (Int i = 0; i < rows; ++i)
      run_best<Quantize>(static_cast<const T*>(pmf) + i * k, k, bits, static_cast<std::int32_t*>(counts) + i * (k + 1));
  });
}

void rans_lookup_cpu(const void* counts, void* lookup, Int tables, Int k, Int bits, Int lookup_bits, Threads threads) {
#pragma omp parallel for num_threads(threads.count) if (tables > 1)
  for (Int i = 0; i < tables; ++i)
    fill_lookup(static_cast<const std::int32_t*>(counts) + i * (k + 1), k, int(bits), int(lookup_bits),
                static_cast<std::uint16_t*>(lookup) + (i << lookup_bits));
}

void rans_encode_cpu(const void* symbols, const void* counts, Maybe index, void* payload, void* sizes, Int b, Int n,
                     Int k, Int row_step, Int step, Int tables, Int bits, Int capacity, Threads threads) {
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (b > 1)
  for (Int i = 0; i < b; ++i)
    run_best<Encode>(static_cast<const std::int32_t*>(symbols) + i * n, n, all.row(i),
                     static_cast<std::uint8_t*>(payload) + i * capacity, capacity, static_cast<Int*>(sizes) + i);
}

void rans_encode_pmf_cpu(DType dtype, const void* symbols, const void* pmf, void* payload, void* sizes, Int b, Int n,
                         Int k, Int row_step, Int bits, Int capacity, Threads threads) {
  dispatch_wide("rans_encode_pmf", dtype, [&](auto zero) {
    using T = decltype(zero);
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (b > 1)
    for (Int i = 0; i < b; ++i)
      run_best<Encode>(static_cast<const std::int32_t*>(symbols) + i * n, n,
                       Probabilities<T>{static_cast<const T*>(pmf) + i * row_step, k, int(bits)},
                       static_cast<std::uint8_t*>(payload) + i * capacity, capacity, static_cast<Int*>(sizes) + i);
  });
}

void rans_decode_cpu(const void* payload, const void* offsets, const void* counts, Maybe index, Maybe lookup,
                     void* symbols, void* damage, Int b, Int n, Int k, Int row_step, Int step, Int tables, Int bits,
                     Int lookup_bits, Threads threads) {
  const Int* const at = static_cast<const Int*>(offsets);
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (b > 1)
  for (Int i = 0; i < b; ++i)
    run_best<Decode>(static_cast<const std::uint8_t*>(payload) + at[i], at[i + 1] - at[i], all.row(i),
                     lookup.as<std::uint16_t>(), int(lookup_bits), static_cast<std::int32_t*>(symbols) + i * n, n,
                     static_cast<Int*>(damage) + i);
}

void rans_decode_pmf_cpu(DType dtype, const void* payload, const void* offsets, const void* pmf, void* room,
                         void* symbols, void* damage, Int b, Int n, Int k, Int row_step, Int bits, Threads threads) {
  const Int* const at = static_cast<const Int*>(offsets);
  dispatch_wide("rans_decode_pmf", dtype, [&](auto zero) {
    using T = decltype(zero);
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (b > 1)
    for (Int i = 0; i < b; ++i)
      run_best<DecodePmf>(static_cast<const std::uint8_t*>(payload) + at[i], at[i + 1] - at[i],
                          Probabilities<T>{static_cast<const T*>(pmf) + i * row_step, k, int(bits)},
                          static_cast<std::int32_t*>(room) + i * (k + 1), static_cast<std::int32_t*>(symbols) + i * n,
                          n, static_cast<Int*>(damage) + i);
  });
}

void rans_push_cpu(const void* symbols, const void* counts, Maybe index, void* states, void* words, void* sizes, Int b,
                   Int n, Int k, Int row_step, Int step, Int tables, Int bits, Threads threads) {
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
#pragma omp parallel for num_threads(threads.count) if (b * n > 4096)
  for (Int i = 0; i < b; ++i)
    static_cast<Int*>(sizes)[i] =
        push_row(static_cast<const std::int32_t*>(symbols) + i * n, n, all.row(i),
                 static_cast<std::uint64_t*>(states) + i, static_cast<std::int32_t*>(words) + i * n);
}

void rans_pop_cpu(const void* counts, void* states, Maybe index, const void* words, void* sizes, void* symbols,
                  void* damage, Int b, Int n, Int k, Int row_step, Int step, Int tables, Int bits, Int room,
                  Threads threads) {
  const CountsOf all = counts_of(counts, index, n, k, row_step, step, tables, bits);
#pragma omp parallel for num_threads(threads.count) if (b * n > 4096)
  for (Int i = 0; i < b; ++i)
    run_best<Pop>(static_cast<std::uint64_t*>(states) + i, static_cast<const std::int32_t*>(words) + i * room,
                  static_cast<Int*>(sizes) + i, all.row(i), static_cast<std::int32_t*>(symbols) + i * n, n,
                  static_cast<Int*>(damage) + i);
}

}  // namespace pk
