// Reading and writing the selected entries of a weight on a GPU: a warp takes a piece (pk/selection.h), decodes it in
// shared memory, and moves values so that neighboring lanes touch neighboring values.
#include "pk/selection.h"

namespace pk {
namespace {

using Int = std::int64_t;

template <class T>
struct Gather {
  const T* w;
  T* values;
  __device__ void operator()(Int rank, Int position) const { values[rank] = w[position]; }
};

template <class T>
struct Scatter {
  T* w;
  const T* values;
  __device__ void operator()(Int rank, Int position) const { w[position] = values[rank]; }
};

struct List {
  std::int32_t* index;
  __device__ void operator()(Int rank, Int position) const { index[rank] = std::int32_t(position); }
};

template <class Move>
__global__ void __launch_bounds__(kPieceThreads) piece_kernel(Selection selection, Move move) {
  __shared__ std::uint16_t offsets[kPieceWarps][kBlockEntries];
  const Int piece = own_piece();
  if (piece < selection.pieces()) for_piece(selection, piece, offsets[threadIdx.x / kWarp], move);
}

template <class Move>
void run(const Selection& selection, const Move& move, Stream stream) {
  PK_LAUNCH(piece_kernel<Move>, piece_grid(selection), dim3(kPieceThreads), 0, stream, selection, move);
}

}  // namespace

void selection_gather_cuda(DType dtype, const void* w, Maybe index, Maybe words, Maybe ranks, void* values, Int n,
                           Int count, Stream stream) {
  dispatch("selection_gather", dtype, [&](auto element) {
    using T = decltype(element);
    run({index, words, ranks, n, count}, Gather<T>{static_cast<const T*>(w), static_cast<T*>(values)}, stream);
  });
}

void selection_scatter_cuda(DType dtype, void* w, const void* values, Maybe index, Maybe words, Maybe ranks, Int n,
                            Int count, Stream stream) {
  dispatch("selection_scatter", dtype, [&](auto element) {
    using T = decltype(element);
    run({index, words, ranks, n, count}, Scatter<T>{static_cast<T*>(w), static_cast<const T*>(values)}, stream);
  });
}

void selection_index_cuda(const void* words, const void* ranks, void* index, Int n, Int count, Stream stream) {
  run({{}, {words}, {ranks}, n, count}, List{static_cast<std::int32_t*>(index)}, stream);
}

}  // namespace pk
