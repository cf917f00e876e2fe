// PowerNorm on the CPU. One pass over the rows forward (2 memory accesses an element) and one backward (3): every
// per-feature coefficient is known before the rows are read, and the batch statistics are summed on the way.
// Equations: python/probkernels/reference/power_norm.py. Rows are taken four at a time, so that loading the
// coefficients and updating the sums is paid once for four rows.
#include <cmath>

#include "pk/parallel.h"
#include "pk/vec.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr int kRows = 4;
constexpr Int kAhead = 2048;                // elements that are prefetched ahead
constexpr Int kFlushRows = 256;             // rows summed in float before the sums move on to double
constexpr Int kStreamBytes = Int(2) << 20;  // larger outputs would only evict the caches: write around them

// A block of rows with what every kernel here needs to know of it.
template <class T>
struct Block {
  const T* x;                   // (rows, features)
  const unsigned char* is_pad;  // (rows) or null
  Int rows, features, groups;   // groups = 0: no group scaling
  acc_t<T> eps;

  Int group_size() const { return groups ? features / groups : features; }
  bool pad(Int row) const { return is_pad && is_pad[row]; }
  Block slice(Int first, Int last) const {
    return {x + first * features, is_pad ? is_pad + first : nullptr, last - first, features, groups, eps};
  }
  double count_valid() const {
    Int valid = 0;
    for (Int row = 0; row < rows; ++row) valid += !pad(row);
    return double(valid);
  }
};

// Calls rows(Const<R>, row) with R = 4 for four equally (un)padded rows at once, whose groups then fill whole vectors,
// and with R = 1 for the rest.
template <class T, class Rows>
PK_HD void for_rows(const Block<T>& in, bool fours, Rows&& rows) {
  fours = fours && in.group_size() % kLanes == 0;
  for (Int row = 0; row < in.rows;) {
    Int end = row + 1;
    while (fours && end < in.rows && end < row + kRows && in.pad(end) == in.pad(row)) ++end;
    if (end - row == kRows)
      rows(Const<kRows>{}, row);
    else
      for (Int k = row; k < end; ++k) rows(Const<1>{}, k);
    row = end;
  }
}

// scale[k] = 1 / rms of group x[k * features .. + n] for R rows, or 1 without group scaling.
template <int B, int R, class T>
PK_HD void group_scales(const Block<T>& in, const T* x, Int n, acc_t<T>* scale) {
  using A = acc_t<T>;
  Vec<A, B> sum[R] = {};
  if (in.groups)
    for_lanes<(R > 1)>(n, [&](Int i, auto lanes) PK_INLINE {
      for (int k = 0; k < R; ++k) {
        const auto v = load_vec<B>(x + k * in.features + i, lanes);
        sum[k] += v * v;
      }
    });
  for (int k = 0; k < R; ++k) scale[k] = in.groups ? sum_lanes(sum[k]) / A(n) + in.eps : A(1);
  for (int k = 0; k < R; ++k) scale[k] = A(1) / std::sqrt(scale[k]);
}

// Where row results go: nowhere (only the sums are wanted), through the caches, or around them.
enum class Store { none, cached, streamed };

template <class T, class V>
PK_HD void write(Store mode, T* p, const V& v, Full) {
  if (mode == Store::streamed)
    stream_vec(p, v);
  else
    store_vec(p, v);
}
template <class T, class V>
PK_HD void write(Store, T* p, const V& v, int lanes) {
  store_vec(p, v, lanes);
}

