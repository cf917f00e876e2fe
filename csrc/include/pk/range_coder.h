// A range coder of bytes with symbols of 24 bits: for rows that are coded one after another, as it ends within a byte
// of what the symbols cost, where the states of rANS would be left over. Equations: "The stream" in
// docs/pages/ops/program_code.md.
#pragma once
#include "pk/program.h"

namespace pk {

constexpr std::uint64_t kLeastRange = std::uint64_t(1) << 56;  // ranges stay in [2^56, 2^64)

struct RangeEncoder {
  std::uint8_t* out;
  std::int64_t at = 0;
  std::uint64_t low = 0, range = ~std::uint64_t(0);

  PK_HD void put(std::uint32_t below, std::uint32_t width) {
    const std::uint64_t unit = range >> kBits;
    add(unit * below);
    range = unit * width;
    for (; range < kLeastRange; range <<= 8, low <<= 8) out[at++] = std::uint8_t(low >> 56);
  }

  // Ends the stream with the first multiple of 2^56 that is no lower; returns the length, without zeros at the end.
  PK_HD std::int64_t finish() {
    add(kLeastRange - 1);
    out[at++] = std::uint8_t(low >> 56);
    while (at > 0 && !out[at - 1]) --at;
    return at;
  }

 private:
  PK_HD void add(std::uint64_t more) {
    low += more;
    if (low < more)  // the carry ends before the first byte: no symbol leaves the range
      for (std::int64_t i = at - 1; !++out[i]; --i) {
      }
  }
};

struct RangeDecoder {
  const std::uint8_t* in;
  std::int64_t bytes, at = 0;
  std::uint64_t code = 0, range = ~std::uint64_t(0);  // code: how far the stream is above the range's lower end
  bool is_wrong = false;

  PK_HD void start() {
    for (int i = 0; i < 8; ++i) code = code << 8 | next();
  }
  PK_HD std::uint32_t slot() {
    const std::uint64_t found = code / (range >> kBits), most = (std::uint64_t(1) << kBits) - 1;
    is_wrong |= found > most;
    return std::uint32_t(found > most ? most : found);
  }
  PK_HD void take(std::uint32_t below, std::uint32_t width) {
    const std::uint64_t unit = range >> kBits;
    code -= unit * below;
    range = unit * width;
    for (; range < kLeastRange; range <<= 8) code = code << 8 | next();
  }
  // Whether the stream is the one that the encoder makes.
  PK_HD Damage finish() const {
    if (is_wrong || code >= kLeastRange || (bytes > 0 && !in[bytes - 1])) return Damage::kState;
    return bytes > at - 7 ? Damage::kLeft : Damage::kNone;
  }

 private:
  PK_HD std::uint8_t next() {  // zeros after the end
    const std::int64_t i = at++;
    return i < bytes ? in[i] : 0;
  }
};

}  // namespace pk
