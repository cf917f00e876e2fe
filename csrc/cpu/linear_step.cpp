// A sampler's step on the CPU: one pass over all tensors in blocks, whose noise is drawn where the caches hold it. What
// an element gets depends on its place alone, and sums are cut by sizes alone: the same bits for any number of threads.
#include "pk/linear_step.h"

#include <algorithm>

#include "pk/philox_cpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunk = 16384;                // elements of a task, and of a partial sum
constexpr Int kStreamBytes = Int(16) << 20;  // larger outputs would only evict the caches: write around them

// 16 elements in double.
template <int B, class T, class Lanes>
PK_HD Vec<double, B> load_double(const T* p, Lanes lanes) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return load_vec<B>(p, lanes);
  } else {
    const auto narrow = load_vec<B / 2>(p, lanes);
    Vec<double, B> wide;
    for (int i = 0; i < wide.kRegisters; ++i)
      wide.part[i] = __builtin_convertvector(narrow.part[i], typename Vec<double, B>::Register);
    return wide;
  }
}

template <int B, class T, class U>
PK_HD double dot(const T* a, const U* b, Int count) {
  Vec<double, B> sum = {};
  for_lanes(count,
            [&](Int k, auto lanes) PK_INLINE { sum += load_double<B>(a + k, lanes) * load_double<B>(b + k, lanes); });
  return sum_lanes(sum);
}

struct Step {
  // Elements first .. last - 1 of all outputs y (outputs, size); c (outputs, inputs), d (outputs) or null.
  template <int B, class T, class A>
  PK_HD static void run(const StepInputs<T>& in, const A* c, const A* d, T* y, bool streams, Int first, Int last) {
    NoiseBlock<A> noise;
    const A* z = nullptr;
    for (; first < last; first += kBlock) {
      const Int end = std::min(last, first + kBlock);
      if (d) z = draw_normal(noise, in.seeds, in.n, first, end);
      for (int o = 0; o < in.outputs; ++o) {
        T* const to = y + o * in.size() + first;
        const bool around = streams && reinterpret_cast<std::uintptr_t>(to) % 16 == 0;
        for_lanes(end - first, [&](Int k, auto lanes) PK_INLINE {
          auto sum = load_vec<B>(in.x[0] + first + k, lanes) * c[o * in.inputs];
          for (int i = 1; i < in.inputs; ++i) sum += load_vec<B>(in.x[i] + first + k, lanes) * c[o * in.inputs + i];
          if (d) sum += load_vec<B>(z + k, lanes) * d[o];
          if constexpr (std::is_same_v<decltype(lanes), Full>) {
            if (around) return stream_vec(to + k, sum);
          }
          store_vec(to + k, sum, lanes);
        });
      }
    }
    if (streams) stream_done();
  }
};

struct Dots {
  // sums (outputs, inputs, and one more with noise) = dots of y (outputs, size) with the inputs and the noise.
  template <int B, class T>
  PK_HD static void run(const StepInputs<T>& in, const T* y, bool noisy, double* sums, Int first, Int last) {
    NoiseBlock<acc_t<T>> noise;
    const int width = in.inputs + noisy;
    std::fill(sums, sums + in.outputs * width, 0.0);
    for (; first < last; first += kBlock) {
      const Int end = std::min(last, first + kBlock);
      const auto z = noisy ? draw_normal(noise, in.seeds, in.n, first, end) : nullptr;
      for (int o = 0; o < in.outputs; ++o) {
        const T* const along = y + o * in.size() + first;
        double* const row = sums + o * width;
        for (int i = 0; i < in.inputs; ++i) row[i] += dot<B>(along, in.x[i] + first, end - first);
        if (noisy) row[in.inputs] += dot<B>(along, z, end - first);
      }
    }
  }
};

// Calls body(group, chunk, first, last) for the chunks of all groups; returns the chunks of a group.
template <class T, class Body>
Int for_chunks(const StepInputs<T>& in, Threads threads, Body&& body) {
  const Int each = in.size() / in.groups, chunks = (each + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (in.size() > kChunk)
  for (Int task = 0; task < in.groups * chunks; ++task) {
    const Int group = task / chunks, chunk = task % chunks, begin = group * each;
    body(group, chunk, begin + chunk * kChunk, begin + std::min(each, (chunk + 1) * kChunk));
  }
  return chunks;
}

}  // namespace

void linear_step_cpu(DType dtype, Tensors x, const void* coefficients, Maybe noise, Maybe seeds, void* y, Int groups,
                     Int rows, Int n, Int outputs, Int seed, Int row, Int step, Threads threads) {
  dispatch("linear_step", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const auto in = step_inputs<T>(x, groups, rows, n, outputs, {seeds.as<Int>(), seed, row, step});
    const auto* const all = static_cast<const double*>(coefficients);
    const bool streams = outputs * in.size() * Int(sizeof(T)) > kStreamBytes;
    for_chunks(in, threads, [&](Int group, Int, Int first, Int last) {
      A c[kMostTensors * kMostTensors], d[kMostTensors];
      const int count = in.outputs * in.inputs;
      for (int i = 0; i < count; ++i) c[i] = A(all[group * count + i]);
      for (int o = 0; o < in.outputs && noise.ptr; ++o) d[o] = A(noise.as<double>()[group * outputs + o]);
      const A *const of_inputs = c, *const of_noise = noise.ptr ? d : nullptr;
      run_best<Step>(in, of_inputs, of_noise, static_cast<T*>(y), streams, first, last);
    });
  });
}

void linear_step_dots_cpu(DType dtype, Tensors x, const void* y, Maybe seeds, void* sums, void* scratch, Int groups,
                          Int rows, Int n, Int outputs, bool noisy, Int seed, Int row, Int step, Threads threads) {
  dispatch("linear_step_dots", dtype, [&](auto element) {
    using T = decltype(element);
    const auto in = step_inputs<T>(x, groups, rows, n, outputs, {seeds.as<Int>(), seed, row, step});
    const Int width = outputs * (in.inputs + noisy), most = (in.size() / groups + kChunk - 1) / kChunk;
    auto* const partial = static_cast<double*>(scratch);  // (groups, chunks, outputs, inputs and noise)
    const Int chunks = for_chunks(in, threads, [&](Int group, Int chunk, Int first, Int last) {
      double* const to = partial + (group * most + chunk) * width;
      run_best<Dots>(in, static_cast<const T*>(y), noisy, to, first, last);
    });
    for (Int group = 0; group < groups; ++group) {
      double* const from = partial + group * chunks * width;
      for (Int stride = 1; stride < chunks; stride *= 2)  // a tree
        for (Int k = 0; k + stride < chunks; k += 2 * stride)
          for (Int i = 0; i < width; ++i) from[k * width + i] += from[(k + stride) * width + i];
      std::copy(from, from + width, static_cast<double*>(sums) + group * width);
    }
  });
}

}  // namespace pk