// z = group-scaled x; y = z * scale + shift; sum_sq += z^2 over valid rows.
struct Forward {
  template <int B, class T, class A>
  PK_HD static void run(const Block<T>& in, const A* scale, const A* shift, Store mode, T* y, A* sum_sq) {
    const Int size = in.group_size(), c = in.features;
    const bool streamed = mode == Store::streamed;
    const auto rows = [&](auto count, Int row) PK_INLINE {
      constexpr int R = decltype(count)::value;
      const bool counts = !in.pad(row);
      for (Int first = 0; first < c; first += size) {
        const Int at = row * c + first;
        A r[R];
        group_scales<B, R>(in, in.x + at, size, r);
        for_lanes<(R > 1)>(size, [&](Int i, auto lanes) PK_INLINE {
          const auto a = load_vec<B>(scale + first + i, lanes), b = load_vec<B>(shift + first + i, lanes);
          auto sum = load_vec<B>(sum_sq + first + i, lanes);
          for (int k = 0; k < R; ++k) {
            const T* x = in.x + at + k * c + i;
            if (streamed) __builtin_prefetch(x + kAhead, 0, 3);
            const auto z = load_vec<B>(x, lanes) * r[k];
            if (mode != Store::none) write(mode, y + at + k * c + i, z * a + b, lanes);
            sum += z * z;
          }
          if (counts) store_vec(sum_sq + first + i, sum, lanes);
        });
      }
    };
    for_rows(in, in.groups || !streamed, rows);  // streams from memory are fastest one row at a time
    if (streamed) stream_done();
  }
};

// grad_z = grad_y * p - z * q, then through the group scaling into grad_x; sums (3, features) += grad_y * z, grad_y,
// z^2. `scratch` (kRows, group size) holds grad_z between the two passes over a group.
struct Backward {
  template <int B, class T, class A>
  PK_HD static void run(const Block<T>& in, const T* grad_y, const A* p, const A* q, Store mode, T* grad_x, A* scratch,
                        A* sums) {
    const Int size = in.group_size(), c = in.features;
    const bool streamed = mode == Store::streamed;
    const auto rows = [&](auto count, Int row) PK_INLINE {
      constexpr int R = decltype(count)::value;
      for (Int first = 0; first < c; first += size) {
        const Int at = row * c + first;
        A r[R];
        Vec<A, B> along[R] = {};
        group_scales<B, R>(in, in.x + at, size, r);
        for_lanes<(R > 1)>(size, [&](Int i, auto lanes) PK_INLINE {
          const auto pv = load_vec<B>(p + first + i, lanes), qv = load_vec<B>(q + first + i, lanes);
          A* s = sums + first + i;
          auto gz = load_vec<B>(s, lanes), g = load_vec<B>(s + c, lanes), zz = load_vec<B>(s + 2 * c, lanes);
          for (int k = 0; k < R; ++k) {
            const T *x = in.x + at + k * c + i, *gy = grad_y + at + k * c + i;
            if (streamed) {
              __builtin_prefetch(x + kAhead, 0, 2);
              __builtin_prefetch(gy + kAhead, 0, 2);
            }
            const auto z = load_vec<B>(x, lanes) * r[k], u = load_vec<B>(gy, lanes), grad_z = u * pv - z * qv;
            if (in.groups) {
              along[k] += grad_z * z;
              store_vec(scratch + k * size + i, grad_z, lanes);
            } else if (mode != Store::none) {
              write(mode, grad_x + at + k * c + i, grad_z, lanes);
            }
            gz += u * z;
            g += u;
            zz += z * z;
          }
          store_vec(s, gz, lanes);
          store_vec(s + c, g, lanes);
          store_vec(s + 2 * c, zz, lanes);
        });
        if (!in.groups || mode == Store::none) continue;
        A mean[R];
        for (int k = 0; k < R; ++k) mean[k] = sum_lanes(along[k]) / A(size) * r[k];
        for_lanes<(R > 1)>(size, [&](Int i, auto lanes) PK_INLINE {
          for (int k = 0; k < R; ++k) {
            const auto v = load_vec<B>(in.x + at + k * c + i, lanes);
            const auto grad_z = load_vec<B>(scratch + k * size + i, lanes);
            write(mode, grad_x + at + k * c + i, (grad_z - v * mean[k]) * r[k], lanes);
          }
        });
      }
    };
    for_rows(in, in.groups || !streamed, rows);
    if (streamed) stream_done();
  }
};

template <class T, class A>
void forward(const Block<T>& in, const A* scale, const A* shift, Store mode, T* y, A* sum_sq) {
  run_best<Forward>(in, scale, shift, mode, y, sum_sq);
}

template <class T, class A>
void backward(const Block<T>& in, const T* grad_y, const A* p, const A* q, Store mode, T* grad_x, A* scratch, A* sums) {
  run_best<Backward>(in, grad_y, p, q, mode, grad_x, scratch, sums);
}

