// What a compiled circuit looks like to the coders on the CPU and on a GPU. The arithmetic is named f32-fma-seq-v2;
// equations and the meaning of rows: python/probkernels/reference/program_code.py.
#pragma once
#include <cstdint>

#include "pk/rans.h"

namespace pk {

constexpr float kLeast = 1e-30f;     // smaller results become 0: what a machine does with subnormals cannot matter
constexpr int kBits = 24;            // of a probability in the stream
constexpr float kUnit = 1.0f / 256;  // a leaf's scale: 65536 is all

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

}  // namespace pk
