// PowerNorm on a GPU. One pass over the rows forward (2 memory accesses an element) and one backward (3), as long as a
// group of features fits a team of threads (pk/teams.h): every per-feature coefficient is known before the rows are
// read, and only a row's group scale needs the other threads. Equations: python/probkernels/reference/power_norm.py.
#include "pk/teams.h"

namespace pk {
namespace {

enum class Scaling { none, by_team, given };  // given: by scale_kernel, for groups wider than a team can be
enum class Pass { pn, v_sums, v_grad };       // PN's backward, and the two passes of PN-V's

// The rows and what every kernel here needs to know of them.
template <class T>
struct Rows {
  using A = acc_t<T>;
  const T* x;                   // (rows, features)
  const unsigned char* is_pad;  // (rows) or null
  Tiling tiling;
  Scaling scaling;
  const A *scale, *along;  // (rows, groups), when the scaling is given
  A eps, inv_size;

  Rows(const void* x, Maybe pad_mask, Int n, Int c, Int groups, double eps)
      : x(static_cast<const T*>(x)),
        is_pad(pad_mask.as<unsigned char>()),
        tiling(n, c, std::max<Int>(groups, 1)),
        scaling(groups ? Scaling::by_team : Scaling::none),
        scale(nullptr),
        along(nullptr),
        eps(A(eps)),
        inv_size(A(1.0 / double(tiling.size))) {}

  // For threads of V columns that run `kernel`.
  template <class Kernel>
  void split(int v, Kernel kernel) {
    if (scaling == Scaling::by_team && power_of_two(ceil_div(tiling.size, v)) > kMaxTeam) scaling = Scaling::given;
    tiling.set_teams(v, scaling == Scaling::by_team);
    tiling.set_chunks(resident_blocks(kernel, tiling.threads));
  }
  __device__ bool exists(Int row) const { return row < tiling.rows; }
  __device__ bool pad(Int row) const { return is_pad && is_pad[row]; }
};

// The backward's coefficients of a feature: grad_z = grad_y * p - z * q.
template <class A>
struct Coefficients {
  const A *weight, *psi2, *scale2, *nu;  // (features); weight and nu may be null
  A eps;
  __device__ A p(Int c) const { return (weight ? weight[c] : A(1)) / sqrt(scale2[c] + eps); }
  __device__ A q(Int c) const { return nu ? nu[c] / sqrt(psi2[c] + eps) / sqrt(scale2[c] + eps) : A(0); }
};

// One number a row that scale_kernel left for this thread's group.
template <int V, class T>
__device__ __forceinline__ void load_given(const Rows<T>& in, const Place<V>& at, const acc_t<T>* given,
                                           acc_t<T> (&to)[kTeamRows]) {
#pragma unroll
  for (int k = 0; k < kTeamRows; ++k)
    to[k] = k < at.count ? given[(at.row + k) * in.tiling.groups + at.group] : acc_t<T>(0);
}

// scale[k] = 1 / rms of the group in this thread's row k, or 1 without group scaling.
template <int V, class T>
__device__ __forceinline__ void group_scales(const Rows<T>& in, const Place<V>& at, const Pack<T, V> (&x)[kTeamRows],
                                             acc_t<T> (&scale)[kTeamRows]) {
  using A = acc_t<T>;
  if (in.scaling == Scaling::given) return load_given(in, at, in.scale, scale);
#pragma unroll
  for (int k = 0; k < kTeamRows; ++k) scale[k] = in.scaling == Scaling::none ? A(1) : A(0);
  if (in.scaling == Scaling::none) return;
#pragma unroll
  for (int k = 0; k < kTeamRows; ++k)
#pragma unroll
    for (int i = 0; i < V; ++i) scale[k] += x[k].get(i) * x[k].get(i);
  team_sum(scale, in.tiling.lanes);
#pragma unroll
  for (int k = 0; k < kTeamRows; ++k) scale[k] = rsqrt(scale[k] * in.inv_size + in.eps);
}

// y = z weight / sqrt(psi2 + eps) + bias if wanted; partials = sums of z^2 over valid rows.
template <class T, int V, bool kWrite>
__global__ void __launch_bounds__(kMaxTeam) fwd_kernel(Rows<T> in, const acc_t<T>* weight, const acc_t<T>* bias,
                                                       const acc_t<T>* psi2, T* y, acc_t<T>* partials) {
  using A = acc_t<T>;
  Place<V> at(in.tiling);
  A scale[V] = {}, shift[V] = {}, sum_sq[1][V] = {};
  int valid = 0;
  if (kWrite && at.active)
#pragma unroll
    for (int i = 0; i < V; ++i) {
      scale[i] = (weight ? weight[at.column + i] : A(1)) / sqrt(psi2[at.column + i] + in.eps);
      shift[i] = bias ? bias[at.column + i] : A(0);
    }
  for (int turn = 0; turn < in.tiling.turns; ++turn, at.go_to(in.tiling, at.row + kTeamRows)) {
    Pack<T, V> x[kTeamRows];
    A r[kTeamRows];
    load_rows(in.tiling, at, in.x, x);
    group_scales(in, at, x, r);
#pragma unroll
    for (int k = 0; k < kTeamRows; ++k) {
      if (k >= at.count) continue;
      const bool counts = !in.pad(at.row + k);
      valid += counts;
      Pack<T, V> out;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const A z = x[k].get(i) * r[k];
        if (counts) sum_sq[0][i] += z * z;
        out.set(i, z * scale[i] + shift[i]);
      }
      if (kWrite) store_row(in.tiling, at, y, k, out);
    }
  }
  write_partials(in.tiling, at, sum_sq, valid, partials);
}

// A thread's part of the backward: its coefficients and sums, and the rows it has at hand.
template <class T, int V, Pass kPass>
struct Backward {
  using A = acc_t<T>;
  static constexpr int kSums = kPass == Pass::pn ? 3 : 2;
  A p[V] = {}, q[V] = {}, sums[kSums][V] = {};
  Pack<T, V> x[kTeamRows], g[kTeamRows];
  A r[kTeamRows], along[kTeamRows] = {};  // along: mean of grad_z z over the group
  bool is_pad[kTeamRows];

