// Blocks of random numbers on the CPU: plain loops over counters, which the compiler vectorizes for the instruction set
// of the kernel that they are inlined into.
#pragma once
#include <algorithm>
#include <utility>

#include "pk/philox.h"
#include "pk/vec.h"

namespace pk {

constexpr int kBlock = 256;  // elements of a block

// Philox over lanes of 64 bits, whose lower halves are the words: one instruction multiplies them.
template <int B>
struct WideWords {
  using Register = typename Vec<std::uint64_t, B>::Register;
  using Halves = typename Vec<std::uint32_t, B>::Register;
  static constexpr int kLanes64 = B / 8;

  PK_HD static Register load(const std::uint64_t* from) {
    Register lanes;
    memcpy(&lanes, from, B);
    return lanes;
  }

  PK_HD static Register product(Register a, Register b) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)  // which do not see that the upper halves are zero
    using Signed = typename Vec<std::int32_t, B>::Register;
    if constexpr (B == 16) return (Register)__builtin_ia32_pmuludq128((Signed)a, (Signed)b);
    if constexpr (B == 32) return (Register)__builtin_ia32_pmuludq256((Signed)a, (Signed)b);
    typedef long long Lanes __attribute__((vector_size(B)));
    if constexpr (B == 64) return (Register)__builtin_ia32_pmuludq512_mask((Signed)a, (Signed)b, Lanes{}, 0xff);
#endif
    return (a & 0xffffffffu) * (b & 0xffffffffu);
  }

  // The words of 2 kLanes64 counters; the lower halves of c, key0 and key1 count.
  PK_HD static void rounds(Register (&c)[4][2], Register (&key0)[2], Register (&key1)[2]) {
    const Register by0 = Register{} + 0xD2511F53u, by1 = Register{} + 0xCD9E8D57u;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round)
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) {
        const Register first = product(c[0][r], by0), second = product(c[2][r], by1);
        c[0][r] = (second >> 32) ^ c[1][r] ^ key0[r];
        c[1][r] = second;
        c[2][r] = (first >> 32) ^ c[3][r] ^ key1[r];
        c[3][r] = first;
        key0[r] += 0x9E3779B9u;
        key1[r] += 0xBB67AE85u;
      }
  }

  // The lower halves of two registers.
  PK_HD static Halves lower(const Register (&c)[2]) {
#if __has_builtin(__builtin_shufflevector)
    return shuffled(c, std::make_integer_sequence<int, 2 * kLanes64>{});
#else
    Halves half;
    for (int i = 0; i < 2 * kLanes64; ++i) half[i] = std::uint32_t(c[i / kLanes64][i % kLanes64]);
    return half;
#endif
  }

#if __has_builtin(__builtin_shufflevector)
 private:
  template <int... lane>
  PK_HD static Halves shuffled(const Register (&c)[2], std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector((Halves)c[0], (Halves)c[1], (2 * lane)...);
  }
#endif
};

// Makes numbers for up to kBlock neighboring elements of (rows, n), which may lie in several rows.
template <class A>
class NoiseBlock {
 public:
  // The numbers of elements first .. last - 1, which stay valid until the next call. make(words, A* four) turns the
  // four words of a counter into numbers.
  template <int B, class Make>
  PK_HD const A* draw(const Seeds& seeds, std::int64_t n, std::int64_t first, std::int64_t last, Make&& make) {
    int counters = 0, pieces = 0;
    for (std::int64_t at = first; at < last; ++pieces) {
      const std::int64_t b = at / n, begin = at - b * n, end = std::min(n, begin + (last - at));
      const std::int64_t key = seeds.key(b);
      const int start = counters;
      const int count = int((end + 3) / 4 - begin / 4);
      for (int i = 0; i < count; ++i) {
        counter_[start + i] = std::uint64_t(begin / 4 + i);
        row_[start + i] = seeds.number(b);
        key0_[start + i] = std::uint64_t(key);
        key1_[start + i] = std::uint64_t(key) >> 32;
      }
      counters += count;
      at += end - begin;
    }
    words<B>(counters, seeds.step);
    make(word_, counters, four_);
    if (pieces == 1) return four_ + first % n % 4;
    return pack(n, first, last);
  }

 private:
  static constexpr int kCounters = kBlock + 16;  // rows of one element, or one that begins inside a counter; whole vectors

  template <int B>
  PK_HD void words(int counters, std::int64_t step) {
    using Wide = WideWords<B>;
    using Register = typename Wide::Register;
    for (int i = 0; i < counters; i += 2 * Wide::kLanes64) {
      Register c[4][2], key0[2], key1[2];
      for (int r = 0; r < 2; ++r) {
        const int at = i + r * Wide::kLanes64;
        c[0][r] = Wide::load(counter_ + at);
        c[1][r] = Wide::load(row_ + at);
        c[2][r] = Register{} + std::uint64_t(step);
        c[3][r] = Register{} + (std::uint64_t(step) >> 32);
        key0[r] = Wide::load(key0_ + at);
        key1[r] = Wide::load(key1_ + at);
      }
      Wide::rounds(c, key0, key1);
      for (int k = 0; k < 4; ++k) {
        const auto half = Wide::lower(c[k]);
        memcpy(word_[k] + i, &half, sizeof(half));
      }
    }
  }

  // Without what the counters of each row's ends have more.
  PK_HD const A* pack(std::int64_t n, std::int64_t first, std::int64_t last) {
    const A* from = four_;
    for (std::int64_t at = first; at < last;) {
      const std::int64_t begin = at % n, end = std::min(n, begin + (last - at));
      for (std::int64_t i = begin; i < end; ++i) packed_[at - first + i - begin] = from[begin % 4 + i - begin];
      from += 4 * ((end + 3) / 4 - begin / 4);
      at += end - begin;
    }
    return packed_;
  }

  alignas(64) std::uint64_t counter_[kCounters] = {}, row_[kCounters] = {}, key0_[kCounters] = {}, key1_[kCounters] = {};
  alignas(64) std::uint32_t word_[4][kCounters];
  alignas(64) A four_[4 * kCounters];
  alignas(64) A packed_[kBlock + kLanes];
};

// Normal numbers of counters: what `make` is.
struct MakeNormal {
  template <class A, int N>
  PK_HD void operator()(const std::uint32_t (&word)[4][N], int counters, A* four) const {
    A apart[4][N];  // loops that interleave as well do not vectorize
    for (int pair = 0; pair < 4; pair += 2)
      for (int i = 0; i < counters; ++i) {
        A z[2];
        box_muller(word[pair][i], word[pair + 1][i], z);
        apart[pair][i] = z[0];
        apart[pair + 1][i] = z[1];
      }
    for (int i = 0; i < counters; ++i)
      for (int k = 0; k < 4; ++k) four[4 * i + k] = apart[k][i];
  }
};

template <class T>
struct MakeUniform {
  template <class A, int N>
  PK_HD void operator()(const std::uint32_t (&word)[4][N], int counters, A* four) const {
    for (int i = 0; i < counters; ++i)
      for (int k = 0; k < 4; ++k) four[4 * i + k] = uniform<T>(word[k][i]);
  }
};

// Normal numbers of elements first .. last - 1, valid until the next call. Compiled once, in philox.cpp: inlined into
// every kernel they were most of what there was to compile.
const float* draw_normal(NoiseBlock<float>& noise, const Seeds& seeds, std::int64_t n, std::int64_t first,
                         std::int64_t last);
const double* draw_normal(NoiseBlock<double>& noise, const Seeds& seeds, std::int64_t n, std::int64_t first,
                          std::int64_t last);

}  // namespace pk
