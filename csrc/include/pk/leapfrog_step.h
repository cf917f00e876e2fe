// One step of asynchronous leapfrog in fixed point, for one element. Equations:
// python/probkernels/reference/leapfrog_step.py. Without branches or conversions that only some instruction sets have,
// so that loops vectorize everywhere. Sources that include this are compiled with -ffp-contract=off.
#pragma once
#include "pk/launch.h"
#include "pk/philox.h"

namespace pk {

constexpr double kLargestFixed = 0x1p60;  // of increments and states, so that no sum overflows
constexpr int kKeepShift = 10;            // damping keeps a multiple of 2^-10

// A rounded number, to nearest even, for |v| < 2^60; anything beyond. In two parts, each within a mantissa.
PK_HD std::int64_t to_fixed(double v) {
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer, in the lowest bits
  const std::uint64_t zero = bit_cast<std::uint64_t>(kRound);
  const double high = mul(v, 0x1p-30) + kRound, low = (v - mul(high - kRound, 0x1p30)) + kRound;
  return std::int64_t(((bit_cast<std::uint64_t>(high) - zero) << 30) + (bit_cast<std::uint64_t>(low) - zero));
}

// double(v), rounded once: both halves are exact.
PK_HD double from_fixed(std::int64_t v) {
  const std::uint64_t bits = std::uint64_t(v);
  const double high = bit_cast<double>((bits >> 32) ^ 0x4530000080000000u);         // 2^84 + 2^63 + high
  const double low = bit_cast<double>((bits & 0xffffffffu) | 0x4330000000000000u);  // 2^52 + low
  return (high - (0x1p84 + 0x1p63 + 0x1p52)) + low;
}

PK_HD std::int64_t sum_of(std::int64_t a, std::int64_t b) { return std::int64_t(std::uint64_t(a) + std::uint64_t(b)); }
PK_HD std::int64_t difference(std::int64_t a, std::int64_t b) {
  return std::int64_t(std::uint64_t(a) - std::uint64_t(b));
}
PK_HD std::uint64_t beyond(double v) { return (v < 0 ? -v : v) < kLargestFixed ? 0u : 1u; }  // NaN too

// What all elements share.
struct FrogRule {
  double scale;          // of the evaluation
  double first, second;  // moves of y, in units of p
  double alpha, last;    // of the next input, and of the state between both moves
  std::int64_t keep;     // 2^-10 of p that stays
  bool undo;
};

struct FrogState {
  std::int64_t y, p, rest;
};

PK_HD std::int64_t floor_quotient(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0); }

// p after the evaluation e, or before it; `rest` takes what damping would lose.
template <bool kDamped, bool kUndo>
PK_HD void kick(const FrogRule& rule, double e, FrogState* at, std::uint64_t* bad) {
  constexpr std::int64_t kLow = (1 << kKeepShift) - 1;
  const double value = mul(e, rule.scale);
  *bad |= beyond(value);
  if (kDamped && !kUndo) {
    const auto rest = std::int64_t((std::uint64_t(at->rest) << kKeepShift) + std::uint64_t(at->p & kLow));
    const std::int64_t share = floor_quotient(rest, rule.keep);
    at->p = sum_of((at->p >> kKeepShift) * rule.keep, rest - share * rule.keep);
    at->rest = share;
  }
  at->p = difference(to_fixed(value), at->p);
  if (kDamped && kUndo) {
    const std::int64_t share = floor_quotient(at->p, rule.keep);
    const auto rest =
        sum_of(std::int64_t(std::uint64_t(at->rest) * std::uint64_t(rule.keep)), at->p - share * rule.keep);
    at->p = std::int64_t((std::uint64_t(share) << kKeepShift) + std::uint64_t(rest & kLow));
    at->rest = rest >> kKeepShift;
  }
}

// Moves y twice; the state between and after as floating-point numbers.
PK_HD void move_twice(const FrogRule& rule, FrogState* at, double* between, double* after, std::uint64_t* bad) {
  const double p = from_fixed(at->p), first = mul(p, rule.first), second = mul(p, rule.second);
  const std::int64_t y = sum_of(at->y, to_fixed(first));
  *between = from_fixed(y);
  at->y = sum_of(y, to_fixed(second));
  *after = from_fixed(at->y);
  *bad |= beyond(first) | beyond(second) | beyond(*between) | beyond(*after);
}

// Cotangents of y and p before a step, from those after it, and that of the evaluation before.
template <class A>
struct FrogCotangents {
  A alpha, before, after, keep, scale;

  PK_HD void step(A along, A* to_y, A* to_p, A* out) const {
    *to_y = *to_y + mul(alpha, along);
    *to_p = (mul(before, *to_y) - mul(keep, *to_p)) + mul(after, *to_y);
    *out = mul(scale, *to_p);
  }
};

}  // namespace pk
