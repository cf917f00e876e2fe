// Sampled products on the CPU: dot products over tokens, for the selected entries only. Tokens go in chunks; a chunk of
// either factor is copied into scratch memory so that its tokens lie side by side (a transposition for a matrix
// product, an unfolding for a convolution, which is never stored whole). Then rows are shared out to threads, and
// columns taken in blocks that stay in the cache while a task's rows pass by. An entry's sum never depends on who
// computes it with which others, so every thread count gives the same bits.
#include <algorithm>
#include <memory>
#include <vector>

#include "pk/sampled.h"
#include "pk/selection.h"
#include "pk/vec.h"

namespace pk {
namespace {

constexpr Int kBlockBytes = Int(256) << 10;   // of a block of columns: half of a small L2 cache
constexpr Int kScratchBytes = Int(32) << 20;  // of a chunk of both factors, unless kMinTokens take more
constexpr Int kPackedBytes = Int(2) << 20;    // of chunks that are packed together: still cached when they are used
constexpr Int kMinTokens = 128, kMaxTokens = 1024;
constexpr Int kWantedEntries = 16;  // entries of a row that a block of columns should have
constexpr Int kMinTaskRows = 16, kMaxTaskRows = 128, kTasksPerThread = 4;

Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

// How many tokens and columns are taken at a time.
struct Plan {
  Int tokens, columns;

