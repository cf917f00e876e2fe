// Stochastic gates on the CPU: one pass in blocks, whose noise is drawn where the caches hold it. What an element gets
// depends on its place alone: the same bits for any number of threads. The backward pass draws the same noise again.
#include "pk/stochastic_gate.h"

#include <algorithm>

#include "pk/philox_cpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunk = 16384;  // elements of a task

struct KeepWords {
  template <int N>
  PK_HD void operator()(const std::uint32_t (&word)[4][N], int counters, std::uint32_t* four) const {
    for (int i = 0; i < counters; ++i)
      for (int k = 0; k < 4; ++k) four[4 * i + k] = word[k][i];
  }
};

// What a thread keeps of up to kBlock elements.
template <class A>
struct GateBlock {
  NoiseBlock<std::uint32_t> words;
  NoiseBlock<A> normals;
  alignas(64) A a[kBlock], h[kBlock], slope[kBlock];
};

struct Words32 {
  template <int B>
  PK_HD static void run(NoiseBlock<std::uint32_t>* words, const Seeds& seeds, Int n, Int first, Int last,
                        const std::uint32_t** drawn) {
    *drawn = words->template draw<B>(seeds, n, first, last, KeepWords{});
  }
};

struct Widen {
  template <int B, class T, class A>
  PK_HD static void run(const T* from, int count, A* to) {
    for_lanes(count, [&](Int k, auto lanes) PK_INLINE { store_vec(to + k, load_vec<B>(from + k, lanes), lanes); });
  }
};

struct Decide {
  template <int B, class A>
  PK_HD static void run(Gate mode, bool sampled, const std::uint32_t* words, const A* noise, A by, int count,
                        GateBlock<A>* block) {
    for_mode(mode, [&](auto kind) PK_INLINE {
      const A *const a = block->a;
      A *const h = block->h, *const slope = block->slope;
      const auto loop = [&](auto draws) PK_INLINE {
#pragma GCC ivdep
        for (int k = 0; k < count; ++k) {
          const bool reads_noise = kind() == Gate::kGauss;
          const Gated<A> at = gate_of<decltype(kind)::value>(a[k], draws && !reads_noise ? words[k] : 0u,
                                                             reads_noise ? noise[k] : A(0), by, draws);
          h[k] = at.h;
          slope[k] = at.slope;
        }
      };
      sampled ? loop(std::true_type{}) : loop(std::false_type{});
    });
  }
};

// y = h v
struct Forward {
  template <int B, class T, class A>
  PK_HD static void run(const A* h, const T* v, T* y, int count) {
    for_lanes(count, [&](Int k, auto lanes) PK_INLINE {
      auto value = load_vec<B>(h + k, lanes);
      if (v) value = value * load_vec<B>(v + k, lanes);
      store_vec(y + k, value, lanes);
    });
  }
};

// grad_a = grad v slope, grad_v = grad h
struct Backward {
  template <int B, class T, class A>
  PK_HD static void run(const A* h, const A* slope, const T* grad, const T* v, T* grad_a, T* grad_v, int count) {
    for_lanes(count, [&](Int k, auto lanes) PK_INLINE {
      const auto g = load_vec<B>(grad + k, lanes);
      const auto through = v ? g * load_vec<B>(v + k, lanes) : g;
      store_vec(grad_a + k, through * load_vec<B>(slope + k, lanes), lanes);
      if (v) store_vec(grad_v + k, g * load_vec<B>(h + k, lanes), lanes);
    });
  }
};

// Calls finish(block, first, count) for all blocks, when their gates and slopes are known.
template <class T, class Finish>
void for_blocks(const T* a, const GateRule& rule, Int rows, Int n, Threads threads, Finish&& finish) {
  using A = acc_t<T>;
  const Seeds seeds = rule.resolved();
  const Int size = rows * n;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (size > kChunk)
  for (Int chunk = 0; chunk < size; chunk += kChunk) {
    GateBlock<A> block;
    for (Int first = chunk, stop = std::min(size, chunk + kChunk); first < stop; first += kBlock) {
      const Int last = std::min(stop, first + kBlock);
      const int count = int(last - first);
      const std::uint32_t* words = nullptr;
      const A* noise = nullptr;
      if (rule.mode == Gate::kGauss)
        noise = draw_normal(block.normals, seeds, n, first, last);
      else if (rule.sampled)
        run_best<Words32>(&block.words, seeds, n, first, last, &words);
      run_best<Widen>(a + first, count, static_cast<A*>(block.a));
      run_best<Decide>(rule.mode, rule.sampled, words, noise, A(rule.slope), count, &block);
      finish(block, first, count);
    }
  }
}

}  // namespace

void stochastic_gate_cpu(DType dtype, const void* a, Maybe v, Maybe seeds, void* y, Int rows, Int n, Int mode,
                         bool sampled, double slope, bool shared, Int seed, Int row, Int step, Threads threads) {
  const GateRule rule{Gate(mode), sampled, slope, {seeds.as<Int>(), seed, row, step}, shared};
  dispatch("stochastic_gate", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    for_blocks(static_cast<const T*>(a), rule, rows, n, threads, [&](const GateBlock<A>& block, Int first, int count) {
      const T* const values = v.ptr ? v.as<T>() + first : nullptr;
      run_best<Forward>(static_cast<const A*>(block.h), values, static_cast<T*>(y) + first, count);
    });
  });
}

void stochastic_gate_bwd_cpu(DType dtype, const void* grad, const void* a, Maybe v, Maybe seeds, Tensors grads,
                             Int rows, Int n, Int mode, bool sampled, double slope, bool shared, Int seed, Int row,
                             Int step, Threads threads) {
  GateRule rule{Gate(mode), sampled, slope, {seeds.as<Int>(), seed, row, step}, shared};
  if (!v.ptr) rule = rule.for_slopes();
  dispatch("stochastic_gate_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    for_blocks(static_cast<const T*>(a), rule, rows, n, threads, [&](const GateBlock<A>& block, Int first, int count) {
      const T* const values = v.ptr ? v.as<T>() + first : nullptr;
      T* const into_v = v.ptr ? grads.at<T>(1) + first : nullptr;
      run_best<Backward>(static_cast<const A*>(block.h), static_cast<const A*>(block.slope),
                         static_cast<const T*>(grad) + first, values, grads.at<T>(0) + first, into_v, count);
    });
  });
}

}  // namespace pk
