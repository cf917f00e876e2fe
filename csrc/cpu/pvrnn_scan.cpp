// PV-RNN scans on the CPU: a group of sequences a task, step by step, so that a step's products share the weights in
// the cache. SIMD lanes lie along units and latents; weights are packed once, with rows of whole registers. The
// backward pass computes the latents of a step again from the states.
#include <algorithm>
#include <vector>

#include "pk/pvrnn.h"
#include "pk/rows.h"
#include "pk/vec_math.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kMostRows = 16;  // sequences of a group

struct VecMath {
  template <class V>
  PK_HD static V tanh_of(const V& v) {
    return vec_tanh(v);
  }
  template <class V>
  PK_HD static V exp_of(const V& v) {
    return vec_exp(v);
  }
  template <class A, int B>
  PK_HD static Vec<A, B> clamp_of(const Vec<A, B>& v, A low, A high) {
    return map_registers(v, [&](auto x) PK_INLINE {
      const decltype(x) least = decltype(x){} + low, most = decltype(x){} + high;
      x = x < least ? least : x;
      return x > most ? most : x;
    });
  }
  // `value` where v lies within the bounds, else 0.
  template <class A, int B>
  PK_HD static Vec<A, B> inside(const Vec<A, B>& v, A low, A high, const Vec<A, B>& value) {
    Vec<A, B> kept;
    const typename Vec<A, B>::Register zero{};
    for (int i = 0; i < v.kRegisters; ++i) {
      kept.part[i] = v.part[i] >= zero + low ? value.part[i] : zero;
      kept.part[i] = v.part[i] <= zero + high ? kept.part[i] : zero;
    }
    return kept;
  }
};