  Plan(const Geometry& geometry, Int count, Int element) {
    const double density = double(count) / double(geometry.rows * geometry.columns());
    const double wanted = std::min(double(kWantedEntries) / density, double(geometry.columns()));
    const Int bound = kScratchBytes / (element * (geometry.rows + geometry.x.rows()));
    const Int fitting = std::min(kBlockBytes / (element * std::max(Int(wanted), Int(1))), bound);
    tokens = std::clamp(fitting, kMinTokens, kMaxTokens) / kLanes * kLanes;
    tokens = std::min(tokens, ceil_div(geometry.tokens(), kLanes) * kLanes);
    columns = std::max(kBlockBytes / (element * tokens), Int(1));
  }
};

// --- packing: a chunk of tokens of one factor as rows of `stride` tokens, zero beyond the last token ---

template <class T>
struct Chunk {
  Unfold unfold;
  const T* data;
  Int first, tokens, stride;
};

constexpr Int kTileRows = 64;

// out[r * stride + k] = in[k * width + r] for k, r < 4.
template <class T, class A>
PK_HD void transpose_four(const T* in, Int width, A* out, Int stride) {
#ifdef __SSE2__
  if constexpr (std::is_same_v<A, float>) {
    __m128 v[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      if constexpr (std::is_same_v<T, float>)
        v[k] = _mm_loadu_ps(in + k * width);
      else
        v[k] =
            _mm_setr_ps(load(in[k * width]), load(in[k * width + 1]), load(in[k * width + 2]), load(in[k * width + 3]));
    }
    _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) _mm_storeu_ps(out + r * stride, v[r]);
    return;
  }
#endif
  for (int r = 0; r < 4; ++r)
    for (int k = 0; k < 4; ++k) out[r * stride + k] = load(in[k * width + r]);
}

// Rows [begin, end) when images are points: data is (tokens, rows).
struct Transpose {
  template <int B, class T, class A>
  PK_HD static void run(const Chunk<T>& in, Int begin, Int end, A* out) {
    const Int width = in.unfold.channels, whole_rows = begin + (end - begin) / 4 * 4;
    for (Int t = 0; t < in.stride; t += kLanes) {
      const T* const from = in.data + (in.first + t) * width;
      const bool whole = t + kLanes <= in.tokens;
      if (whole)
        for (Int row = begin; row < whole_rows; row += 4)
          for (Int k = 0; k < kLanes; k += 4)
            transpose_four(from + k * width + row, width, out + row * in.stride + t + k, in.stride);
      for (Int row = whole ? whole_rows : begin; row < end; ++row)
        for (Int k = 0; k < kLanes; ++k)
          out[row * in.stride + t + k] = t + k < in.tokens ? load(from[k * width + row]) : A(0);
    }
  }
};

// Tokens that lie side by side along the last dimension: out[0..n) from the input's line, 0 where it is outside.
template <class T, class A>
PK_HD void unfold_line(const Unfold& u, const T* line, Int place, Int tap, Int n, A* out) {
  const Int from = u.source(2, place, tap), step = u.stride[2], width = u.in[2];
  const Int before = from < 0 ? std::min(n, ceil_div(-from, step)) : 0;
  const Int inside = from < width ? std::min(n, ceil_div(width - from, step)) : 0;
  Int k = 0;
  for (; k < before; ++k) out[k] = A(0);
  if (step == 1)
    for (; k < inside; ++k) out[k] = load(line[from + k]);
  else
    for (; k < inside; ++k) out[k] = load(line[from + k * step]);
  for (; k < n; ++k) out[k] = A(0);
}

// Rows [begin, end) of images.
struct UnfoldRows {
  template <int B, class T, class A>
  PK_HD static void run(const Chunk<T>& in, Int begin, Int end, A* out) {
    const Unfold& u = in.unfold;
    const Int taps = u.taps(), size = u.out_size();
    for (Int row = begin; row < end; ++row) {
      const Int channel = row / taps, tap = row % taps;
      const Int tap0 = tap / (u.kernel[1] * u.kernel[2]), tap1 = tap / u.kernel[2] % u.kernel[1];
      A* to = out + row * in.stride;
      for (Int t = 0; t < in.tokens;) {
        const Int sample = (in.first + t) / size, place = (in.first + t) % size, place2 = place % u.out[2];
        const Int i0 = u.source(0, place / (u.out[1] * u.out[2]), tap0);
        const Int i1 = u.source(1, place / u.out[2] % u.out[1], tap1);
        const Int n = std::min(u.out[2] - place2, in.tokens - t);
        if (i0 < 0 || i0 >= u.in[0] || i1 < 0 || i1 >= u.in[1]) {
          std::fill(to + t, to + t + n, A(0));
        } else {
          const T* line = in.data + (((sample * u.channels + channel) * u.in[0] + i0) * u.in[1] + i1) * u.in[2];
          unfold_line(u, line, place2, tap % u.kernel[2], n, to + t);
        }
        t += n;
      }
      std::fill(to + in.tokens, to + in.stride, A(0));
    }
  }
};

// Tile k of kTileRows rows.
template <class T, class A>
void pack(const Chunk<T>& in, Int k, A* out) {
  const Int begin = k * kTileRows, end = std::min(in.unfold.rows(), begin + kTileRows);
  if (in.unfold.points())
    run_best<Transpose>(in, begin, end, out);
  else
    run_best<UnfoldRows>(in, begin, end, out);
}

// --- a task: the selected entries of some rows ---

// Calls body(entry) for the selected entries in [begin, end), and returns how many come before them.
template <class Body>
Int for_selected(const Selection& selected, Int begin, Int end, Body&& body) {
  if (selected.index) {
    const std::int32_t *const first = selected.index, *const last = first + selected.count;
    const std::int32_t* const start = std::lower_bound(first, last, begin);
    for (const std::int32_t* at = start; at < last && *at < end; ++at) body(Int(*at));
    return start - first;
  }
  std::int32_t offsets[kBlockEntries + kBitsAtOnce];
  Int before = selected.ranks[begin / kBlockEntries];
  for (Int base = begin / kBlockEntries * kBlockEntries; base < end; base += kBlockEntries) {
    const int n = decode_block(selected, base / kBlockEntries, offsets);
    for (int k = 0; k < n && base + offsets[k] < end; ++k)
      if (base + offsets[k] < begin)
        ++before;
      else
        body(base + offsets[k]);
  }
  return before;
}

struct Entries {
  Int first;                          // how many entries come before those of this task
  std::vector<std::int32_t> columns;  // of every entry
  std::vector<Int> begins;            // of every row in `columns`, and their end

