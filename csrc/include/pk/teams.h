// How the threads of a GPU share a (rows, features) matrix that is summed over its rows.
//
// A team of threads, a power of two of them, owns a tile of columns, and each thread the same V columns in every row of
// its chunk of rows: coefficients and sums of a feature stay in registers. Chunks write partial sums and a second small
// kernel adds them up in double in a fixed order: no atomics, the same bits every time. Features may come in groups
// that one team must see as a whole; a team then covers one group.
#pragma once
#include <algorithm>
#include <type_traits>

#include "pk/block.h"
#include "pk/dtype.h"

namespace pk {

using Int = std::int64_t;

constexpr int kTeamRows = 2;                     // rows that a team has in flight
constexpr int kTeamThreads = 256;                // of a block, unless a team has more
constexpr int kMaxTeam = 512;                    // threads; 128 registers remain for each
constexpr Int kMaxChunkRows = 256;               // rows summed in float before the sums move on to double
constexpr Int kMinChunkRows = 16;                // fewer rows would not repay a partial result
constexpr int kSumColumns = 16, kSumLanes = 32;  // the block that adds partial sums up

inline Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }
inline Int power_of_two(Int n) {  // the smallest one that is at least n
  Int result = 1;
  while (result < n) result *= 2;
  return result;
}

// The split. Host code fills it in, kernels take it by value.
struct Tiling {
  Int rows, features, groups, size;  // size: features of a group; one group when nothing is grouped
  int lanes, threads;                // of a team, of a block
  Int tiles, tiles_per_group;
  int across, down;  // teams of a block: side by side, and one below the other
  Int blocks_across, chunk_rows, chunks;
  int turns;  // of kTeamRows rows in a chunk: the same number for every thread, as sums need all of them

  Tiling(Int rows, Int features, Int groups)
      : rows(rows), features(features), groups(groups), size(features / groups) {}

  // For threads of V columns: teams that span a group if `whole_groups`, else at most a warp.
  void set_teams(int v, bool whole_groups) {
    const Int wanted = power_of_two(ceil_div(size, v));
    lanes = int(whole_groups ? wanted : std::min<Int>(wanted, kWarp));
    threads = lanes > kWarp ? lanes : kTeamThreads;  // a team is part of a warp, or the block
    tiles_per_group = ceil_div(size, Int(lanes) * v);
    tiles = tiles_per_group * groups;
    across = int(std::min<Int>(threads / lanes, power_of_two(tiles)));
    down = threads / lanes / across;
    blocks_across = ceil_div(tiles, across);
  }
  // So that the grid has about as many blocks as run at once.
  void set_chunks(Int resident_blocks) {
    const Int wanted = ceil_div(rows, std::max<Int>(resident_blocks / blocks_across, 1) * down);
    chunk_rows = std::clamp(ceil_div(wanted, kTeamRows) * kTeamRows, kMinChunkRows, kMaxChunkRows);
    chunks = ceil_div(rows, chunk_rows * down);
    turns = int(chunk_rows / kTeamRows);
  }
  dim3 grid() const { return dim3(unsigned(blocks_across * chunks)); }

  // Elements of a chunk's partial sums: (k, features), then the number of rows that count.
  __host__ __device__ Int partial_width(int k) const { return k * features + 1; }
};

// What one thread owns: V columns of a chunk's rows. It takes the rows kTeamRows at a time.
template <int V>
struct Place {
  Int chunk, group, column, row;
  int team;
  bool first_tile, active;
  int count;  // of the rows row .. row + kTeamRows, how many this thread has; sums over the team need it all the same

  __device__ explicit Place(const Tiling& tiling) {
    const int lane = threadIdx.x % tiling.lanes;
    team = threadIdx.x / tiling.lanes;
    chunk = blockIdx.x / tiling.blocks_across;
    const Int tile = blockIdx.x % tiling.blocks_across * tiling.across + team % tiling.across;
    const Int offset = (tile % tiling.tiles_per_group * tiling.lanes + lane) * V;
    group = tile / tiling.tiles_per_group;
    column = group * tiling.size + offset;
    first_tile = tile == 0 && lane == 0;
    active = tile < tiling.tiles && offset < tiling.size;
    go_to(tiling, (chunk * tiling.down + team / tiling.across) * tiling.chunk_rows);
  }
  __device__ __forceinline__ void go_to(const Tiling& tiling, Int to) {
    row = to;
    const Int left = active ? tiling.rows - row : 0;
    count = int(left < 0 ? 0 : left < kTeamRows ? left : kTeamRows);
  }
  template <class T>
  __device__ __forceinline__ T* first(const Tiling& tiling, T* array) const {  // in the row `row`
    return array + row * tiling.features + column;
  }
};

