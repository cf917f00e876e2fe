// Reading and writing the selected entries of a weight on the CPU. Values are moved, never computed with.
#include "pk/selection.h"

#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kSpan = 16;  // pieces a thread takes at a time

struct Gather {
  template <int, class T>
  PK_HD static void run(const Selection& selection, const T* w, T* values, Int first, Int last) {
    for_pieces(selection, first, last, [&](Int rank, int n, Int base, const std::int32_t* offsets) PK_INLINE {
      for (int k = 0; k < n; ++k) values[rank + k] = w[base + offsets[k]];
    });
  }
};

struct Scatter {
  template <int, class T>
  PK_HD static void run(const Selection& selection, T* w, const T* values, Int first, Int last) {
    for_pieces(selection, first, last, [&](Int rank, int n, Int base, const std::int32_t* offsets) PK_INLINE {
      for (int k = 0; k < n; ++k) w[base + offsets[k]] = values[rank + k];
    });
  }
};

struct List {
  template <int>
  PK_HD static void run(const Selection& selection, std::int32_t* index, Int first, Int last) {
    for_pieces(selection, first, last, [&](Int rank, int n, Int base, const std::int32_t* offsets) PK_INLINE {
      for (int k = 0; k < n; ++k) index[rank + k] = std::int32_t(base + offsets[k]);
    });
  }
};

// Kernel::run(selection, args..., first, last) on all pieces.
template <class Kernel, class... Args>
void run_spans(const Selection& selection, Threads threads, Args... args) {
  const Int pieces = selection.pieces(), spans = (pieces + kSpan - 1) / kSpan;
#pragma omp parallel for schedule(static) num_threads(threads.count) if (spans > 1)
  for (Int span = 0; span < spans; ++span)
    run_best<Kernel>(selection, args..., span * kSpan, std::min(pieces, (span + 1) * kSpan));
}

}  // namespace

void selection_gather_cpu(DType dtype, const void* w, Maybe index, Maybe words, Maybe ranks, void* values, Int n,
                          Int count, Threads threads) {
  const Selection selection(index, words, ranks, n, count);
  dispatch("selection_gather", dtype, [&](auto element) {
    using T = decltype(element);
    run_spans<Gather>(selection, threads, static_cast<const T*>(w), static_cast<T*>(values));
  });
}

void selection_scatter_cpu(DType dtype, void* w, const void* values, Maybe index, Maybe words, Maybe ranks, Int n,
                           Int count, Threads threads) {
  const Selection selection(index, words, ranks, n, count);
  dispatch("selection_scatter", dtype, [&](auto element) {
    using T = decltype(element);
    run_spans<Scatter>(selection, threads, static_cast<T*>(w), static_cast<const T*>(values));
  });
}

void selection_index_cpu(const void* words, const void* ranks, void* index, Int n, Int count, Threads threads) {
  const Selection selection({}, {words}, {ranks}, n, count);
  run_spans<List>(selection, threads, static_cast<std::int32_t*>(index));
}

}  // namespace pk