  __device__ __forceinline__ A z(int k, int i) const { return x[k].get(i) * r[k]; }
  __device__ __forceinline__ A grad_z(int k, int i) const { return g[k].get(i) * p[i] - z(k, i) * q[i]; }
  __device__ __forceinline__ void load(const Rows<T>& in, const Place<V>& at, const T* grad_y) {
    load_rows(in.tiling, at, in.x, x);
    load_rows(in.tiling, at, grad_y, g);
#pragma unroll
    for (int k = 0; k < kTeamRows; ++k) is_pad[k] = k < at.count && in.pad(at.row + k);
  }
  __device__ __forceinline__ void find_along(const Rows<T>& in, const Place<V>& at) {
    if (in.scaling == Scaling::given) return load_given(in, at, in.along, along);
    if (in.scaling == Scaling::none) return;
#pragma unroll
    for (int k = 0; k < kTeamRows; ++k) {
      along[k] = 0;
#pragma unroll
      for (int i = 0; i < V; ++i) along[k] += grad_z(k, i) * z(k, i);
    }
    team_sum(along, in.tiling.lanes);
#pragma unroll
    for (int k = 0; k < kTeamRows; ++k) along[k] *= in.inv_size;
  }
  __device__ __forceinline__ void add_row(int k) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sums[0][i] += g[k].get(i) * z(k, i);
      sums[1][i] += g[k].get(i);
      if (kSums == 3) sums[kSums - 1][i] += z(k, i) * z(k, i);
    }
  }
  __device__ __forceinline__ Pack<T, V> grad_x(int k) const {
    Pack<T, V> out;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const A grad = (grad_z(k, i) - z(k, i) * along[k]) * r[k];
      out.set(i, is_pad[k] ? A(0) : grad);
    }
    return out;
  }
};

// grad_x unless only sums are wanted; partials = sums of grad_y z, grad_y and (PN) z^2 unless only grad_x is.
// Padding gets no gradient and adds to no sum.
template <class T, int V, Pass kPass>
__global__ void __launch_bounds__(kMaxTeam)
    bwd_kernel(Rows<T> in, const T* grad_y, Coefficients<acc_t<T>> coefficients, T* grad_x, acc_t<T>* partials) {
  Place<V> at(in.tiling);
  Backward<T, V, kPass> part;
  int valid = 0;
  if (kPass != Pass::v_sums && at.active)
#pragma unroll
    for (int i = 0; i < V; ++i) part.p[i] = coefficients.p(at.column + i), part.q[i] = coefficients.q(at.column + i);
  for (int turn = 0; turn < in.tiling.turns; ++turn, at.go_to(in.tiling, at.row + kTeamRows)) {
    part.load(in, at, grad_y);
    group_scales(in, at, part.x, part.r);
    if (kPass != Pass::v_sums) part.find_along(in, at);
#pragma unroll
    for (int k = 0; k < kTeamRows; ++k) {
      if (k >= at.count) continue;
      valid += !part.is_pad[k];
      if (kPass != Pass::v_grad && !part.is_pad[k]) part.add_row(k);
      if (kPass != Pass::v_sums) store_row(in.tiling, at, grad_x, k, part.grad_x(k));
    }
  }
  if (kPass != Pass::v_grad) write_partials(in.tiling, at, part.sums, valid, partials);
}