Int padded(Int n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Weights with rows of whole registers; zeros fill them.
template <class A>
struct Packed {
  Int dp, zp;
  std::vector<A> heads, head_bias;  // (D, 4 Zp), (4 Zp): a block of Zp for each statistic
  std::vector<A> moves, bias;       // (D + Z, Dp), (Dp): what d and z add to the input of a unit
  std::vector<A> rows, z, leak;     // (D + 4 Z, Dp), (D, Zp), (Dp)

  Packed(const Pvrnn<A>& in, bool backward)
      : dp(padded(in.d)), zp(padded(in.z)), heads(in.d * 4 * zp), head_bias(4 * zp), bias(dp), leak(dp) {
    for (Int k = 0; k < 4 * in.z; ++k) {
      const Int to = k / in.z * zp + k % in.z, row = in.d + k;
      head_bias[to] = in.bias[row];
      for (Int j = 0; j < in.d; ++j) heads[j * 4 * zp + to] = in.weight[row * in.d + j];
    }
    std::copy_n(in.leak, in.d, leak.data());
    std::copy_n(in.bias, in.d, bias.data());
    if (!backward) {
      moves.resize((in.d + in.z) * dp);
      for (Int i = 0; i < in.d; ++i) {
        for (Int j = 0; j < in.d; ++j) moves[j * dp + i] = in.weight[i * in.d + j];
        for (Int k = 0; k < in.z; ++k) moves[(in.d + k) * dp + i] = in.z_weight[i * in.z + k];
      }
      return;
    }
    rows.resize(in.all() * dp);
    z.resize(in.d * zp);
    for (Int r = 0; r < in.all(); ++r) std::copy_n(in.weight + r * in.d, in.d, &rows[r * dp]);
    for (Int i = 0; i < in.d; ++i) std::copy_n(in.z_weight + i * in.z, in.z, z.data() + i * zp);
  }
};

// Numbers of a group's step, for each of its sequences.
template <class A>
struct Group {
  Int stride;                                // of x
  std::vector<A> h, x, heads, made, into_d;  // (Dp), (d: Dp, with z behind its D: Zp), (4 Zp), (Dp or Zp), (Dp)
  Group(const Packed<A>& w, Int rows)
      : stride(w.dp + w.zp),
        h(rows * w.dp),
        x(rows * stride),
        heads(rows * 4 * w.zp),
        made(rows * std::max(w.dp, w.zp)),
        into_d(rows * w.dp) {}
};

template <int B, class A>
PK_HD void keep(A* to, const typename Vec<A, B>::Register& v) {
  memcpy(to, &v, B);
}
template <int B, class A>
PK_HD typename Vec<A, B>::Register take(const A* from) {
  typename Vec<A, B>::Register v;
  memcpy(&v, from, B);
  return v;
}

// Pre-activations of the statistics of all sequences, without A.
template <int B, class A>
PK_HD void all_heads(const Packed<A>& w, Int count, Int depth, const Broadcast<A>& d, A* heads) {
  const Int width = 4 * w.zp;
  product<B>(count, width, depth, d, w.heads.data(), [&](Int row, Int j, auto sum) PK_INLINE {
    keep<B>(heads + row * width + j, sum + take<B>(w.head_bias.data() + j));
  });
}

// The pre-activations of the latents from j on.
template <int B, class A, class Lanes>
PK_HD Latents<Vec<A, B>> pre_at(const A* heads, Int zp, const A* adapt, Int z, Int j, Lanes lanes) {
  Latents<Vec<A, B>> pre{load_vec<B>(heads + j), load_vec<B>(heads + zp + j), load_vec<B>(heads + 2 * zp + j),
                         load_vec<B>(heads + 3 * zp + j)};
  if (adapt) {
    pre.mean += load_vec<B>(adapt + j, lanes);
    pre.log_sigma += load_vec<B>(adapt + z + j, lanes);
  }
  return pre;
}

struct Scan {
  template <int B, class A>
  PK_HD static void run(const Pvrnn<A>& in, const Packed<A>& w, const PvrnnOutputs<A>& out, Int first, Int count,
                        Group<A>* group) {
    A *const h = group->h.data(), *const x = group->x.data(), *const made = group->made.data();
    const Int stride = group->stride;
    for (Int r = 0; r < count; ++r)
      for_lanes(in.d, [&](Int j, auto lanes) PK_INLINE {
        const auto v = load_vec<B>(in.h0 + (first + r) * in.d + j, lanes);
        store_vec(h + r * w.dp + j, v);
        store_vec(x + r * stride + j, vec_tanh(v));
      });
    for (Int t = 0; t < in.steps; ++t) {
      all_heads<B>(w, count, in.d, Broadcast<A>{x, stride, 1}, group->heads.data());
      for (Int r = 0; r < count; ++r)
        latents<B>(in, w, out, first + r, t, group->heads.data() + r * 4 * w.zp, x + r * stride + in.d);
      product<B>(count, w.dp, in.d + in.z, Broadcast<A>{x, stride, 1}, w.moves.data(),
                 [&](Int r, Int j, auto sum) PK_INLINE { keep<B>(made + r * w.dp + j, sum); });
      for (Int r = 0; r < count; ++r) move<B>(in, w, out, first + r, t, made + r * w.dp, h + r * w.dp, x + r * stride);
    }
    for (Int r = 0; r < count; ++r) std::copy_n(h + r * w.dp, in.d, out.last + (first + r) * in.d);
  }

  template <int B, class A>
  PK_HD static void latents(const Pvrnn<A>& in, const Packed<A>& w, const PvrnnOutputs<A>& out, Int row, Int t,
                            const A* heads, A* to) {
    const Int at = (row * in.steps + t) * in.z;
    if (t >= in.end(row)) {
      std::fill_n(out.z + at, in.z, A(0));
      std::fill_n(out.kl + at, in.z, A(0));
      std::fill_n(out.stats + 4 * at, 4 * in.z, A(0));
      return;
    }
    const A* const adapt = in.adapt_at(row, t);
    for_lanes(in.z, [&](Int j, auto lanes) PK_INLINE {
      const auto pre = pre_at<B>(heads, w.zp, adapt, in.z, j, lanes);
      const auto s = latents_of<VecMath>(pre, Vec<A, B>{}, in.normal(t), adapt != nullptr, in.low, in.high);
      const auto z = s.mean + vec_exp(s.log_sigma) * load_vec<B>(in.noise + at + j, lanes);
      store_vec(to + j, z);
      store_vec(out.z + at + j, z, lanes);
      store_vec(out.kl + at + j, kl_of<VecMath, A>(s), lanes);
      A* const stats = out.stats + 4 * at + j;
      store_vec(stats, s.prior_mean, lanes);
      store_vec(stats + in.z, s.prior_log, lanes);
      store_vec(stats + 2 * in.z, s.mean, lanes);
      store_vec(stats + 3 * in.z, s.log_sigma, lanes);
    });
  }

  template <int B, class A>
  PK_HD static void move(const Pvrnn<A>& in, const Packed<A>& w, const PvrnnOutputs<A>& out, Int row, Int t,
                         const A* made, A* h, A* d) {
    A* const to = out.d + (row * in.steps + t) * in.d;
    if (t >= in.end(row)) {
      std::fill_n(to, in.d, A(0));
      return;
    }
    for_lanes(in.d, [&](Int j, auto lanes) PK_INLINE {
      const auto before = load_vec<B>(h + j);
      const auto input = load_vec<B>(made + j) + load_vec<B>(w.bias.data() + j);
      const auto after = before + load_vec<B>(w.leak.data() + j) * (input - before), state = vec_tanh(after);
      store_vec(h + j, after);
      store_vec(d + j, state);
      store_vec(to + j, state, lanes);
    });
  }
};

struct ScanBackward {
  template <int B, class A>
  PK_HD static void run(const Pvrnn<A>& in, const Packed<A>& w, const PvrnnGrads<A>& g, Int first, Int count,
                        Group<A>* group) {
    A *const into_h = group->h.data(), *const x = group->x.data(), *const into_d = group->into_d.data();
    A *const made = group->made.data(), *const heads = group->heads.data();
    const Int stride = group->stride, all = in.all();
    for (Int r = 0; r < count; ++r)
      for_lanes(in.d, [&](Int j, auto lanes) PK_INLINE {
        store_vec(x + r * stride + j, vec_tanh(load_vec<B>(in.h0 + (first + r) * in.d + j, lanes)));
        store_vec(into_h + r * w.dp + j, load_vec<B>(g.last + (first + r) * in.d + j, lanes));
        store_vec(into_d + r * w.dp + j, Vec<A, B>{});
      });
    for (Int t = in.steps - 1; t >= 0; --t) {
      A* const pre = g.pre + (first * in.steps + t) * all;
      const Int down = in.steps * all;
      for (Int r = 0; r < count; ++r)
        move_back<B>(in, w, g, first + r, t, into_h + r * w.dp, into_d + r * w.dp, pre + r * down);
      product<B>(count, w.zp, in.d, Broadcast<A>{pre, down, 1}, w.z.data(),
                 [&](Int r, Int j, auto sum) PK_INLINE { keep<B>(made + r * w.zp + j, sum); });
      const A* const before = g.states + (first * in.steps + t - 1) * in.d;
      const Broadcast<A> d = t ? Broadcast<A>{before, in.steps * in.d, 1} : Broadcast<A>{x, stride, 1};
      all_heads<B>(w, count, in.d, d, heads);
      for (Int r = 0; r < count; ++r)
        latents_back<B>(in, w, g, first + r, t, heads + r * 4 * w.zp, made + r * w.zp, pre + r * down + in.d);
      product<B>(count, w.dp, all, Broadcast<A>{pre, down, 1}, w.rows.data(),
                 [&](Int r, Int j, auto sum) PK_INLINE { keep<B>(into_d + r * w.dp + j, sum); });
    }
    for (Int r = 0; r < count; ++r)
      for_lanes(in.d, [&](Int j, auto lanes) PK_INLINE {
        const auto d = load_vec<B>(x + r * stride + j);
        const auto from_d = load_vec<B>(into_d + r * w.dp + j) * (d * d * A(-1) + A(1));
        store_vec(g.h0 + (first + r) * in.d + j, load_vec<B>(into_h + r * w.dp + j) + from_d, lanes);
      });
  }

  // From the state of a step to the input of its units; into_h is left with what goes to the step before.
  template <int B, class A>
  PK_HD static void move_back(const Pvrnn<A>& in, const Packed<A>& w, const PvrnnGrads<A>& g, Int row, Int t, A* into_h,
                              const A* into_d, A* pre) {
    if (t >= in.end(row)) {
      std::fill_n(pre, in.all(), A(0));
      return;
    }
    const Int at = (row * in.steps + t) * in.d;
    for_lanes(in.d, [&](Int j, auto lanes) PK_INLINE {
      const auto d = load_vec<B>(g.states + at + j, lanes);
      const auto from_d = (load_vec<B>(into_d + j) + load_vec<B>(g.d + at + j, lanes)) * (d * d * A(-1) + A(1));
      const auto h = load_vec<B>(into_h + j) + from_d, input = h * load_vec<B>(w.leak.data() + j);
      store_vec(into_h + j, h - input);
      store_vec(pre + j, input, lanes);
    });
  }

  template <int B, class A>
  PK_HD static void latents_back(const Pvrnn<A>& in, const Packed<A>& w, const PvrnnGrads<A>& g, Int row, Int t,
                                 const A* heads, const A* into_z, A* pre) {
    const Int at = (row * in.steps + t) * in.z;
    if (t >= in.end(row)) {
      std::fill_n(g.noise + at, in.z, A(0));
      return;
    }
    const A* const adapt = in.adapt_at(row, t);
    for_lanes(in.z, [&](Int j, auto lanes) PK_INLINE {
      const auto before = pre_at<B>(heads, w.zp, adapt, in.z, j, lanes);
      const auto s = latents_of<VecMath>(before, Vec<A, B>{}, in.normal(t), adapt != nullptr, in.low, in.high);
      const A* const stats = g.stats + 4 * at + j;
      const Latents<Vec<A, B>> given{load_vec<B>(stats, lanes), load_vec<B>(stats + in.z, lanes),
                                     load_vec<B>(stats + 2 * in.z, lanes), load_vec<B>(stats + 3 * in.z, lanes)};
      const auto z = load_vec<B>(into_z + j) + load_vec<B>(g.z + at + j, lanes);
      Vec<A, B> of_noise;
      const auto into = into_latents<VecMath, A>(before, s, given, load_vec<B>(g.kl + at + j, lanes), z,
                                                 load_vec<B>(in.noise + at + j, lanes), Vec<A, B>{}, in.normal(t),
                                                 adapt != nullptr, in.low, in.high, of_noise);
      store_vec(g.noise + at + j, of_noise, lanes);
      store_vec(pre + j, into.prior_mean, lanes);
      store_vec(pre + in.z + j, into.prior_log, lanes);
      store_vec(pre + 2 * in.z + j, into.mean, lanes);
      store_vec(pre + 3 * in.z + j, into.log_sigma, lanes);
    });
  }
};

// Calls the kernel for each group of sequences.
template <class Kernel, class A, class Rest>
void run_groups(const Pvrnn<A>& in, const Rest& rest, bool backward, Threads threads) {
  const Packed<A> w(in, backward);
  const Int each = std::clamp<Int>((in.rows + threads.count - 1) / threads.count, 1, kMostRows);
  const Int groups = (in.rows + each - 1) / each;
#pragma omp parallel num_threads(threads.count) if (groups > 1)
  {
    Group<A> group(w, each);
#pragma omp for schedule(static)
    for (Int k = 0; k < groups; ++k)
      run_best<Kernel>(in, w, rest, k * each, std::min(each, in.rows - k * each), &group);
  }
}

}  // namespace

