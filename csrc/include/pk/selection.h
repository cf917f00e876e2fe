// Which entries of a weight tensor are selected, and the walk over them, on the CPU and on a GPU. The encodings are
// those of python/probkernels/reference/selection.py: a list of positions, or a bitmap with a rank for every block.
//
// The walk is cut into pieces: 512 entries of the list, or a block of 512 entries of the weight. Pieces are independent
// of each other, so that any split of them over threads gives the same bits.
#pragma once
#include <algorithm>
#include <cstdint>

#include "pk/launch.h"
#if defined(__CUDACC__) || defined(PK_EMULATE)
#include "pk/gpu.h"
#endif

namespace pk {

constexpr int kWordEntries = 64, kBlockEntries = 512, kBlockWords = kBlockEntries / kWordEntries;

PK_HD int count_bits(std::uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __popcll(bits);
#else
  return __builtin_popcountll(bits);
#endif
}
// The number of the lowest set bit; 64 if there is none.
PK_HD int lowest_bit(std::uint64_t bits) {
#ifdef __CUDA_ARCH__
  return bits ? __ffsll(static_cast<long long>(bits)) - 1 : 64;
#else
  return bits ? __builtin_ctzll(bits) : 64;
#endif
}

struct Selection {
  const std::int32_t* index;   // (count) or null
  const std::uint64_t* words;  // (ceil(entries / 64)), null exactly if there is an index
  const std::int32_t* ranks;   // (ceil(entries / 512)), like words
  std::int64_t entries, count;

  Selection(Maybe index, Maybe words, Maybe ranks, std::int64_t entries, std::int64_t count)
      : index(index.as<std::int32_t>()),
        words(words.as<std::uint64_t>()),
        ranks(ranks.as<std::int32_t>()),
        entries(entries),
        count(count) {}

  PK_HD std::int64_t word_count() const { return (entries + kWordEntries - 1) / kWordEntries; }
  PK_HD std::int64_t pieces() const { return ((index ? count : entries) + kBlockEntries - 1) / kBlockEntries; }
};

// --- on the CPU ---

constexpr int kBitsAtOnce = 8;  // bits decoded before asking whether there are more: a branch for each would be missed

// Writes where the set bits of a block are, counted from its first entry, and returns how many there are. `offsets` has
// room for kBitsAtOnce more than that.
PK_HD int decode_block(const Selection& selection, std::int64_t block, std::int32_t* offsets) {
  const std::int64_t first = block * kBlockWords, words = selection.word_count() - first;
  int count = 0;
  for (int word = 0; word < kBlockWords && word < words; ++word) {
    std::uint64_t bits = selection.words[first + word];
    const int end = count + count_bits(bits);
    for (; count < end; count += kBitsAtOnce)
      for (int k = 0; k < kBitsAtOnce; ++k, bits &= bits - 1)
        offsets[count + k] = word * kWordEntries + lowest_bit(bits);
    count = end;
  }
  return count;
}

// Calls body(rank, n, base, offsets) for each of the pieces first .. last: the selected entries number rank .. rank + n
// lie at base + offsets[0 .. n).
template <class Body>
PK_HD void for_pieces(const Selection& selection, std::int64_t first, std::int64_t last, Body&& body) {
  std::int32_t offsets[kBlockEntries + kBitsAtOnce];
  for (std::int64_t piece = first; piece < last; ++piece) {
    const std::int64_t base = piece * kBlockEntries;
    if (selection.index) {
      const auto left = std::min<std::int64_t>(selection.count - base, kBlockEntries);
      body(base, int(left), std::int64_t(0), selection.index + base);
    } else {
      const int n = decode_block(selection, piece, offsets);
      body(std::int64_t(selection.ranks[piece]), n, base, static_cast<const std::int32_t*>(offsets));
    }
  }
}

// --- on a GPU: a warp takes a piece ---

#if defined(__CUDACC__) || defined(PK_EMULATE)

constexpr int kPieceThreads = 256, kPieceWarps = kPieceThreads / kWarp;

// As above; the whole warp calls it with the same arguments, `offsets` (kBlockEntries) being shared memory of its own.
__device__ __forceinline__ int decode_block(const Selection& selection, std::int64_t block, std::uint16_t* offsets) {
  constexpr int kLaneBits = kBlockEntries / kWarp, kLanesOfWord = kWordEntries / kLaneBits;
  const int lane = threadIdx.x % kWarp;
  const std::int64_t word = block * kBlockWords + lane / kLanesOfWord;
  unsigned bits = 0;
  if (word < selection.word_count()) bits = selection.words[word] >> lane % kLanesOfWord * kLaneBits & 0xffff;
  const int mine = count_bits(bits);
  int through = mine;
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = __shfl_up_sync(kFullMask, through, step);
    if (lane >= step) through += before;
  }
  __syncwarp();  // the offsets of the piece before this one may still be read
  for (int at = through - mine; bits; bits &= bits - 1) offsets[at++] = lane * kLaneBits + lowest_bit(bits);
  __syncwarp();
  return __shfl_sync(kFullMask, through, kWarp - 1);
}

// Calls body(rank, position) for every selected entry of a piece, the warp's lanes taking neighboring ranks.
template <class Body>
__device__ __forceinline__ void for_piece(const Selection& selection, std::int64_t piece, std::uint16_t* offsets,
                                          Body&& body) {
  const std::int64_t base = piece * kBlockEntries;
  const int lane = threadIdx.x % kWarp;
  if (selection.index) {
    const std::int64_t left = selection.count - base;
    const int n = int(left < kBlockEntries ? left : kBlockEntries);
    for (int k = lane; k < n; k += kWarp) body(base + k, std::int64_t(selection.index[base + k]));
  } else {
    const int n = decode_block(selection, piece, offsets);
    const std::int64_t rank = selection.ranks[piece];
    for (int k = lane; k < n; k += kWarp) body(rank + k, base + offsets[k]);
  }
}

// The piece of this thread's warp, in a grid of piece_grid(selection) blocks of kPieceThreads threads.
__device__ __forceinline__ std::int64_t own_piece() {
  return std::int64_t(blockIdx.x) * kPieceWarps + threadIdx.x / kWarp;
}
inline dim3 piece_grid(const Selection& selection) {
  return dim3(unsigned((selection.pieces() + kPieceWarps - 1) / kPieceWarps));
}

#endif

}  // namespace pk
