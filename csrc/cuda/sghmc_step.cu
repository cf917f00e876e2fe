// A step of SGHMC on a GPU: one launch for up to kBatch tensors, whose table travels in the kernel's parameters; four
// neighbors a thread, which is what one counter gives noise for. Rounded as on the CPU.
#include <algorithm>

#include "pk/philox_gpu.h"
#include "pk/sghmc.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kBatch = 48;

template <class A>
struct Batch {
  SghmcTensor<A> tensors[kBatch];
  Int first_block[kBatch + 1];
  int count;
};

template <bool kBurnIn, class A>
__global__ void __launch_bounds__(kQuadThreads)
    step_kernel(const __grid_constant__ Batch<A> batch, SghmcRule<A> rule, Int seed, Int step) {
  const Int block = blockIdx.x;
  int k = 0;
  while (k + 1 < batch.count && block >= batch.first_block[k + 1]) ++k;
  const SghmcTensor<A>& t = batch.tensors[k];
  const Quad at = quad_of((block - batch.first_block[k]) * kQuadThreads + threadIdx.x, 1, t.size);
  if (at.count == 0) return;
  A z[4];
  normals(Seeds{nullptr, seed, t.row, step}.words(0, at.counter), z);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= at.count) continue;
    const Int e = at.first + i;
    sghmc_update<kBurnIn>(rule, t.grad[e], z[i], t.weight[e], t.m[e], t.tau[e], t.g[e], t.v[e]);
  }
}

template <bool kBurnIn, class A>
void step_all(const std::vector<SghmcTensor<A>>& tensors, const SghmcRule<A>& rule, Int seed, Int step, Stream stream) {
  for (std::size_t from = 0; from < tensors.size(); from += kBatch) {
    Batch<A> batch = {};
    batch.count = int(std::min<std::size_t>(tensors.size() - from, kBatch));
    for (int k = 0; k < batch.count; ++k) {
      batch.tensors[k] = tensors[from + k];
      batch.first_block[k + 1] = batch.first_block[k] + quad_grid(1, batch.tensors[k].size).x;
    }
    PK_LAUNCH((step_kernel<kBurnIn, A>), dim3(unsigned(batch.first_block[batch.count])), dim3(kQuadThreads), 0, stream,
              batch, rule, seed, step);
  }
}

}  // namespace

void sghmc_step_cuda(DType dtype, Tensors weights, Tensors m, Tensors tau, Tensors g, Tensors v, Tensors grads,
                     Ints sizes, Ints rows, bool burn_in, double lr, double mdecay, double scale_grad, double eps,
                     Int seed, Int step, Stream stream) {
  const auto run = [&](auto element) {
    using A = decltype(element);
    const auto tensors = sghmc_tensors<A>(weights, m, tau, g, v, grads, sizes, rows);
    const SghmcRule<A> rule(lr, mdecay, scale_grad, eps);
    burn_in ? step_all<true>(tensors, rule, seed, step, stream) : step_all<false>(tensors, rule, seed, step, stream);
  };
  dtype == DType::f64 ? run(double()) : run(float());
}

}  // namespace pk