// For groups wider than a team: scale = 1 / rms (rows, groups), and backward along = mean of grad_z z. A block takes
// one group of kTeamRows rows, so that a feature's coefficients are worked out once for all of them.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kTeamThreads)
    scale_kernel(Rows<T> in, const T* grad_y, Coefficients<acc_t<T>> coefficients, acc_t<T>* scale, acc_t<T>* along) {
  using A = acc_t<T>;
  const Int groups = in.tiling.groups, group = blockIdx.x % groups, row = blockIdx.x / groups * kTeamRows;
  const Int first = group * in.tiling.size + threadIdx.x, last = (group + 1) * in.tiling.size;
  const auto index = [&](int k, Int c) { return (row + k) * in.tiling.features + c; };
  A r[kTeamRows] = {}, dot[kTeamRows] = {};
  for (Int c = first; c < last; c += kTeamThreads)
#pragma unroll
    for (int k = 0; k < kTeamRows; ++k)
      if (in.exists(row + k)) r[k] += load(in.x[index(k, c)]) * load(in.x[index(k, c)]);
  team_sum(r, kTeamThreads);
#pragma unroll
  for (int k = 0; k < kTeamRows; ++k) r[k] = rsqrt(r[k] * in.inv_size + in.eps);
  if (kBackward) {
    for (Int c = first; c < last; c += kTeamThreads) {
      const A p = coefficients.p(c), q = coefficients.q(c);
#pragma unroll
      for (int k = 0; k < kTeamRows; ++k)
        if (in.exists(row + k)) {
          const A z = load(in.x[index(k, c)]) * r[k];
          dot[k] += (load(grad_y[index(k, c)]) * p - z * q) * z;
        }
    }
    team_sum(dot, kTeamThreads);
  }
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int k = 0; k < kTeamRows; ++k)
    if (in.exists(row + k)) {
      scale[(row + k) * groups + group] = r[k];
      if (kBackward) along[(row + k) * groups + group] = dot[k] * in.inv_size;
    }
}

template <class A>
struct FinishFwd {
  A* mean_sq;
  __device__ void operator()(Int c, const double (&sums)[2]) const { mean_sq[c] = A(sums[0] / sums[1]); }
};

template <class A>
struct FinishBwd {
  Coefficients<A> in;
  A *grad_weight, *grad_bias, *grad_nu;
  __device__ void operator()(Int c, const double (&sums)[4]) const {
    const double inv = 1.0 / sqrt(double(in.psi2[c] + in.eps)), dot = sums[0] * inv, gamma = sums[2] * inv * inv;
    grad_weight[c] = A(dot);
    grad_bias[c] = A(sums[1]);
    grad_nu[c] = A(((in.nu ? in.nu[c] * gamma : 0.0) - (in.weight ? in.weight[c] : A(1)) * dot) / sums[3]);
  }
};

template <class A>
struct FinishV {
  Coefficients<A> in;
  A *grad_weight, *grad_bias, *lambda;  // lambda: mean of g x_hat over valid rows
  __device__ void operator()(Int c, const double (&sums)[3]) const {
    const double dot = sums[0] / sqrt(double(in.psi2[c] + in.eps));
    grad_weight[c] = A(dot);
    grad_bias[c] = A(sums[1]);
    lambda[c] = A((in.weight ? in.weight[c] : A(1)) * dot / sums[2]);
  }
};

// The scales of groups that are too wide for a team, worked out before the main kernel runs.
template <class T>
class GivenScales {
 public:
  using A = acc_t<T>;
  GivenScales(Rows<T>& in, const T* grad_y, const Coefficients<A>& coefficients, Stream stream)
      : scale_(count(in), stream), along_(grad_y ? count(in) : 0, stream) {
    if (in.scaling != Scaling::given) return;
    const dim3 grid(unsigned(ceil_div(in.tiling.rows, kTeamRows) * in.tiling.groups)), block(kTeamThreads);
    A *const scale = scale_.data(), *const along = along_.data();
    if (grad_y)
      PK_LAUNCH((scale_kernel<T, true>), grid, block, 0, stream, in, grad_y, coefficients, scale, along);
    else
      PK_LAUNCH((scale_kernel<T, false>), grid, block, 0, stream, in, grad_y, coefficients, scale, along);
    in.scale = scale, in.along = along;
  }

 private:
  static Int count(const Rows<T>& in) { return in.scaling == Scaling::given ? in.tiling.rows * in.tiling.groups : 0; }
  Scratch<A> scale_, along_;
};