  Entries(const Selection& selected, Int row, Int end, Int width) : begins(1, 0) {
    Int limit = (row + 1) * width;  // of the entries of the row at hand
    const auto close = [&] {
      begins.push_back(Int(columns.size()));
      limit += width;
    };
    first = for_selected(selected, row * width, end * width, [&](Int entry) {
      while (entry >= limit) close();
      columns.push_back(std::int32_t(entry - limit + width));
    });
    while (Int(begins.size()) <= end - row) close();
  }
};

template <class A>
struct Task {
  const A *grad_y, *x;  // (rows, stride) of this task, (all unfolded rows, stride)
  Int stride, row, rows_per_group, columns, block;
  bool add;     // to what earlier chunks have left in out
  A* out;       // of the task's first entry
  Int* begins;  // the rows' first entries; moved along
};

// out[k] = sum over tokens of grad_y x[k], for R rows of x. Spelt in registers: as arrays of Vec the sums would stay in
// memory.
template <int B, int R, class A>
PK_HD void dots(const Task<A>& task, const A* grad_y, const A* x, const std::int32_t* columns, A* out) {
  using Register = typename Vec<A, B>::Register;
  constexpr int K = Vec<A, B>::kRegisters, W = Vec<A, B>::kWidth;
  const A* from[R];
  Register sum[R * K];
#pragma GCC unroll 16
  for (int k = 0; k < R; ++k) from[k] = x + columns[k] * task.stride;
#pragma GCC unroll 16
  for (int k = 0; k < R * K; ++k) sum[k] = Register{};
  for (Int t = 0; t < task.stride; t += kLanes)
#pragma GCC unroll 16
    for (int i = 0; i < K; ++i) {
      Register g, v;
      memcpy(&g, grad_y + t + i * W, B);
#pragma GCC unroll 16
      for (int k = 0; k < R; ++k) {
        memcpy(&v, from[k] + t + i * W, B);
        sum[k * K + i] += g * v;
      }
    }
#pragma GCC unroll 16
  for (int k = 0; k < R; ++k) {
#pragma GCC unroll 16
    for (int count = K / 2; count; count /= 2)
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) sum[k * K + i] += sum[k * K + i + count];
    out[k] = sum_register<A, B>(sum[k * K]) + (task.add ? out[k] : A(0));
  }
}

// The same for the first n <= R rows.
template <int B, int R, class A>
PK_HD void some_dots(int n, const Task<A>& task, const A* grad_y, const A* x, const std::int32_t* columns, A* out) {
  if constexpr (R > 1)
    if (n < R) return some_dots<B, R - 1>(n, task, grad_y, x, columns, out);
  dots<B, R>(task, grad_y, x, columns, out);
}

struct Dots {
  template <int B, class A>
  PK_HD static void run(const Task<A>& task, const Entries& entries) {
    constexpr int R = 8 / Vec<A, B>::kRegisters;  // as many sums as hide the latency of an addition, all in registers
    const std::int32_t* const columns = entries.columns.data();
    const Int rows = Int(entries.begins.size()) - 1;
    for (Int limit = task.block; limit < task.columns + task.block; limit += task.block)
      for (Int r = 0; r < rows; ++r) {
        Int at = task.begins[r];
        const Int end = entries.begins[r + 1];
        if (at == end || columns[at] >= limit) continue;
        const A* const grad_y = task.grad_y + r * task.stride;
        const A* const x = task.x + (task.row + r) / task.rows_per_group * task.columns * task.stride;
        while (at < end && columns[at] < limit) {
          int n = 1;
          while (n < R && at + n < end && columns[at + n] < limit) ++n;
          some_dots<B, R>(n, task, grad_y, x, columns + at, task.out + at);
          at += n;
        }
        task.begins[r] = at;
      }
  }
};

// Both factors and what is to become of them, some chunks of tokens at a time: threads wait for each other twice each
// time.
template <class T>
class Product {
 public:
  using A = acc_t<T>;

