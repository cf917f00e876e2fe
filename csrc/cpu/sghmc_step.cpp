// A step of SGHMC on the CPU: one pass over all tensors in blocks, whose noise is drawn where the caches hold it. What
// an entry gets depends on its place alone: the same bits for any number of threads.
#include <algorithm>
#include <cstring>

#include "pk/philox_cpu.h"
#include "pk/sghmc.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunk = 16384;  // entries of a task

template <bool kBurnIn>
struct UpdateBlock {
  template <int B, class A>
  PK_HD static void run(const SghmcRule<A>& rule, const SghmcTensor<A>& t, const A* z, Int first, int count) {
    const A *const grads = t.grad + first, *const weights = t.weight + first, *const ms = t.m + first,
                   *const taus = t.tau + first, *const gs = t.g + first, *const vs = t.v + first;
    A to[5][kBlock];  // arrays of its own: the compiler need not fear that they overlap, and vectorizes
    for (int i = 0; i < count; ++i) {
      A weight = weights[i], m = ms[i], tau = taus[i], g = gs[i], v = vs[i];
      sghmc_update<kBurnIn>(rule, grads[i], z[i], weight, m, tau, g, v);
      to[0][i] = weight, to[1][i] = m, to[2][i] = tau, to[3][i] = g, to[4][i] = v;
    }
    A* const changed[] = {t.weight, t.m, t.tau, t.g, t.v};
    for (int k = 0; k < (kBurnIn ? 5 : 2); ++k) std::memcpy(changed[k] + first, to[k], count * sizeof(A));
  }
};

template <class A>
struct Chunk {
  const SghmcTensor<A>* tensor;
  Int first, last;
};

template <bool kBurnIn, class A>
void step_all(const std::vector<Chunk<A>>& chunks, const SghmcRule<A>& rule, Int seed, Int step, Threads threads) {
#pragma omp parallel for schedule(static) num_threads(threads.count) if (chunks.size() > 1)
  for (std::size_t k = 0; k < chunks.size(); ++k) {
    const SghmcTensor<A>& t = *chunks[k].tensor;
    const Seeds seeds{nullptr, seed, t.row, step};
    NoiseBlock<A> noise;
    for (Int first = chunks[k].first; first < chunks[k].last; first += kBlock) {
      const Int last = std::min(chunks[k].last, first + kBlock);
      const A* const z = draw_normal(noise, seeds, t.size, first, last);
      run_best<UpdateBlock<kBurnIn>>(rule, t, z, first, int(last - first));
    }
  }
}

}  // namespace

void sghmc_step_cpu(DType dtype, Tensors weights, Tensors m, Tensors tau, Tensors g, Tensors v, Tensors grads,
                    Ints sizes, Ints rows, bool burn_in, double lr, double mdecay, double scale_grad, double eps,
                    Int seed, Int step, Threads threads) {
  const auto run = [&](auto element) {
    using A = decltype(element);
    const auto tensors = sghmc_tensors<A>(weights, m, tau, g, v, grads, sizes, rows);
    const SghmcRule<A> rule(lr, mdecay, scale_grad, eps);
    std::vector<Chunk<A>> chunks;
    for (const auto& t : tensors)
      for (Int first = 0; first < t.size; first += kChunk)
        chunks.push_back({&t, first, std::min(first + kChunk, t.size)});
    burn_in ? step_all<true>(chunks, rule, seed, step, threads) : step_all<false>(chunks, rule, seed, step, threads);
  };
  dtype == DType::f64 ? run(double()) : run(float());
}

}  // namespace pk