// Runs body(first, last, block_sums) on blocks of at most kFlushRows rows and adds the sums up in double.
template <class A, class Body>
void flush_blocks(Int first, Int last, Int width, double* sums, Body&& body) {
  std::vector<A> block(width);
  for (Int row = first; row < last; row += kFlushRows) {
    std::fill(block.begin(), block.end(), A(0));
    body(row, std::min(row + kFlushRows, last), block.data());
    for (Int i = 0; i < width; ++i) sums[i] += double(block[i]);
  }
}

// Calls valid(first, last) for maximal runs of valid rows; padding rows of grad_x become 0.
template <class T, class Valid>
void for_valid_runs(const Block<T>& in, Int first, Int last, Store mode, T* grad_x, Valid&& valid) {
  while (first < last) {
    Int end = first + 1;
    while (end < last && in.pad(end) == in.pad(first)) ++end;
    if (!in.pad(first))
      valid(first, end);
    else if (mode != Store::none)
      std::fill(grad_x + first * in.features, grad_x + end * in.features, store<T>(acc_t<T>(0)));
    first = end;
  }
}

// Around the caches when the output is large and every store aligned.
template <class T>
Store store_mode(const Block<T>& in, const T* out) {
  const bool aligned = (reinterpret_cast<std::uintptr_t>(out) | (in.group_size() * sizeof(T))) % 16 == 0;
  return aligned && in.rows * in.features * Int(sizeof(T)) > kStreamBytes ? Store::streamed : Store::cached;
}

template <class T>
Block<T> block_of(const void* x, Maybe pad_mask, Int n, Int c, Int groups, double eps) {
  return {static_cast<const T*>(x), pad_mask.as<unsigned char>(), n, c, groups, acc_t<T>(eps)};
}

}  // namespace

void power_norm_stats_cpu(DType dtype, const void* x, Maybe pad_mask, void* mean_sq, Int n, Int c, Int groups,
                          double eps, Threads threads) {
  dispatch("power_norm_stats", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const auto in = block_of<T>(x, pad_mask, n, c, groups, eps);
    const std::vector<A> none(c);
    const auto sums = reduce_rows(n, c, threads, [&](Int first, Int last, double* chunk) {
      flush_blocks<A>(first, last, c, chunk, [&](Int b, Int e, A* sum_sq) {
        forward(in.slice(b, e), none.data(), none.data(), Store::none, static_cast<T*>(nullptr), sum_sq);
      });
    });
    const double valid = in.count_valid();
    for (Int i = 0; i < c; ++i) static_cast<A*>(mean_sq)[i] = A(sums[i] / valid);
  });
}

void power_norm_fwd_cpu(DType dtype, const void* x, Maybe weight, Maybe bias, const void* psi2, Maybe pad_mask, void* y,
                        void* mean_sq, Int n, Int c, Int groups, double eps, Threads threads) {
  dispatch("power_norm_fwd", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const A *w = weight.as<A>(), *b = bias.as<A>(), *psi = static_cast<const A*>(psi2);
    std::vector<A> scale(c), shift(c);
    for (Int i = 0; i < c; ++i) {
      scale[i] = (w ? w[i] : A(1)) / std::sqrt(psi[i] + A(eps));
      shift[i] = b ? b[i] : A(0);
    }
    const auto in = block_of<T>(x, pad_mask, n, c, groups, eps);
    T* out = static_cast<T*>(y);
    const Store mode = store_mode(in, out);
    const auto sums = reduce_rows(n, c, threads, [&](Int first, Int last, double* chunk) {
      flush_blocks<A>(first, last, c, chunk, [&](Int b, Int e, A* sum_sq) {
        forward(in.slice(b, e), scale.data(), shift.data(), mode, out + b * c, sum_sq);
      });
    });
    const double valid = in.count_valid();
    for (Int i = 0; i < c; ++i) static_cast<A*>(mean_sq)[i] = A(sums[i] / valid);
  });
}

