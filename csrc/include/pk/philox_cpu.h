// Blocks of random numbers on the CPU: plain loops over counters, which the compiler vectorizes for the instruction set
// of the kernel that they are inlined into.
#pragma once
#include <algorithm>

#include "pk/philox.h"
#include "pk/vec.h"

namespace pk {

constexpr int kBlock = 256;  // elements of a block

// Makes numbers for up to kBlock neighboring elements of (rows, n), which may lie in several rows.
template <class A>
class NoiseBlock {
 public:
  // The numbers of elements first .. last - 1, which stay valid until the next call. make(words, A* four) turns the
  // four words of a counter into numbers.
  template <class Make>
  PK_HD const A* draw(const Seeds& seeds, std::int64_t n, std::int64_t first, std::int64_t last, Make&& make) {
    int counters = 0, pieces = 0;
    for (std::int64_t at = first; at < last; ++pieces) {
      const std::int64_t b = at / n, begin = at - b * n, end = std::min(n, begin + (last - at));
      const std::int64_t key = seeds.key(b);
      const int start = counters;
      const int count = int((end + 3) / 4 - begin / 4);
      for (int i = 0; i < count; ++i) {
        counter_[start + i] = std::uint32_t(begin / 4 + i);
        row_[start + i] = seeds.number(b);
        key0_[start + i] = std::uint32_t(key);
        key1_[start + i] = std::uint32_t(key >> 32);
      }
      counters += count;
      at += end - begin;
    }
    const std::uint32_t step0 = std::uint32_t(seeds.step), step1 = std::uint32_t(seeds.step >> 32);
    for (int i = 0; i < counters; ++i) {
      const Words words = philox({{counter_[i], row_[i], step0, step1}}, key0_[i], key1_[i]);
      for (int k = 0; k < 4; ++k) word_[k][i] = words.word[k];
    }
    make(word_, counters, four_);
    if (pieces == 1) return four_ + first % n % 4;
    return pack(n, first, last);
  }

 private:
  static constexpr int kCounters = kBlock + 1;  // rows of one element; or a row that begins inside a counter

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

  std::uint32_t counter_[kCounters], row_[kCounters], key0_[kCounters], key1_[kCounters], word_[4][kCounters];
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
