// Selecting by magnitude on the CPU, in one pass over the weight, and the histograms that find a k-th magnitude.
// Both work on the bits of the numbers: pk/magnitude.h.
#include "pk/magnitude.h"
#include "pk/parallel.h"
#include "pk/selection.h"
#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kSpan = 16;           // blocks of 512 entries that a thread takes at a time
constexpr int kAsked = 2 * kLanes;  // entries asked at a time whether one of them counts: below the first digit few do

// Bit i says whether w[i] is in range, for the first n of up to 64 entries.
template <class T>
PK_HD std::uint64_t select_word(const T* w, int n, const Range<T>& range) {
  std::uint8_t flags[kWordEntries] = {};
  if (n == kWordEntries)
    for (int i = 0; i < kWordEntries; ++i) flags[i] = range.has(magnitude(w[i]));
  else
    for (int i = 0; i < n; ++i) flags[i] = range.has(magnitude(w[i]));
  std::uint64_t word = 0;
  for (int i = 0; i < kWordEntries; i += 8) {
    std::uint64_t eight;
    memcpy(&eight, flags + i, sizeof(eight));
    word |= eight * 0x0102040810204080u >> 56 << i;  // the product's top byte has byte k's lowest bit as its bit k
  }
  return word;
}

// Words and counts of the blocks first .. last of w (n).
struct Select {
  template <int, class T>
  PK_HD static void run(const T* w, Int n, const Range<T>& range, std::uint64_t* words, std::int32_t* counts, Int first,
                        Int last) {
    for (Int block = first; block < last; ++block) {
      const Int begin = block * kBlockEntries, end = std::min(n, begin + kBlockEntries);
      int count = 0;
      for (Int at = begin; at < end; at += kWordEntries) {
        const auto word = select_word(w + at, int(std::min<Int>(end - at, kWordEntries)), range);
        words[at / kWordEntries] = word;
        count += count_bits(word);
      }
      counts[block] = count;
    }
  }
};

// counts (65536) += how often each digit occurs in w (n).
struct Histogram {
  template <int B, class T>
  PK_HD static void run(const T* w, Int n, const Digit<acc_t<T>>& digit, Int* counts) {
    using A = acc_t<T>;
    using U = magnitude_t<A>;
    for (Int i = 0; i < n; i += kAsked) {
      const int some = int(std::min<Int>(n - i, kAsked));
      U m[kAsked];
      for (int at = 0; at < kAsked; at += kLanes) {
        const T* const from = w + i + std::min(at, some);
        const auto wide = at + kLanes <= some ? load_vec<B>(from) : load_vec<B>(from, std::max(some - at, 0));
        memcpy(m + at, &wide, sizeof(wide));
      }
      for (int k = 0; k < kAsked; ++k) m[k] = magnitude(bit_cast<A>(m[k]));
      if (!digit.highest) {
        U hits = 0;
        for (int k = 0; k < kAsked; ++k) hits |= U(m[k] >> (digit.shift + 16) == digit.prefix);
        if (!hits) continue;
      }
      for (int k = 0; k < some; ++k)
        if (m[k] <= kInfinity<A> && digit.has(m[k])) ++counts[digit.of(m[k])];
    }
  }
};

}  // namespace

void magnitude_select_cpu(DType dtype, const void* w, void* words, void* ranks, Int n, double threshold, bool largest,
                          Threads threads) {
  auto* const counts = static_cast<std::int32_t*>(ranks);
  const Int blocks = (n + kBlockEntries - 1) / kBlockEntries, spans = (blocks + kSpan - 1) / kSpan;
  dispatch("magnitude_select", dtype, [&](auto element) {
    using T = decltype(element);
    const auto range = Range<T>::of(threshold, largest);
#pragma omp parallel for schedule(static) num_threads(threads.count) if (spans > 1)
    for (Int span = 0; span < spans; ++span)
      run_best<Select>(static_cast<const T*>(w), n, range, static_cast<std::uint64_t*>(words), counts, span * kSpan,
                       std::min(blocks, (span + 1) * kSpan));
  });
  std::uint32_t before = 0;  // unsigned: more than an int32 can say goes round, which the caller looks for
  for (Int block = 0; block < blocks; ++block) {
    const auto count = std::uint32_t(counts[block]);
    counts[block] = std::int32_t(before);
    before += count;
  }
}

void magnitude_histogram_cpu(DType dtype, const void* w, void* histogram, Int n, Int level, Int prefix,
                             Threads threads) {
  auto* const total = static_cast<Int*>(histogram);
  const Chunks chunks{n, std::clamp<Int>(n / (4 * kDigits), 1, threads.count)};
  dispatch("magnitude_histogram", dtype, [&](auto element) {
    using T = decltype(element);
    const Digit<acc_t<T>> digit(int(level), prefix);
#pragma omp parallel for schedule(static) num_threads(threads.count) if (chunks.count > 1)
    for (Int k = 0; k < chunks.count; ++k) {
      std::vector<Int> counts(kDigits);
      const Int first = chunks.begin(k);
      run_best<Histogram>(static_cast<const T*>(w) + first, chunks.begin(k + 1) - first, digit, counts.data());
#pragma omp critical(magnitude_histogram)
      for (int d = 0; d < kDigits; ++d) total[d] += counts[d];
    }
  });
}

}  // namespace pk
