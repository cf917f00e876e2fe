// Random numbers on the CPU, in blocks that are drawn where the caches hold them.
#include <algorithm>

#include "pk/launch.h"
#include "pk/philox_cpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunk = 16384;  // elements of a task

template <class Make>
struct DrawBlock {
  template <int B, class A>
  PK_HD static void run(NoiseBlock<A>* noise, const Seeds& seeds, Int n, Int first, Int last, const A** drawn) {
    *drawn = noise->template draw<B>(seeds, n, first, last, Make{});
  }
};
template <class Make, class A>
const A* draw_block(NoiseBlock<A>& noise, const Seeds& seeds, Int n, Int first, Int last) {
  const A* drawn;
  run_best<DrawBlock<Make>>(&noise, seeds, n, first, last, &drawn);
  return drawn;
}

struct StoreBlock {
  template <int B, class T>
  PK_HD static void run(T* z, const acc_t<T>* drawn, int count) {
    for_lanes(count, [&](Int k, auto lanes) PK_INLINE { store_vec(z + k, load_vec<B>(drawn + k), lanes); });
  }
};

}  // namespace

const float* draw_normal(NoiseBlock<float>& noise, const Seeds& seeds, Int n, Int first, Int last) {
  return draw_block<MakeNormal>(noise, seeds, n, first, last);
}
const double* draw_normal(NoiseBlock<double>& noise, const Seeds& seeds, Int n, Int first, Int last) {
  return draw_block<MakeNormal>(noise, seeds, n, first, last);
}

void philox_cpu(DType dtype, void* z, Maybe seeds, Int rows, Int n, Int seed, Int row, Int step, bool normal,
                Threads threads) {
  const Seeds all{seeds.as<Int>(), seed, row, step};
  dispatch("philox", dtype, [&](auto element) {
    using T = decltype(element);
    T* const to = static_cast<T*>(z);
    const Int size = rows * n;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (size > kChunk)
    for (Int chunk = 0; chunk < size; chunk += kChunk) {
      NoiseBlock<acc_t<T>> noise;
      const Int last = std::min(size, chunk + kChunk);
      for (Int first = chunk; first < last; first += kBlock) {
        const Int end = std::min(last, first + kBlock);
        const auto* const drawn =
            normal ? draw_normal(noise, all, n, first, end) : draw_block<MakeUniform<T>>(noise, all, n, first, end);
        run_best<StoreBlock>(to + first, drawn, int(end - first));
      }
    }
  });
}

}  // namespace pk
