// Layers of sums over log values on the CPU. Sixteen samples at a time: the largest input, exponentials of the
// distances to it, a product with the weights that keeps several outputs in registers, and a logarithm. Equations:
// python/probkernels/reference/sum_layer.py, which shifts every output by its own largest term. Here all outputs of a
// group share one shift, and the few that lie so far from it that terms may have left the range, for their inputs or
// for their weights, are computed once more by themselves.
#include <algorithm>
#include <cmath>
#include <vector>

#include "pk/launch.h"
#include "pk/vec_math.h"

namespace pk {
namespace {

using Int = std::int64_t;

constexpr Int kSpan = 128;                     // samples of a task, forward
constexpr Int kTileBytes = Int(64) << 10;      // of scratch, backward, if kMinTile samples need no more
constexpr Int kMinTile = 128, kMaxTile = 256;  // samples that are summed before the sums leave the registers
constexpr Int kWantedTasks = 16;               // backward, where groups are too few
constexpr Int kMinChunk = 256;                 // samples

template <class A>
struct Layer {
  const A *x, *weights;  // (G, I, B), (G, O, I)
  Int groups, outs, ins, batch;
};

// Below this share of the largest input, times the output's largest weight if that is above 1, terms that a sum needs
// may have been lost: those above 2^-62 of it are there.
template <class A>
constexpr A kFar = sizeof(A) == 4 ? A(0x1p-64) : A(0x1p-960);
// Gradients that are this many times larger may leave the range.
template <class A>
constexpr A kSteep = A(0x1p10);
// Weights of which so many times the largest may lie above make sums that leave the range, or too little of gradients.
template <class A>
constexpr A kHeavy = A(0x1p40);
template <class A>
constexpr A kLargestLog = sizeof(A) == 4 ? A(88) : A(709);

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

// Scratch memory in cache lines.
template <class A>
struct alignas(64) Lanes {
  A lane[kLanes];
};
template <class A>
using LaneRows = std::vector<Lanes<A>>;

constexpr Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

// Outputs whose sums are kept in registers: eight registers of sums, or one output.
template <class A, int B>
constexpr int kBlock = std::max(8 / Vec<A, B>::kRegisters, 1);

// Each sample's largest input, 0 where that is infinite.
template <int B, class A, class L>
PK_HD Vec<A, B> largest(const A* x, Int ins, Int batch, L lanes) {
  Vec<A, B> top = load_vec<B>(x, lanes);
  for (Int i = 1; i < ins; ++i) top = vec_max(load_vec<B>(x + i * batch, lanes), top);
  return top;
}
template <class A, int B>
PK_HD Vec<A, B> finite_or_zero(const Vec<A, B>& v) {
  return map_registers(v, [](auto r) PK_INLINE {
    const decltype(r) zero{};
    r = r < kInfinity<A> ? r : (r == kInfinity<A> ? zero : r);
    return r == -kInfinity<A> ? zero : r;
  });
}

// e[i * stride] = exp(x[i] - top)
template <int B, class A, class L>
PK_HD void exponentials(const A* x, Int ins, Int batch, const Vec<A, B>& top, A* e, Int stride, L lanes) {
  for (Int i = 0; i < ins; ++i) store_vec(e + i * stride, vec_exp(load_vec<B>(x + i * batch, lanes) - top));
}

// acc[k] = sum over j < n of w[k * across + j * along] * v[j * stride]
template <int R, class A, int B>
PK_HD void products(const A* w, Int across, Int along, const A* v, Int stride, Int n, Vec<A, B> (&acc)[R]) {
  for (int k = 0; k < R; ++k) acc[k] = {};
  for (Int j = 0; j < n; ++j) {
    const auto lanes = load_vec<B>(v + j * stride);
#pragma GCC unroll 8
    for (int k = 0; k < R; ++k) acc[k] += lanes * w[k * across + j * along];
  }
}

// Calls body(Const<R>, first) for blocks of R of n rows, and of one for the rest.
template <int R, class Body>
PK_HD void for_blocks(Int n, Body&& body) {
  Int i = 0;
  for (; i + R <= n; i += R) body(Const<R>{}, i);
  for (; i < n; ++i) body(Const<1>{}, i);
}

// Whether an input of one of the samples is +inf: 0 times that is no number, so an input without weight would show.
template <class A, int B>
PK_HD bool has_infinite(const Vec<A, B>& highest) {
  return any_above(highest, Vec<A, B>{} + std::numeric_limits<A>::max());
}
template <class A, int B>
PK_HD A lane_of(const Vec<A, B>& v, int lane) {
  return v.part[lane / Vec<A, B>::kWidth][lane % Vec<A, B>::kWidth];
}

// Of every row of weights the largest, at least 1; infinity if its outputs are always to be computed by themselves.
struct Most {
  template <int B, class A>
  PK_HD static void run(const A* weights, Int rows, Int ins, A* most) {
    for (Int row = 0; row < rows; ++row, weights += ins) {
      Vec<A, B> lanes = Vec<A, B>{} + A(1);
      for_lanes(ins, [&](Int i, auto n) PK_INLINE { lanes = vec_max(load_vec<B>(weights + i, n), lanes); });
      A top = 1;
      for (int lane = 0; lane < kLanes; ++lane) top = std::max(top, lane_of(lanes, lane));
      most[row] = top * A(ins) > kHeavy<A> ? kInfinity<A> : top;
    }
  }
};
template <class A>
std::vector<A> largest_weights(const Layer<A>& in, Threads threads) {
  std::vector<A> most(in.groups * in.outs);
#pragma omp parallel for num_threads(threads.count) schedule(static) if (in.groups > 1)
  for (Int g = 0; g < in.groups; ++g)
    run_best<Most>(in.weights + g * in.outs * in.ins, in.outs, in.ins, most.data() + g * in.outs);
  return most;
}

// w exp(d) where that is in the range, though exp(d) may not be.
template <class A>
A weighted_exp(A w, A d) {
  const A root = std::exp(d / 2);
  return w * root * root;
}

// --- forward ---

// One output of one sample by itself.
template <class A>
__attribute__((noinline)) A sum_alone(const A* x, const A* weights, Int ins, Int batch) {
  A top = -kInfinity<A>, sum = 0;
  for (Int i = 0; i < ins; ++i)
    if (weights[i] > 0) top = std::max(top, std::log(weights[i]) + x[i * batch]);
  if (std::isinf(top)) top = 0;
  for (Int i = 0; i < ins; ++i)
    if (weights[i] != 0) sum += weighted_exp(weights[i], x[i * batch] - top);
  return top + std::log(sum);
}

struct Forward {
  // Samples [begin, end) of a group; e holds a row of lanes for each input.
  template <int B, class A>
  PK_HD static void run(const Layer<A>& in, const A* most, Int group, Int begin, Int end, A* e, A* y) {
    const A *x = in.x + group * in.ins * in.batch, *weights = in.weights + group * in.outs * in.ins;
    most += group * in.outs;
    y += group * in.outs * in.batch;
    for_lanes(end - begin, [&](Int offset, auto lanes) PK_INLINE {
      const Int b = begin + offset;
      const auto highest = largest<B>(x + b, in.ins, in.batch, lanes), top = finite_or_zero(highest);
      exponentials<B>(x + b, in.ins, in.batch, top, e, kLanes, lanes);
      const auto far = map_registers(highest, [](auto r) PK_INLINE {  // no sum of nothing is far
        return r == -kInfinity<A> ? r : decltype(r){} + kFar<A>;
      });
      if (__builtin_expect(has_infinite(highest), 0)) {
        for (Int o = 0; o < in.outs; ++o)
          for (int lane = 0; lane < lanes; ++lane)
            y[o * in.batch + b + lane] = sum_alone(x + b + lane, weights + o * in.ins, in.ins, in.batch);
        return;
      }
      for_blocks<kBlock<A, B>>(in.outs, [&](auto count, Int o) PK_INLINE {
        constexpr int R = decltype(count)::value;
        Vec<A, B> sum[R];
        products(weights + o * in.ins, in.ins, Int(1), e, Int(kLanes), in.ins, sum);
        Vec<A, B> lost = {};  // by how much sums are too small
        bool heavy = false;
        for (int k = 0; k < R; ++k) {
          store_vec(y + (o + k) * in.batch + b, top + vec_log(sum[k]), lanes);
          lost = vec_max(far * most[o + k] - sum[k], lost);
          heavy = heavy || most[o + k] == kInfinity<A>;
        }
        if (__builtin_expect(heavy || any_above(lost, Vec<A, B>{}), 0))
          for (int k = 0; k < R; ++k)
            for (int lane = 0; lane < lanes; ++lane)
              if (most[o + k] == kInfinity<A> || !(lane_of(sum[k], lane) >= lane_of(far, lane) * most[o + k]))
                y[(o + k) * in.batch + b + lane] =
                    sum_alone(x + b + lane, weights + (o + k) * in.ins, in.ins, in.batch);
      });
    });
  }
};

template <class A>
void forward(const Layer<A>& in, const A* most, Int group, Int begin, Int end, A* e, A* y) {
  run_best<Forward>(in, most, group, begin, end, e, y);
}

// --- backward ---

template <class A>
struct Gradients {
  const A *y, *grad_y;  // (G, O, B)
  A* grad_x;            // (G, I, B)
  const A* most;        // (G, O)
};

struct Far {
  Int out, sample;
};

// What an output far from the largest input adds to the gradients of its inputs.
template <class A>
__attribute__((noinline)) void add_alone(const Layer<A>& in, const Gradients<A>& g, Int group, Far far, A* grad_w) {
  const A *x = in.x + group * in.ins * in.batch + far.sample, *w = in.weights + (group * in.outs + far.out) * in.ins;
  const Int at = (group * in.outs + far.out) * in.batch + far.sample;
  A* const grad_x = g.grad_x + group * in.ins * in.batch + far.sample;
  for (Int i = 0; i < in.ins; ++i) {
    const A distance = x[i * in.batch] - g.y[at];
    grad_x[i * in.batch] += weighted_exp(w[i], std::min(distance, 2 * kLargestLog<A>)) * g.grad_y[at];
    grad_w[far.out * in.ins + i] += std::exp(std::min(distance, kLargestLog<A>)) * g.grad_y[at];
  }
}

// grad_w[o, i] += sum over the lanes of r[o] e[i], for RO outputs and RI inputs; rows of `stride` lanes.
template <int B, int RO, int RI, class A>
PK_HD void add_outer(const A* r, const A* e, Int stride, Int ins, A* grad_w) {
  Vec<A, B> acc[RO][RI] = {};
  for (Int t = 0; t < stride; t += kLanes) {
    Vec<A, B> ev[RI];
    for (int k = 0; k < RI; ++k) ev[k] = load_vec<B>(e + k * stride + t);
#pragma GCC unroll 4
    for (int o = 0; o < RO; ++o) {
      const auto rv = load_vec<B>(r + o * stride + t);
#pragma GCC unroll 4
      for (int k = 0; k < RI; ++k) acc[o][k] += rv * ev[k];
    }
  }
  for (int o = 0; o < RO; ++o)
    for (int k = 0; k < RI; ++k) grad_w[o * ins + k] += sum_lanes(acc[o][k]);
}

struct Backward {
  // Samples [begin, end) of a group, `tile` at a time, of which e (I, tile) and r (O, tile) are kept.
  template <int B, class A>
  PK_HD static void run(const Layer<A>& in, const Gradients<A>& g, Int group, Int begin, Int end, Int tile, A* e, A* r,
                        std::vector<Far>* far, A* grad_w) {
    const A *x = in.x + group * in.ins * in.batch, *w = in.weights + group * in.outs * in.ins;
    const A *y = g.y + group * in.outs * in.batch, *grad_y = g.grad_y + group * in.outs * in.batch;
    const A* const most = g.most + group * in.outs;
    A* const grad_x = g.grad_x + group * in.ins * in.batch;
    for (Int first = begin; first < end; first += tile) {
      const Int n = std::min(tile, end - first), stride = ceil_div(n, kLanes) * kLanes;
      far->clear();
      for_lanes(n, [&](Int t, auto lanes) PK_INLINE {
        const Int b = first + t;
        const auto highest = largest<B>(x + b, in.ins, in.batch, lanes), top = finite_or_zero(highest);
        exponentials<B>(x + b, in.ins, in.batch, top, e + t, stride, lanes);
        const auto limit = map_registers(highest, [](auto r) PK_INLINE {  // all of something infinite is
          return r == kInfinity<A> ? decltype(r){} - A(1) : decltype(r){} + 1 / kFar<A>;
        });
        for (Int o = 0; o < in.outs; ++o)
          store_vec(r + o * stride + t, ratios(y, grad_y, in.batch, o, b, top, limit, most[o], far, lanes));
        if (__builtin_expect(has_infinite(highest), 0))
          for (int lane = 0; lane < lanes; ++lane)
            if (lane_of(highest, lane) == kInfinity<A>)
              for (Int i = 0; i < in.ins; ++i) e[i * stride + t + lane] = 0;
        for_blocks<kBlock<A, B>>(in.ins, [&](auto count, Int i) PK_INLINE {
          constexpr int R = decltype(count)::value;
          Vec<A, B> sum[R];
          products(w + i, Int(1), in.ins, r + t, stride, in.outs, sum);
          for (int k = 0; k < R; ++k)
            store_vec(grad_x + (i + k) * in.batch + b, sum[k] * load_vec<B>(e + (i + k) * stride + t), lanes);
        });
      });
      constexpr int kSide = kBlock<A, B> >= 8 ? 4 : kBlock<A, B> >= 4 ? 2 : 1;
      for_blocks<kSide>(in.outs, [&](auto outs, Int o) PK_INLINE {
        for_blocks<kSide>(in.ins, [&](auto ins, Int i) PK_INLINE {
          add_outer<B, decltype(outs)::value, decltype(ins)::value>(r + o * stride, e + i * stride, stride, in.ins,
                                                                    grad_w + o * in.ins + i);
        });
      });
      for (const Far& one : *far) add_alone(in, g, group, one, grad_w);
    }
  }