void power_norm_bwd_cpu(DType dtype, const void* x, const void* grad_y, Maybe weight, const void* psi2,
                        const void* scale2, Maybe nu, Maybe pad_mask, void* grad_x, void* grad_weight, void* grad_bias,
                        void* grad_nu, Int n, Int c, Int groups, double eps, Threads threads) {
  dispatch("power_norm_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const A *w = weight.as<A>(), *v = nu.as<A>();
    const A *psi = static_cast<const A*>(psi2), *den = static_cast<const A*>(scale2);
    std::vector<A> p(c), q(c);
    for (Int i = 0; i < c; ++i) {
      p[i] = (w ? w[i] : A(1)) / std::sqrt(den[i] + A(eps));
      q[i] = v ? v[i] / std::sqrt(psi[i] + A(eps)) / std::sqrt(den[i] + A(eps)) : A(0);
    }
    const auto in = block_of<T>(x, pad_mask, n, c, groups, eps);
    const T* g = static_cast<const T*>(grad_y);
    T* out = static_cast<T*>(grad_x);
    const Store mode = store_mode(in, out);
    const auto sums = reduce_rows(n, 3 * c, threads, [&](Int first, Int last, double* chunk) {
      std::vector<A> scratch(groups ? kRows * in.group_size() : 0);
      flush_blocks<A>(first, last, 3 * c, chunk, [&](Int b, Int e, A* block_sums) {
        for_valid_runs(in, b, e, mode, out, [&](Int row, Int end) {
          backward(in.slice(row, end), g + row * c, p.data(), q.data(), mode, out + row * c, scratch.data(),
                   block_sums);
        });
      });
    });
    const double valid = in.count_valid();
    for (Int i = 0; i < c; ++i) {
      const double inv = 1.0 / std::sqrt(double(psi[i] + A(eps)));
      const double dot = sums[i] * inv, gamma = sums[2 * c + i] * inv * inv;
      static_cast<A*>(grad_weight)[i] = A(dot);
      static_cast<A*>(grad_bias)[i] = A(sums[c + i]);
      static_cast<A*>(grad_nu)[i] = A(((v ? v[i] : A(0)) * gamma - (w ? w[i] : A(1)) * dot) / valid);
    }
  });
}

void power_norm_v_bwd_cpu(DType dtype, const void* x, const void* grad_y, Maybe weight, const void* psi2,
                          Maybe pad_mask, void* grad_x, void* grad_weight, void* grad_bias, Int n, Int c, Int groups,
                          double eps, Threads threads) {
  dispatch("power_norm_v_bwd", dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const A *w = weight.as<A>(), *psi = static_cast<const A*>(psi2);
    const auto in = block_of<T>(x, pad_mask, n, c, groups, eps);
    const T* g = static_cast<const T*>(grad_y);
    T* out = static_cast<T*>(grad_x);
    const std::vector<A> none(c);
    // Two passes of the same rows: sums over the valid ones, and once Lambda is known the gradient.
    const auto pass = [&](const A* p, const A* q, Store mode) {
      return reduce_rows(n, 3 * c, threads, [&](Int first, Int last, double* chunk) {
        std::vector<A> scratch(groups ? kRows * in.group_size() : 0);
        flush_blocks<A>(first, last, 3 * c, chunk, [&](Int b, Int e, A* block_sums) {
          for_valid_runs(in, b, e, mode, out, [&](Int row, Int end) {
            backward(in.slice(row, end), g + row * c, p, q, mode, out + row * c, scratch.data(), block_sums);
          });
        });
      });
    };
    const auto sums = pass(none.data(), none.data(), Store::none);
    const double valid = in.count_valid();
    std::vector<A> p(c), q(c);
    for (Int i = 0; i < c; ++i) {
      const A inv = A(1) / std::sqrt(psi[i] + A(eps));
      const double dot = sums[i] * double(inv), lambda = (w ? w[i] : A(1)) * dot / valid;
      p[i] = (w ? w[i] : A(1)) * inv;
      q[i] = A(lambda) * inv * inv;
      static_cast<A*>(grad_weight)[i] = A(dot);
      static_cast<A*>(grad_bias)[i] = A(sums[c + i]);
    }
    pass(p.data(), q.data(), store_mode(in, out));
  });
}

}  // namespace pk
