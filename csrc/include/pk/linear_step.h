// What the kernels of a sampler's step share. Equations: python/probkernels/reference/linear_step.py.
#pragma once
#include <algorithm>

#include "pk/launch.h"
#include "pk/philox.h"

namespace pk {

constexpr int kMostTensors = 8;  // inputs, and outputs

// Inputs of (rows, n) elements. Groups of rows share coefficients: all rows are one group, or each row is its own.
template <class T>
struct StepInputs {
  const T* x[kMostTensors];
  int inputs, outputs;
  std::int64_t groups, rows, n;
  Seeds seeds;

  PK_HD std::int64_t size() const { return rows * n; }
};

template <class T>
StepInputs<T> step_inputs(const Tensors& x, std::int64_t groups, std::int64_t rows, std::int64_t n,
                          std::int64_t outputs, const Seeds& seeds) {
  const auto inputs = std::int64_t(x.ptr.size());
  if (inputs < 1 || inputs > kMostTensors || outputs < 1 || outputs > kMostTensors)
    fail("linear_step", "takes one to eight inputs and outputs");
  StepInputs<T> all{{}, int(inputs), int(outputs), groups, rows, n, seeds};
  for (int i = 0; i < all.inputs; ++i) all.x[i] = x.at<const T>(i);
  return all;
}

// Coefficients (groups, outputs, inputs) and of noise (groups, outputs), or null without noise.
struct Coefficients {
  const double *of_inputs, *of_noise;
};

}  // namespace pk
