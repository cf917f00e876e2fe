// AdamW on selected entries, on the CPU. The arithmetic is little beside the scattered memory accesses, so a chunk goes
// through four stages in blocks of 256 entries: find positions, gather, update with SIMD, scatter. The loads of a stage
// do not depend on each other, so many cache misses are under way at once; prefetching a block ahead was no faster.
// Chunks depend on the sizes alone and share no entry: any number of threads gives the same bits.
#include <algorithm>
#include <cstring>

#include "pk/adamw.h"
#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kBlock = kMomentBlock;
constexpr Int kChunkEntries = 64 * kBlock;
constexpr int kExpand = 6;  // bits of a word that are written without asking whether there are as many

// Positions of the selected entries from number `first` on, a block at a time.
class Reader {
 public:
  PK_HD Reader(const AdamTensor& t, Int first) : t_(t), next_(first) {
    if (t.index) return;
    const Int ranks = (t.size + kBlockEntries - 1) / kBlockEntries;
    const Int block = std::upper_bound(t.ranks, t.ranks + ranks, first) - t.ranks - 1;
    Int skip = first - t.ranks[block];
    word_ = block * kBlockWords;
    for (; word_ < words() && skip >= count_bits(t.words[word_]); ++word_) skip -= count_bits(t.words[word_]);
    std::uint64_t bits = word_ < words() ? t.words[word_] : 0;
    for (; skip > 0; --skip) bits &= bits - 1;
    extra_ = expand(bits, extras_);
  }

  // The next n <= kBlock positions into `to`, which has room for 64 more.
  PK_HD void read(Int* to, int n) {
    if (t_.index) {
      for (int i = 0; i < n; ++i) to[i] = t_.index[next_ + i];
      next_ += n;
      return;
    }
    std::memcpy(to, extras_, sizeof(extras_));
    int have = extra_;
    while (have < n && word_ < words()) have += expand(t_.words[word_], to + have);
    for (; have < n; ++have) to[have] = 0;  // a bitmap with too few bits: wrong, but inside the weight
    extra_ = have - n;
    std::memcpy(extras_, to + n, sizeof(extras_));
  }

 private:
  PK_HD Int words() const { return (t_.size + 63) / 64; }

  // Branches mispredict on random words: some positions are written whatever the word, which is enough for most.
  PK_HD int expand(std::uint64_t bits, Int* to) {
    const int n = count_bits(bits);
    const Int base = 64 * word_++;
    for (int k = 0; k < kExpand; ++k) to[k] = base + take_bit(bits);
    for (int k = kExpand; k < n; ++k) to[k] = base + take_bit(bits);
    return n;
  }
  static PK_HD int take_bit(std::uint64_t& bits) {
    const int bit = lowest_bit(bits);
    bits &= bits - 1;
    asm("" : "+r"(bits));  // or the compiler collects four positions in a vector, which takes twice as long
    return bit;
  }

  const AdamTensor& t_;
  Int next_, word_ = 0;
  int extra_ = 0;  // positions found already, of the word that the last block ended in
  Int extras_[64];
};

template <class T>
PK_HD void gather(const void* from, const Int* at, int n, acc_t<T>* to) {
  T raw[kBlock];
  for (int i = 0; i < n; ++i) raw[i] = static_cast<const T*>(from)[at[i]];
  for (int i = 0; i < n; ++i) to[i] = load(raw[i]);
}

// Gradients of entries e .. e + n, which lie `at`.
template <class G>
PK_HD void gradients(const AdamTensor& t, Int e, const Int* at, int n, acc_t<G>* to) {
  if (t.dense) return gather<G>(t.grad, at, n, to);
  const G* from = static_cast<const G*>(t.grad) + e;
  for (int i = 0; i < n; ++i) to[i] = load(from[i]);
}

template <class T>
PK_HD void scatter(void* to, const Int* at, int n, const acc_t<T>* from) {
  T raw[kBlock];
  for (int i = 0; i < n; ++i) raw[i] = store<T>(from[i]);
  for (int i = 0; i < n; ++i) static_cast<T*>(to)[at[i]] = raw[i];
}

// --- 8-bit moments ---

constexpr int kKeyBits = 7;                            // of the mantissa: then no key holds two midpoints
constexpr int kLowest = -22;                           // exponent of the smallest key; all below share it
constexpr int kKeys = -kLowest * (1 << kKeyBits) + 1;  // up to 1.0

// The bits of a float or double.
template <class A>
struct Format {
  static constexpr bool kDouble = sizeof(A) == 8;
  using Bits = std::conditional_t<kDouble, std::int64_t, std::int32_t>;
  static constexpr int kDropped = (kDouble ? 52 : 23) - kKeyBits;
  static constexpr Bits kLowestKey = Bits((kDouble ? 1023 : 127) + kLowest) << kKeyBits;
  static PK_HD Bits magnitude(A x) { return bit_cast<Bits>(x) & (kDouble ? Bits(INT64_MAX) : Bits(INT32_MAX)); }
};

// A codebook, and for each sign and key the code of the least value that has them.
struct Codebook {
  const float *values, *midpoints;  // (256)
  const unsigned char* first;       // (2, kKeys)

  template <class A>
  PK_HD void decode(const unsigned char* codes, A scale, int n, A* to) const {
    for (int i = 0; i < n; ++i) to[i] = A(values[codes[i]]) * scale;
  }

