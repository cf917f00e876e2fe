// Sampled products on a GPU, for selections that are too sparse to repay a dense product: a dot product over tokens for
// every selected entry. Tokens go in chunks that fit the second-level cache. A chunk of either factor is copied so that
// its tokens lie side by side (a transposition through shared memory for a matrix product, an unfolding for a
// convolution, which is never stored whole). A warp then takes some neighboring entries, eight at a time: its lanes
// share out the tokens, so all its reads are whole lines and neighbors in a row read grady_y once. Sums stay in
// float32 (float64) registers for a chunk and are added up in the order of the chunks: no atomics, the same bits every
// time.
#include "pk/block.h"
#include "pk/sampled.h"
#include "pk/selection.h"
#include "pk/teams.h"

namespace pk {
namespace {

constexpr int kTile = 32, kTileLines = 8;  // of a transposition: a block of kTile x kTileLines threads
constexpr int kUnfoldThreads = 256;
constexpr int kWarps = 4;                   // of a block that multiplies
constexpr int kAtOnce = 8;                  // entries
constexpr Int kChunkBytes = Int(16) << 20;  // of both factors: a part of a second-level cache
constexpr Int kMinTokens = 512;

// --- packing: rows of `stride` tokens from token `first` on, zero beyond the last token ---

template <class T>
struct Chunk {
  Unfold unfold;
  const T* data;
  Int first, tokens, stride;
};

template <class T>
__global__ void __launch_bounds__(kTile* kTileLines) transpose_kernel(Chunk<T> in, Int tiles, T* out) {
  __shared__ T tile[kTile][kTile + 1];
  const Int row = blockIdx.x % tiles * kTile, token = blockIdx.x / tiles * kTile, width = in.unfold.channels;
  for (int k = threadIdx.y; k < kTile; k += kTileLines) {
    const bool here = token + k < in.tokens && row + threadIdx.x < width;
    tile[k][threadIdx.x] = here ? in.data[(in.first + token + k) * width + row + threadIdx.x] : T{};
  }
  __syncthreads();
  for (int k = threadIdx.y; k < kTile; k += kTileLines)
    if (row + k < width && token + threadIdx.x < in.stride)
      out[(row + k) * in.stride + token + threadIdx.x] = tile[threadIdx.x][k];
}

template <class T>
__global__ void __launch_bounds__(kUnfoldThreads) unfold_kernel(Chunk<T> in, T* out) {
  const Unfold& u = in.unfold;
  const Int at = Int(blockIdx.x) * kUnfoldThreads + threadIdx.x, row = at / in.stride, t = at % in.stride;
  if (row >= u.rows()) return;
  const Int token = in.first + t, sample = token / u.out_size(), place = token % u.out_size();
  const Int channel = row / u.taps(), tap = row % u.taps();
  const Int i0 = u.source(0, place / (u.out[1] * u.out[2]), tap / (u.kernel[1] * u.kernel[2]));
  const Int i1 = u.source(1, place / u.out[2] % u.out[1], tap / u.kernel[2] % u.kernel[1]);
  const Int i2 = u.source(2, place % u.out[2], tap % u.kernel[2]);
  const bool inside = i0 >= 0 && i0 < u.in[0] && i1 >= 0 && i1 < u.in[1] && i2 >= 0 && i2 < u.in[2];
  const Int from = (((sample * u.channels + channel) * u.in[0] + i0) * u.in[1] + i1) * u.in[2] + i2;
  out[at] = t < in.tokens && inside ? in.data[from] : T{};
}

template <class T>
void pack(const Chunk<T>& in, T* out, Stream stream) {
  if (in.unfold.points()) {
    const Int tiles = ceil_div(in.unfold.channels, kTile);
    const dim3 grid(unsigned(tiles * ceil_div(in.stride, kTile)));
    PK_LAUNCH((transpose_kernel<T>), grid, dim3(kTile, kTileLines), 0, stream, in, tiles, out);
  } else {
    const dim3 grid(unsigned(ceil_div(in.unfold.rows() * in.stride, kUnfoldThreads)));
    PK_LAUNCH((unfold_kernel<T>), grid, dim3(kUnfoldThreads), 0, stream, in, out);
  }
}

// --- products ---

// The entries of one warp: kWarp listed ones, or those of one block of a bitmap. 32 bits suffice for rows, for columns
// and for positions in a list, where 64-bit divisions would be slow.
struct Found {
  const std::int32_t* listed;    // positions, or null
  const std::uint16_t* offsets;  // positions counted from (row, column)
  unsigned row, column;
  int count;
  Int first;  // how many entries come before
  __device__ __forceinline__ unsigned at(int k) const { return column + (listed ? unsigned(listed[k]) : offsets[k]); }
};

__device__ __forceinline__ Found find_entries(const Selection& selected, Int columns, Int group,
                                              std::uint16_t* offsets) {
  if (selected.index) {
    const Int first = group * kWarp, left = selected.count - first;
    return {selected.index + first, offsets, 0, 0, int(left < kWarp ? left : kWarp), first};
  }
  const Int base = group * kBlockEntries;
  const int count = decode_block(selected, group, offsets);
  return {nullptr, offsets, unsigned(base / columns), unsigned(base % columns), count, selected.ranks[group]};
}

template <class T>
struct Factors {
  const T *grad_y, *x;  // (rows, stride), (groups * columns, stride)
  Int stride;
  unsigned columns, rows_per_group;
};

// sums[k] = the product of entry start + k, for k < n.
template <class T>
__device__ __forceinline__ void add_products(const Factors<T>& in, const Found& entries, int start, int n, int lane,
                                             acc_t<T> (&sums)[kAtOnce]) {
  using A = acc_t<T>;
  constexpr int V = 16 / sizeof(T);
  const T *grad_y[kAtOnce], *x[kAtOnce];
  unsigned fresh = 0;  // bit k: entry k lies in another row than the one before
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const unsigned at = entries.at(start + (k < n ? k : 0));
    const unsigned row = entries.row + at / in.columns, column = at % in.columns;
    grad_y[k] = in.grad_y + row * in.stride;
    x[k] = in.x + (Int(row / in.rows_per_group) * in.columns + column) * in.stride;
    fresh |= unsigned(k == 0 || grad_y[k] != grad_y[k - 1]) << k;
    sums[k] = A(0);
  }
  for (Int t = lane * V; t < in.stride; t += kWarp * V) {
    Pack<T, V> g;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (fresh >> k & 1) g = *reinterpret_cast<const Pack<T, V>*>(grad_y[k] + t);
      const auto v = *reinterpret_cast<const Pack<T, V>*>(x[k] + t);
#pragma unroll
      for (int i = 0; i < V; ++i) sums[k] += g.get(i) * v.get(i);
    }
  }
  warp_sum(sums);
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    product_kernel(Factors<T> in, Selection selected, Int groups, bool add, acc_t<T>* values) {
  __shared__ std::uint16_t offsets[kWarps][kBlockEntries];
  const int lane = threadIdx.x % kWarp;
  const Int group = Int(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (group >= groups) return;
  const Found entries = find_entries(selected, in.columns, group, offsets[threadIdx.x / kWarp]);
  for (int start = 0; start < entries.count; start += kAtOnce) {
    const int n = entries.count - start < kAtOnce ? entries.count - start : kAtOnce;
    acc_t<T> sums[kAtOnce];
    add_products(in, entries, start, n, lane, sums);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (lane == k && k < n) {
        acc_t<T>* const value = values + entries.first + start + k;
        *value = sums[k] + (add ? *value : acc_t<T>(0));
      }
  }
}

template <class T>
void run(const Geometry& geometry, const Selection& selected, const T* grad_y, const T* x, acc_t<T>* values,
         Stream stream) {
  constexpr Int kVector = 16 / sizeof(T);
  const Int rows = geometry.rows + geometry.x.rows(), tokens = geometry.tokens();
  const Int fitting = std::max<Int>(kChunkBytes / (rows * Int(sizeof(T))), kMinTokens);
  const Int chunk = ceil_div(std::min(fitting, tokens), kVector) * kVector;
  const Scratch<T> packed_y(geometry.rows * chunk, stream), packed_x(geometry.x.rows() * chunk, stream);
  const Int groups = selected.index ? ceil_div(selected.count, kWarp) : selected.pieces();
  for (Int token = 0; token < tokens; token += chunk) {
    const Int here = std::min(chunk, tokens - token), stride = ceil_div(here, kVector) * kVector;
    pack(Chunk<T>{geometry.grad_y(), grad_y, token, here, stride}, packed_y.data(), stream);
    pack(Chunk<T>{geometry.x, x, token, here, stride}, packed_x.data(), stream);
    const Factors<T> in = {packed_y.data(), packed_x.data(), stride, unsigned(geometry.columns()),
                           unsigned(geometry.rows_per_group())};
    PK_LAUNCH((product_kernel<T>), dim3(unsigned(ceil_div(groups, kWarps))), dim3(kWarps * kWarp), 0, stream, in,
              selected, groups, token > 0, values);
  }
}

}  // namespace

void sampled_matmul_cuda(DType dtype, const void* grad_y, const void* x, Maybe index, Maybe words, Maybe ranks,
                         void* values, const void* sizes, Int count, Stream stream) {
  const Geometry geometry(sizes);
  const Selection selected(index, words, ranks, geometry.rows * geometry.columns(), count);
  dispatch("sampled_matmul", dtype, [&](auto element) {
    using T = decltype(element);
    run(geometry, selected, static_cast<const T*>(grad_y), static_cast<const T*>(x), static_cast<acc_t<T>*>(values),
        stream);
  });
}

}  // namespace pk
