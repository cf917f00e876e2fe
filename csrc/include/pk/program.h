// What a compiled circuit looks like to the coders on the CPU and on a GPU, and the coder of single symbols. The
// arithmetic is named f32-fma-seq-v2; equations and the meaning of rows: python/probkernels/reference/program_code.py.
#pragma once
#include <cstdint>

#include "pk/dtype.h"

namespace pk {

constexpr float kLeast = 1e-30f;     // smaller results become 0: what a machine does with subnormals cannot matter
constexpr int kBits = 24;            // of a probability in the stream
constexpr float kUnit = 1.0f / 256;  // a leaf's scale: 65536 is all
constexpr std::uint64_t kLower = std::uint64_t(1) << 32;  // states stay in [2^32, 2^64)

enum class ProgramOp : std::int32_t { kFill, kMatvec, kMultiply, kContract, kOuter, kRescale, kCode, kLeaf };

struct Instruction {
  ProgramOp op;
  std::int32_t dst, a, b, n, m, stride, step, more;
};

struct Variable {
  std::int64_t table, categories, units, likely;  // where its table begins; a value to try first
};

struct Program {
  const Instruction* code;  // (rows)
  const float* weights;
  const std::uint16_t* tables;  // of every variable (categories, units): counts below a category
  const Variable* variables;    // (V)
  std::int64_t rows, registers, v;
};

enum class Damage : std::int64_t { kNone, kShort, kState, kLeft };

// Puts a symbol on a state; `emit` takes the word that overflows.
template <class Emit>
PK_HD std::uint64_t rans_push(std::uint64_t state, std::uint32_t below, std::uint32_t width, Emit&& emit) {
  const std::uint64_t f = width;
  if (state >> 40 >= f) {
    emit(std::uint32_t(state));
    state >>= 32;
  }
  return (state / f << kBits) + state % f + below;
}

PK_HD std::uint64_t rans_pop(std::uint64_t state, std::uint32_t below, std::uint32_t width) {
  const std::uint32_t slot = std::uint32_t(state) & ((1u << kBits) - 1);
  return std::uint64_t(width) * (state >> kBits) + (slot - below);
}

}  // namespace pk