  // Codes of n <= kBlock values, nearest first; returns their scale.
  template <class A>
  PK_HD A encode(const A* from, int n, unsigned char* codes) const {
    using F = Format<A>;
    using Bits = typename F::Bits;
    Bits largest = 0;  // bits of magnitudes compare as the magnitudes do, with NaN above all: it spoils the block
    for (int i = 0; i < n; ++i) largest = std::max(largest, F::magnitude(from[i]));
    const A scale = bit_cast<A>(largest), divisor = scale > 0 ? scale : A(1);
    A ratio[kBlock];
    Bits key[kBlock];
    for (int i = 0; i < n; ++i) {
      ratio[i] = from[i] / divisor;
      const Bits above = std::max((F::magnitude(ratio[i]) >> F::kDropped) - F::kLowestKey, Bits(0));
      key[i] = std::min(above, Bits(kKeys - 1)) + (ratio[i] < 0 ? kKeys : 0);
    }
    for (int i = 0; i < n; ++i) {
      const int code = first[key[i]];
      codes[i] = static_cast<unsigned char>(code + (ratio[i] > A(midpoints[code])));
    }
    return scale;
  }
};

struct Codebooks {
  Codebook m, v;
};

// --- one chunk ---

template <bool kRoots, class A>
PK_HD void update(const AdamRule<A>& rule, const AdamTensor& t, int n, const A* __restrict g, A* __restrict value,
                  A* __restrict m, A* __restrict v) {
  const A rate = A(t.rate), root = A(t.inv_root_bias2);
  for (int i = 0; i < n; ++i) adam_update<kRoots>(rule, rate, root, g[i], value[i], m[i], v[i]);
}

// Entries e .. e + n of the tensor, which lie `at`.
template <class T>
PK_HD void step_block(const AdamTensor& t, const AdamRule<acc_t<T>>& rule, const Codebooks& books, Int e, const Int* at,
                      int n) {
  using A = acc_t<T>;
  A value[kBlock], grad[kBlock];
  if (t.values)
    std::memcpy(value, static_cast<const A*>(t.values) + e, n * sizeof(A));
  else
    gather<T>(t.weight, at, n, value);
  if (t.grad_dtype == t.dtype)
    gradients<T>(t, e, at, n, grad);
  else
    gradients<A>(t, e, at, n, grad);
  if (t.m_scale) {
    A m[kBlock], v[kBlock];
    auto *m_codes = static_cast<unsigned char*>(t.m) + e, *v_codes = static_cast<unsigned char*>(t.v) + e;
    A &m_scale = static_cast<A*>(t.m_scale)[e / kBlock], &v_scale = static_cast<A*>(t.v_scale)[e / kBlock];
    books.m.decode(m_codes, m_scale, n, m);
    books.v.decode(v_codes, v_scale, n, v);
    update<true>(rule, t, n, grad, value, m, v);
    m_scale = books.m.encode(m, n, m_codes);
    v_scale = books.v.encode(v, n, v_codes);
  } else {
    update<false>(rule, t, n, grad, value, static_cast<A*>(t.m) + e, static_cast<A*>(t.v) + e);
  }
  if (t.values) std::memcpy(static_cast<A*>(t.values) + e, value, n * sizeof(A));
  scatter<T>(t.weight, at, n, value);
}

template <class T>
struct Step {
  template <int B>
  PK_HD static void run(const AdamTensor& t, const AdamRule<acc_t<T>>& rule, const Codebooks& books, Int first,
                        Int last) {
    Int at[kBlock + 64];
    Reader reader(t, first);
    for (Int e = first; e < last; e += kBlock) {
      const int n = int(std::min<Int>(last - e, kBlock));
      reader.read(at, n);
      step_block<T>(t, rule, books, e, at, n);
    }
  }
};

struct Chunk {
  const AdamTensor* tensor;
  Int first, last;
};

}  // namespace

void sparse_adamw_cpu(Ints dtypes, Tensors weights, Tensors values, Ints grad_dtypes, Ints dense, Tensors grads,
                      Tensors m, Tensors v, Tensors m_scale, Tensors v_scale, Tensors index, Tensors words,
                      Tensors ranks, Ints sizes, Ints counts, Ints steps, Maybe codes, Maybe table, double lr,
                      double beta1, double beta2, double eps, double weight_decay, Threads threads) {
  const auto tensors = AdamLists{dtypes,  weights, values, grad_dtypes, dense, grads, m,      v,
                                 m_scale, v_scale, index,  words,       ranks, sizes, counts, steps}
                           .tensors(lr, beta1, beta2);
  std::vector<Chunk> chunks;
  for (const AdamTensor& t : tensors)
    for (Int first = 0; first < t.count; first += kChunkEntries)
      chunks.push_back({&t, first, std::min(first + kChunkEntries, t.count)});
  const float* const c = codes.as<float>();
  const unsigned char* const keys = table.as<unsigned char>();
  const Codebooks books = {{c, c + 256, keys}, {c + 512, c + 768, keys + 2 * kKeys}};
#pragma omp parallel for schedule(dynamic) num_threads(threads.count) if (chunks.size() > 1)
  for (std::size_t k = 0; k < chunks.size(); ++k)
    dispatch("sparse_adamw", chunks[k].tensor->dtype, [&](auto element) {
      using T = decltype(element);
      const AdamRule<acc_t<T>> rule(lr, beta1, beta2, eps, weight_decay);
      run_best<Step<T>>(*chunks[k].tensor, rule, books, chunks[k].first, chunks[k].last);
    });
}

}  // namespace pk