  Product(const Geometry& geometry, const Selection& selected, const void* grad_y, const void* x, void* values,
          Threads threads)
      : geometry_(geometry),
        selected_(selected),
        grad_y_(static_cast<const T*>(grad_y)),
        x_(static_cast<const T*>(x)),
        values_(static_cast<A*>(values)),
        plan_(geometry, selected.count, sizeof(A)),
        chunks_(ceil_div(geometry.tokens(), plan_.tokens)),
        at_once_(std::clamp<Int>(kPackedBytes / (chunk_size() * Int(sizeof(A))), 1, chunks_)),
        task_rows_(std::clamp(geometry.rows / (kTasksPerThread * threads.count), kMinTaskRows, kMaxTaskRows)),
        entries_(ceil_div(geometry.rows, task_rows_)),
        packed_(new A[at_once_ * chunk_size()]) {}

  void run(Threads threads) {
    const Int tiles = tiles_y() + tiles_x(), tasks = Int(entries_.size());
    for (Int first = 0; first < chunks_; first += at_once_) {
      const Int last = std::min(chunks_, first + at_once_), jobs = (last - first) * tiles;
#pragma omp parallel num_threads(threads.count)
      {
#pragma omp for schedule(dynamic)
        for (Int k = 0; k < jobs; ++k) pack_tile(first + k / tiles, k % tiles);
#pragma omp for schedule(dynamic)
        for (Int k = 0; k < tasks; ++k) run_task(first, last, k);
      }
    }
  }

 private:
  Int tiles_y() const { return ceil_div(geometry_.rows, kTileRows); }
  Int tiles_x() const { return ceil_div(geometry_.x.rows(), kTileRows); }
  Int chunk_size() const { return (geometry_.rows + geometry_.x.rows()) * plan_.tokens; }
  A* packed_y(Int chunk) const { return packed_.get() + chunk % at_once_ * chunk_size(); }
  A* packed_x(Int chunk) const { return packed_y(chunk) + geometry_.rows * plan_.tokens; }
  Int tokens(Int chunk) const { return std::min(plan_.tokens, geometry_.tokens() - chunk * plan_.tokens); }
  Int stride(Int chunk) const { return ceil_div(tokens(chunk), kLanes) * kLanes; }

  void pack_tile(Int chunk, Int tile) const {
    const Int first = chunk * plan_.tokens;
    if (tile < tiles_y())
      pack(Chunk<T>{geometry_.grad_y(), grad_y_, first, tokens(chunk), stride(chunk)}, tile, packed_y(chunk));
    else
      pack(Chunk<T>{geometry_.x, x_, first, tokens(chunk), stride(chunk)}, tile - tiles_y(), packed_x(chunk));
  }

  void run_task(Int first, Int last, Int task_number) {
    const Int row = task_number * task_rows_, end = std::min(geometry_.rows, row + task_rows_);
    auto& found = entries_[task_number];
    if (!found) found = std::make_unique<Entries>(selected_, row, end, geometry_.columns());
    const Entries& entries = *found;
    for (Int chunk = first; chunk < last; ++chunk) {
      std::vector<Int> begins(entries.begins);
      const Int width = stride(chunk);
      Task<A> task = {packed_y(chunk) + row * width, packed_x(chunk),     width,         row,
                      geometry_.rows_per_group(),    geometry_.columns(), plan_.columns, chunk > 0,
                      values_ + entries.first,       begins.data()};
      run_best<Dots>(task, entries);
    }
  }

  Geometry geometry_;
  Selection selected_;
  const T *grad_y_, *x_;
  A* values_;
  Plan plan_;
  Int chunks_, at_once_, task_rows_;
  std::vector<std::unique_ptr<Entries>> entries_;  // of every task, listed once for all chunks
  std::unique_ptr<A[]> packed_;                    // not zeroed, as a vector would be
};

}  // namespace

void sampled_matmul_cpu(DType dtype, const void* grad_y, const void* x, Maybe index, Maybe words, Maybe ranks,
                        void* values, const void* sizes, Int count, Threads threads) {
  const Geometry geometry(sizes);
  const Selection selected(index, words, ranks, geometry.rows * geometry.columns(), count);
  dispatch("sampled_matmul", dtype, [&](auto element) {
    using T = decltype(element);
    Product<T>(geometry, selected, grad_y, x, values, threads).run(threads);
  });
}

}  // namespace pk
