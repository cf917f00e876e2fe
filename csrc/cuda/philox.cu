// Random numbers on a GPU: a thread makes the four neighbors that one counter gives.
#include "pk/philox_gpu.h"

namespace pk {
namespace {

using Int = std::int64_t;

template <bool kWide, class T>
__global__ void __launch_bounds__(kQuadThreads) philox_kernel(T* z, Seeds seeds, Int rows, Int n, bool normal) {
  const Quad at = quad_of_thread(rows, n);
  if (at.count == 0) return;
  const Words words = seeds.words(at.row, at.counter);
  acc_t<T> four[4];
  if (normal) {
    normals(words, four);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) four[k] = uniform<T>(words.word[k]);
  }
  store_quad<kWide>(z + at.first, at.count, four);
}

}  // namespace

void philox_cuda(DType dtype, void* z, Maybe seeds, Int rows, Int n, Int seed, Int row, Int step, bool normal,
                 Stream stream) {
  const Seeds all{seeds.as<Int>(), seed, row, step};
  dispatch("philox", dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel = quads_are_aligned<T>(n, z) ? philox_kernel<true, T> : philox_kernel<false, T>;
    PK_LAUNCH(kernel, quad_grid(rows, n), dim3(kQuadThreads), 0, stream, static_cast<T*>(z), all, rows, n, normal);
  });
}

}  // namespace pk
