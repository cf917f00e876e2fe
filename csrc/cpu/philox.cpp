// Random numbers on the CPU, in blocks that are drawn where the caches hold them.
#include <algorithm>

#include "pk/launch.h"
#include "pk/philox_cpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kChunk = 16384;  // elements of a task

struct Draw {
  template <int B, class T, class Make>
  PK_HD static void run(T* z, Int n, Seeds seeds, Make make, Int first, Int last) {
    NoiseBlock<acc_t<T>> noise;
    for (; first < last; first += kBlock) {
      const Int end = std::min(last, first + kBlock);
      const acc_t<T>* const drawn = noise.draw(seeds, n, first, end, make);
      for_lanes(end - first,
                [&](Int k, auto lanes) PK_INLINE { store_vec(z + first + k, load_vec<B>(drawn + k), lanes); });
    }
  }
};

}  // namespace

void philox_cpu(DType dtype, void* z, Maybe seeds, Int rows, Int n, Int seed, Int row, Int step, bool normal,
                Threads threads) {
  const Seeds all{seeds.as<Int>(), seed, row, step};
  dispatch("philox", dtype, [&](auto element) {
    using T = decltype(element);
    T* const to = static_cast<T*>(z);
    const Int size = rows * n;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (size > kChunk)
    for (Int first = 0; first < size; first += kChunk) {
      const Int last = std::min(size, first + kChunk);
      if (normal)
        run_best<Draw>(to, n, all, MakeNormal{}, first, last);
      else
        run_best<Draw>(to, n, all, MakeUniform<T>{}, first, last);
    }
  });
}

}  // namespace pk
