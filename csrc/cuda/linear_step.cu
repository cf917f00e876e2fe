// A sampler's step on a GPU: one launch and one pass over all tensors, four neighbors a thread. Products and sums are
// rounded one by one, as on the CPU. Dots are cut by sizes alone and added up in a fixed order.
#include "pk/block.h"
#include "pk/linear_step.h"
#include "pk/philox_gpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunkQuads = 4096;  // of a partial sum

template <bool kWide, class T>
__global__ void __launch_bounds__(kQuadThreads)
    step_kernel(const __grid_constant__ StepInputs<T> in, Coefficients coefficients, T* y) {
  using A = acc_t<T>;
  const Quad at = quad_of_thread(in.rows, in.n);
  if (at.count == 0) return;
  const Int group = in.groups == 1 ? 0 : at.row;
  A x[kMostTensors][4], z[4];
#pragma unroll
  for (int i = 0; i < kMostTensors; ++i)
    if (i < in.inputs) load_quad<kWide>(in.x[i] + at.first, at.count, x[i]);
  if (coefficients.of_noise) normals(in.seeds.words(at.row, at.counter), z);
  for (int o = 0; o < in.outputs; ++o) {
    const double* const c = coefficients.of_inputs + (group * in.outputs + o) * in.inputs;
    A sum[4];
#pragma unroll
    for (int i = 0; i < kMostTensors; ++i)
      if (i < in.inputs)
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[k] = i ? sum[k] + mul(x[i][k], A(c[i])) : mul(x[i][k], A(c[i]));
    if (coefficients.of_noise) {
      const A d = A(coefficients.of_noise[group * in.outputs + o]);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] = sum[k] + mul(z[k], d);
    }
    store_quad<kWide>(y + o * in.size() + at.first, at.count, sum);
  }
}

// A block for each output of each chunk: partial (groups, chunks, outputs, inputs and noise).
template <bool kWide, class T>
__global__ void __launch_bounds__(kQuadThreads)
    dots_kernel(const __grid_constant__ StepInputs<T> in, const T* y, bool noisy, Int chunks, double* partial) {
  using A = acc_t<T>;
  __shared__ double shared[kQuadThreads / kWarp * (kMostTensors + 1)];
  const Int chunk = blockIdx.x / in.outputs, group = chunk / chunks, o = blockIdx.x % in.outputs;
  const Int rows = in.rows / in.groups, quads = rows * ((in.n + 3) / 4), first = chunk % chunks * kChunkQuads;
  const Int last = first + kChunkQuads < quads ? first + kChunkQuads : quads;
  double sum[kMostTensors + 1] = {};
  for (Int q = first + threadIdx.x; q < last; q += kQuadThreads) {
    const Quad at = quad_of(group * quads + q, in.rows, in.n);
    A along[4], x[4];
    load_quad<kWide>(y + o * in.size() + at.first, at.count, along);
#pragma unroll
    for (int i = 0; i < kMostTensors; ++i)
      if (i < in.inputs) {
        load_quad<kWide>(in.x[i] + at.first, at.count, x);
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[i] += double(along[k]) * double(x[k]);
      }
    if (!noisy) continue;
    normals(in.seeds.words(at.row, at.counter), x);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[kMostTensors] += k < at.count ? double(along[k]) * double(x[k]) : 0.0;
  }
  block_sum(sum, shared);
  if (threadIdx.x) return;
  double* const to = partial + Int(blockIdx.x) * (in.inputs + noisy);
#pragma unroll
  for (int i = 0; i < kMostTensors; ++i)
    if (i < in.inputs) to[i] = sum[i];
  if (noisy) to[in.inputs] = sum[kMostTensors];
}

// A block for each of the sums (groups, width).
__global__ void __launch_bounds__(kQuadThreads) sum_kernel(const double* partial, double* sums, Int chunks, Int width) {
  __shared__ double shared[kQuadThreads / kWarp];
  const Int group = blockIdx.x / width, i = blockIdx.x % width;
  double sum[1] = {};
  for (Int chunk = threadIdx.x; chunk < chunks; chunk += kQuadThreads)
    sum[0] += partial[(group * chunks + chunk) * width + i];
  block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum[0];
}

template <class T>
bool aligned(const StepInputs<T>& in, const void* y) {
  bool all = quads_are_aligned<T>(in.n, y);
  for (int i = 0; i < in.inputs; ++i) all = all && quads_are_aligned<T>(in.n, in.x[i]);
  return all;
}

}  // namespace

void linear_step_cuda(DType dtype, Tensors x, const void* coefficients, Maybe noise, Maybe seeds, void* y, Int groups,
                      Int rows, Int n, Int outputs, Int seed, Int row, Int step, Stream stream) {
  dispatch("linear_step", dtype, [&](auto element) {
    using T = decltype(element);
    const auto in = step_inputs<T>(x, groups, rows, n, outputs, {seeds.as<Int>(), seed, row, step});
    const Coefficients all{static_cast<const double*>(coefficients), noise.as<double>()};
    const auto kernel = aligned(in, y) ? step_kernel<true, T> : step_kernel<false, T>;
    PK_LAUNCH(kernel, quad_grid(rows, n), dim3(kQuadThreads), 0, stream, in, all, static_cast<T*>(y));
  });
}

void linear_step_dots_cuda(DType dtype, Tensors x, const void* y, Maybe seeds, void* sums, void* scratch, Int groups,
                           Int rows, Int n, Int outputs, bool noisy, Int seed, Int row, Int step, Stream stream) {
  dispatch("linear_step_dots", dtype, [&](auto element) {
    using T = decltype(element);
    const auto in = step_inputs<T>(x, groups, rows, n, outputs, {seeds.as<Int>(), seed, row, step});
    const Int chunks = (rows / groups * ((n + 3) / 4) + kChunkQuads - 1) / kChunkQuads;
    const Int width = outputs * (in.inputs + noisy);
    auto* const partial = static_cast<double*>(scratch);
    const auto kernel = aligned(in, y) ? dots_kernel<true, T> : dots_kernel<false, T>;
    PK_LAUNCH(kernel, dim3(unsigned(groups * chunks * outputs)), dim3(kQuadThreads), 0, stream, in,
              static_cast<const T*>(y), noisy, chunks, partial);
    PK_LAUNCH(sum_kernel, dim3(unsigned(groups * width)), dim3(kQuadThreads), 0, stream,
              static_cast<const double*>(partial), static_cast<double*>(sums), chunks, width);
  });
}

}  // namespace pk
