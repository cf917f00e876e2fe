// Bytes under an adaptive model of order k, for the kernels on the CPU and on a GPU. A byte is eight decisions, each
// with a probability that follows what came before in the same context. Equations:
// python/probkernels/reference/adaptive_code.py.
#pragma once
#include "pk/range_coder.h"

namespace pk {

struct Decision {
  std::uint16_t one, seen;  // probability of a one, of 65536; how often the decision was met
};

constexpr std::int64_t kMostContexts = 1 << 12;  // of order 2 and more, which share by a hash
constexpr int kMostSeen = 127;                   // later decisions weigh 2 / (2 * 127 + 3)
constexpr std::uint32_t kFloor = 32;             // no probability is smaller

PK_HD std::int64_t decisions(std::int64_t order) {
  return order == 0 ? 256 : order == 1 ? 1 << 16 : kMostContexts << 8;
}

// Of the last bytes, the latest in the lowest bits: where the decisions of their context begin.
PK_HD std::int64_t context(std::uint64_t before, std::int64_t order) {
  if (order < 2) return order ? std::int64_t(before & 255) << 8 : 0;
  const std::uint64_t kept = before & ((std::uint64_t(1) << (8 * order)) - 1);
  return std::int64_t(kept * 0x9E3779B97F4A7C15u >> 52) << 8;
}

PK_HD void clear(Decision* table, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) table[i] = {32768, 0};
}

// Calls coder(width of a one of 2^24, place, decisions so far), which says what is decided.
template <class Coder>
PK_HD void walk_bytes(Decision* table, std::int64_t order, std::int64_t n, Coder&& coder) {
  std::uint64_t before = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    Decision* const here = table + context(before, order);
    std::uint32_t node = 1;
    while (node < 256) {
      Decision& d = here[node];
      const std::uint32_t p = d.one < kFloor ? kFloor : d.one > 65536 - kFloor ? 65536 - kFloor : d.one;
      const bool one = coder(p << 8, i, node);
      const std::uint32_t rate = 2u * d.seen + 3;
      d.one = one ? d.one + 2 * (65535u - d.one) / rate : d.one - 2u * d.one / rate;
      d.seen += d.seen < kMostSeen;
      node = 2 * node + one;
    }
    before = before << 8 | (node & 255);
  }
}

PK_HD std::int64_t encode_bytes(Decision* table, std::int64_t order, const std::uint8_t* bytes, std::int64_t n,
                                std::uint8_t* out) {
  RangeEncoder coder{out};
  walk_bytes(table, order, n, [&](std::uint32_t width, std::int64_t i, std::uint32_t node) PK_INLINE {
    int left = 7;
    for (std::uint32_t k = node; k > 1; k >>= 1) --left;
    const bool one = bytes[i] >> left & 1;
    coder.put(one ? 0 : width, one ? width : (1u << kBits) - width);
    return one;
  });
  return coder.finish();
}

PK_HD Damage decode_bytes(Decision* table, std::int64_t order, const std::uint8_t* in, std::int64_t size,
                          std::int64_t n, std::uint8_t* out) {
  RangeDecoder coder{in, size};
  coder.start();
  walk_bytes(table, order, n, [&](std::uint32_t width, std::int64_t i, std::uint32_t node) PK_INLINE {
    const bool one = coder.slot() < width;
    coder.take(one ? 0 : width, one ? width : (1u << kBits) - width);
    out[i] = std::uint8_t(2 * node + one);  // the last of eight leaves the byte
    return one;
  });
  return coder.finish();
}

}  // namespace pk