void pvrnn_scan_cpu(DType dtype, const void* h0, const void* noise, const void* weight, const void* bias,
                    const void* z_weight, const void* leak, Maybe adapt, Maybe lengths, void* d, void* z, void* stats,
                    void* kl, void* last, Int rows, Int steps, Int units, Int latents, Int adapted, bool start,
                    double low, double high, Threads threads) {
  dispatch_wide("pvrnn_scan", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in = pvrnn_of<A>(h0, noise, weight, bias, z_weight, leak, adapt, lengths, rows, steps, units, latents,
                                adapted, start, low, high);
    const auto to = [](void* p) { return static_cast<A*>(p); };
    run_groups<Scan>(in, PvrnnOutputs<A>{to(d), to(z), to(stats), to(kl), to(last)}, false, threads);
  });
}

void pvrnn_scan_bwd_cpu(DType dtype, const void* h0, const void* noise, const void* weight, const void* bias,
                        const void* z_weight, const void* leak, Maybe adapt, Maybe lengths, const void* states,
                        const void* grad_d, const void* grad_z, const void* grad_stats, const void* grad_kl,
                        const void* grad_last, void* pre, void* grad_h0, void* grad_noise, Int rows, Int steps,
                        Int units, Int latents, Int adapted, bool start, double low, double high, Threads threads) {
  dispatch_wide("pvrnn_scan_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const auto in = pvrnn_of<A>(h0, noise, weight, bias, z_weight, leak, adapt, lengths, rows, steps, units, latents,
                                adapted, start, low, high);
    const auto of = [](const void* p) { return static_cast<const A*>(p); };
    const auto to = [](void* p) { return static_cast<A*>(p); };
    const PvrnnGrads<A> grads{of(states),    of(grad_d), of(grad_z),  of(grad_stats), of(grad_kl),
                              of(grad_last), to(pre),    to(grad_h0), to(grad_noise)};
    run_groups<ScanBackward>(in, grads, true, threads);
  });
}

}  // namespace pk