template <bool kWrite, class T>
void forward(Rows<T> in, Maybe weight, Maybe bias, const void* psi2, void* y, void* mean_sq, Stream stream) {
  using A = acc_t<T>;
  choose_width<T>(in.tiling, {in.x, y}, [&](auto width) {
    in.split(width, fwd_kernel<T, width.value, kWrite>);
    const GivenScales<T> scales(in, nullptr, {}, stream);
    const Scratch<A> partials(in.tiling.chunks * in.tiling.partial_width(1), stream);
    PK_LAUNCH((fwd_kernel<T, width.value, kWrite>), in.tiling.grid(), dim3(in.tiling.threads), 0, stream, in,
              weight.as<A>(), bias.as<A>(), static_cast<const A*>(psi2), static_cast<T*>(y), partials.data());
    add_partials<1>(in.tiling, partials.data(), FinishFwd<A>{static_cast<A*>(mean_sq)}, stream);
  });
}

template <Pass kPass, class T, class Finish>
void backward(Rows<T> in, const void* grad_y, const Coefficients<acc_t<T>>& coefficients, void* grad_x,
              const Finish& finish, Stream stream) {
  using A = acc_t<T>;
  constexpr int K = kPass == Pass::pn ? 3 : 2;
  const T* const g = static_cast<const T*>(grad_y);
  choose_width<T>(in.tiling, {in.x, g, grad_x}, [&](auto width) {
    in.split(width, bwd_kernel<T, width.value, kPass>);
    const GivenScales<T> scales(in, kPass == Pass::v_sums ? nullptr : g, coefficients, stream);
    const Scratch<A> partials(kPass == Pass::v_grad ? 0 : in.tiling.chunks * in.tiling.partial_width(K), stream);
    PK_LAUNCH((bwd_kernel<T, width.value, kPass>), in.tiling.grid(), dim3(in.tiling.threads), 0, stream, in, g,
              coefficients, static_cast<T*>(grad_x), partials.data());
    if constexpr (kPass != Pass::v_grad) add_partials<K>(in.tiling, partials.data(), finish, stream);
  });
}

}  // namespace

void power_norm_stats_cuda(DType dtype, const void* x, Maybe pad_mask, void* mean_sq, Int n, Int c, Int groups,
                           double eps, Stream stream) {
  dispatch("power_norm_stats", dtype, [&](auto element) {
    const Rows<decltype(element)> in(x, pad_mask, n, c, groups, eps);
    forward<false>(in, {}, {}, nullptr, nullptr, mean_sq, stream);
  });
}

void power_norm_fwd_cuda(DType dtype, const void* x, Maybe weight, Maybe bias, const void* psi2, Maybe pad_mask,
                         void* y, void* mean_sq, Int n, Int c, Int groups, double eps, Stream stream) {
  dispatch("power_norm_fwd", dtype, [&](auto element) {
    const Rows<decltype(element)> in(x, pad_mask, n, c, groups, eps);
    forward<true>(in, weight, bias, psi2, y, mean_sq, stream);
  });
}

void power_norm_bwd_cuda(DType dtype, const void* x, const void* grad_y, Maybe weight, const void* psi2,
                         const void* scale2, Maybe nu, Maybe pad_mask, void* grad_x, void* grad_weight, void* grad_bias,
                         void* grad_nu, Int n, Int c, Int groups, double eps, Stream stream) {
  dispatch("power_norm_bwd", dtype, [&](auto element) {
    using A = acc_t<decltype(element)>;
    const Rows<decltype(element)> in(x, pad_mask, n, c, groups, eps);
    const auto psi = static_cast<const A*>(psi2), scale = static_cast<const A*>(scale2);
    const Coefficients<A> coefficients = {weight.as<A>(), psi, scale, nu.as<A>(), A(eps)};
    const FinishBwd<A> finish = {coefficients, static_cast<A*>(grad_weight), static_cast<A*>(grad_bias),
                                 static_cast<A*>(grad_nu)};
    backward<Pass::pn>(in, grad_y, coefficients, grad_x, finish, stream);
  });
}

void power_norm_v_bwd_cuda(DType dtype, const void* x, const void* grad_y, Maybe weight, const void* psi2,
                           Maybe pad_mask, void* grad_x, void* grad_weight, void* grad_bias, Int n, Int c, Int groups,
                           double eps, Stream stream) {
  dispatch("power_norm_v_bwd", dtype, [&](auto element) {
    using A = acc_t<decltype(element)>;
    const Rows<decltype(element)> in(x, pad_mask, n, c, groups, eps);
    const auto psi = static_cast<const A*>(psi2);
    const Scratch<A> lambda(c, stream);
    // Lambda plays the part of nu: the gradient subtracts it in the same place.
    const Coefficients<A> coefficients = {weight.as<A>(), psi, psi, lambda.data(), A(eps)};
    const FinishV<A> finish = {coefficients, static_cast<A*>(grad_weight), static_cast<A*>(grad_bias), lambda.data()};
    backward<Pass::v_sums>(in, grad_y, coefficients, nullptr, finish, stream);
    backward<Pass::v_grad>(in, grad_y, coefficients, grad_x, finish, stream);
  });
}

}  // namespace pk