// V neighboring elements, moved by one instruction. They stay as they are in memory, because unpacked halves would
// take twice the registers: get() converts at each use.
template <class T, int V>
struct alignas(V * sizeof(T)) Pack {
  T v[V];
  __device__ __forceinline__ acc_t<T> get(int i) const { return load(v[i]); }
  __device__ __forceinline__ void set(int i, acc_t<T> value) { v[i] = store<T>(value); }
};
template <class T, int V>
struct alignas(V * sizeof(T)) HalfPack {
  std::uint32_t words[V / 2];
  __device__ __forceinline__ acc_t<T> get(int i) const { return load(T{std::uint16_t(words[i / 2] >> i % 2 * 16)}); }
  __device__ __forceinline__ void set(int i, acc_t<T> value) {  // in order of i
    const std::uint32_t bits = store<T>(value).bits;
    words[i / 2] = i % 2 ? words[i / 2] | bits << 16 : bits;
  }
};
template <>
struct Pack<half, 8> : HalfPack<half, 8> {};
template <>
struct Pack<bfloat16, 8> : HalfPack<bfloat16, 8> {};

template <class T, int V>
__device__ __forceinline__ void load_rows(const Tiling& tiling, const Place<V>& at, const T* from,
                                          Pack<T, V> (&to)[kTeamRows]) {
  from = at.first(tiling, from);
#pragma unroll
  for (int k = 0; k < kTeamRows; ++k) {
    to[k] = {};
    if (k < at.count) to[k] = *reinterpret_cast<const Pack<T, V>*>(from + k * tiling.features);
  }
}

template <class T, int V>
__device__ __forceinline__ void store_row(const Tiling& tiling, const Place<V>& at, T* to, int k,
                                          const Pack<T, V>& pack) {
  to = at.first(tiling, to) + k * tiling.features;
  if constexpr (sizeof(pack) == sizeof(uint4))
    __stwb(reinterpret_cast<uint4*>(to), bit_cast<uint4>(pack));  // an assignment becomes four stores
  else
    *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

template <class A>
__device__ __forceinline__ void team_sum(A (&v)[kTeamRows], int lanes) {
  __shared__ A shared[kMaxTeam / kWarp * kTeamRows];
  if (lanes > kWarp)
    block_sum(v, shared);
  else
    warp_sum(v, lanes);
}

// Adds the sums of the teams of a block that own the same columns, in order, and writes them as this chunk's.
template <int K, int V, class A>
__device__ __forceinline__ void write_partials(const Tiling& tiling, const Place<V>& at, const A (&sums)[K][V],
                                               int valid_rows, A* partials) {
  __shared__ A shared[kTeamThreads];
  const int stride = tiling.across * tiling.lanes;  // from a thread to the one that owns the same columns below
  const bool first = at.team < tiling.across;
  const auto total = [&](A v) {
    if (tiling.down == 1) return v;
    __syncthreads();  // the sum before this one may still be read
    shared[threadIdx.x] = v;
    __syncthreads();
    if (first)
      for (int below = 1; below < tiling.down; ++below) v += shared[threadIdx.x + below * stride];
    return v;
  };
  A* const out = partials + at.chunk * tiling.partial_width(K);
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const A sum = total(sums[k][i]);
      if (first && at.active) out[k * tiling.features + at.column + i] = sum;
    }
  const A valid = total(A(valid_rows));
  if (first && at.first_tile) out[K * tiling.features] = valid;
}

// Hands each feature's K sums over all chunks, and last the number of rows that count, to `finish`.
template <int K, class A, class Finish>
__global__ void __launch_bounds__(kSumColumns* kSumLanes)
    sum_kernel(const A* partials, Int chunks, Int features, Finish finish) {
  __shared__ double shared[K + 1][kSumLanes][kSumColumns];
  const Int c = Int(blockIdx.x) * kSumColumns + threadIdx.x, width = K * features + 1;
  double sums[K + 1] = {};
  if (c < features)
    for (Int chunk = threadIdx.y; chunk < chunks; chunk += kSumLanes) {
#pragma unroll
      for (int k = 0; k < K; ++k) sums[k] += double(partials[chunk * width + k * features + c]);
      sums[K] += double(partials[chunk * width + K * features]);
    }
#pragma unroll
  for (int k = 0; k <= K; ++k) shared[k][threadIdx.y][threadIdx.x] = sums[k];
  __syncthreads();
  if (threadIdx.y != 0 || c >= features) return;
  for (int lane = 1; lane < kSumLanes; ++lane)
#pragma unroll
    for (int k = 0; k <= K; ++k) sums[k] += shared[k][lane][threadIdx.x];
  finish(c, sums);
}

template <int K, class A, class Finish>
void add_partials(const Tiling& tiling, const A* partials, const Finish& finish, Stream stream) {
  const dim3 grid(unsigned(ceil_div(tiling.features, kSumColumns)));
  PK_LAUNCH((sum_kernel<K, A, Finish>), grid, dim3(kSumColumns, kSumLanes), 0, stream, partials, tiling.chunks,
            tiling.features, finish);
}

// Calls body with the number of columns a thread takes: 16 bytes where groups and addresses allow it, else one column.
template <class T, class Body>
void choose_width(const Tiling& tiling, std::initializer_list<const void*> arrays, Body&& body) {
  constexpr int kWide = 16 / sizeof(T);
  bool aligned = tiling.size % kWide == 0;
  for (const void* array : arrays) aligned = aligned && reinterpret_cast<std::uintptr_t>(array) % 16 == 0;
  if (aligned)
    body(std::integral_constant<int, kWide>{});
  else
    body(std::integral_constant<int, 1>{});
}

}  // namespace pk