  // grad_y exp(top - y) of 16 samples of an output; 0 for those that need terms or gradients out of the range, or whose
  // largest input is infinite: `far` then lists them.
  template <int B, class A, class L>
  PK_HD static Vec<A, B> ratios(const A* y, const A* grad_y, Int batch, Int o, Int b, const Vec<A, B>& top,
                                const Vec<A, B>& limit, A most, std::vector<Far>* far, L lanes) {
    const A* const at = y + o * batch + b;
    const auto below = vec_exp(top - load_vec<B>(at, lanes));
    auto ratio = load_vec<B>(grad_y + o * batch + b, lanes) * below;
    Vec<A, B> size;
    for (int k = 0; k < ratio.kRegisters; ++k) {
      const auto steep = ratio.part[k] * (1 / kSteep<A>), up = steep > -steep ? steep : -steep;
      size.part[k] = (up > below.part[k] ? up : below.part[k]) * most;
    }
    if (__builtin_expect(most > A(1), 0)) {  // such weights may bring back a flow that leaves the range here
      const auto flow = load_vec<B>(grad_y + o * batch + b, lanes);
      for (int k = 0; k < ratio.kRegisters; ++k) {
        const auto kept = ratio.part[k], up = kept > -kept ? kept : -kept;
        const auto lost = flow.part[k] == A(0) ? decltype(up){} + A(1) : up;
        size.part[k] = lost < std::numeric_limits<A>::min() ? decltype(up){} + kInfinity<A> : size.part[k];
      }
    }
    if (most == kInfinity<A>) size = Vec<A, B>{} + most;
    if (__builtin_expect(any_above(size, limit), 0)) {
      for (int k = 0; k < ratio.kRegisters; ++k)
        ratio.part[k] = size.part[k] > limit.part[k] ? typename Vec<A, B>::Register{} : ratio.part[k];
      for (int lane = 0; lane < lanes; ++lane)
        if (lane_of(size, lane) > lane_of(limit, lane) && at[lane] != -kInfinity<A>) far->push_back({o, b + lane});
    }
    return ratio;
  }
};

template <class A>
void backward(const Layer<A>& in, const Gradients<A>& g, Int group, Int begin, Int end, Int tile, A* e, A* r,
              std::vector<Far>* far, A* grad_w) {
  run_best<Backward>(in, g, group, begin, end, tile, e, r, far, grad_w);
}

}  // namespace

void sum_layer_cpu(DType dtype, const void* x, const void* weights, void* y, Int groups, Int outs, Int ins, Int batch,
                   Threads threads) {
  dispatch_wide("sum_layer", dtype, [&](auto element) {
    using A = decltype(element);
    const Layer<A> in{static_cast<const A*>(x), static_cast<const A*>(weights), groups, outs, ins, batch};
    const Int spans = ceil_div(batch, kSpan);
    const std::vector<A> most = largest_weights(in, threads);
#pragma omp parallel num_threads(threads.count) if (groups * spans > 1)
    {
      LaneRows<A> e(ins);
#pragma omp for schedule(static)
      for (Int task = 0; task < groups * spans; ++task) {
        const Int begin = task % spans * kSpan;
        forward(in, most.data(), task / spans, begin, std::min(batch, begin + kSpan), e[0].lane, static_cast<A*>(y));
      }
    }
  });
}

void sum_layer_bwd_cpu(DType dtype, const void* x, const void* weights, const void* y, const void* grad_y, void* grad_x,
                       void* grad_weights, Int groups, Int outs, Int ins, Int batch, Threads threads) {
  dispatch_wide("sum_layer_bwd", dtype, [&](auto element) {
    using A = decltype(element);
    const Layer<A> in{static_cast<const A*>(x), static_cast<const A*>(weights), groups, outs, ins, batch};
    const std::vector<A> most = largest_weights(in, threads);
    const Gradients<A> g{static_cast<const A*>(y), static_cast<const A*>(grad_y), static_cast<A*>(grad_x), most.data()};
    const Int fitting = kTileBytes / Int(sizeof(A) * (ins + outs)) / kLanes * kLanes;
    const Int tile = std::clamp(fitting, kMinTile, kMaxTile);
    // Few groups are cut into chunks of samples, by sizes alone; what they add up goes to partial sums of their own.
    const Int chunks = std::clamp<Int>(kWantedTasks / groups, 1, ceil_div(batch, kMinChunk)), size = outs * ins;
    const Int chunk = ceil_div(ceil_div(batch, chunks), kLanes) * kLanes;
    A* const total = static_cast<A*>(grad_weights);
    std::vector<A> partial((chunks - 1) * groups * size, A(0));
    std::fill(total, total + groups * size, A(0));
#pragma omp parallel num_threads(threads.count) if (groups * chunks > 1)
    {
      LaneRows<A> e(ins * tile / kLanes), r(outs * tile / kLanes);
      std::vector<Far> far;
#pragma omp for schedule(static)
      for (Int task = 0; task < groups * chunks; ++task) {
        const Int group = task / chunks, part = task % chunks;
        A* const sums = part ? partial.data() + ((part - 1) * groups + group) * size : total + group * size;
        const Int begin = std::min(batch, part * chunk), end = std::min(batch, begin + chunk);
        backward(in, g, group, begin, end, tile, e[0].lane, r[0].lane, &far, sums);
      }
#pragma omp for schedule(static)
      for (Int i = 0; i < groups * size; ++i)
        for (Int part = 0; part < chunks - 1; ++part) total[i] += partial[part * groups * size + i];
    }
  });
}

}  // namespace pk
