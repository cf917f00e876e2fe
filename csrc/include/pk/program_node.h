// The walk through a compiled circuit for a single row of data: lanes of SIMD are units of a node. Every sum has the
// order that it has where lanes are rows (program_cpu.h), so that the results are the same to the bit.
#pragma once
#include "pk/program_cpu.h"

namespace pk {
namespace {

template <int B>
PK_HD float fused(float a, float b, float c) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (B > 16) return __builtin_fmaf(a, b, c);  // an instruction there
#endif
  return fma_exactly(a, b, c);
}

PK_HD float flushed(float x) { return x < kLeast ? 0.0f : x; }

struct NodeWalk {
  template <int B, class Coder>
  PK_HD static void run(const Program& p, Scratch* s, Coder* coder) {
    float* const r = s->registers.data();
    Int turn = 0;
    for (Int row = 0; row < p.rows; ++row) {
      const Instruction in = p.code[row];
      if (in.op == ProgramOp::kCode) {
        coder->prefetch(p, in.m, 0, 1);
        mixture(r + in.a, in.n, *s);
        s->values[0] = coder->template operator()<B>(p, in.m, turn++, 0, static_cast<const Word*>(s->mixed.data()));
      } else if (in.op == ProgramOp::kMatvec) {
        matvec<B>(p, in, r);
      } else if (in.op == ProgramOp::kLeaf) {
        leaf(p, in, r, s->values[0]);
      } else {
        simple(in, r);
      }
    }
  }

  PK_HD static void simple(const Instruction& in, float* r) {
    float* const to = r + in.dst;
    switch (in.op) {
      case ProgramOp::kMultiply:
        for (Int k = 0; k < in.n; ++k) {
          const float x = in.b < 0 ? r[in.a + k] : flushed(r[in.a + k] * r[in.b + k]);
          to[k] = in.more ? to[k] + x : x;
        }
        return;
      case ProgramOp::kContract:
        for (Int k = 0; k < in.n; ++k) {
          float sum = in.more ? to[k] : 0.0f;
          for (Int j = 0; j < in.m; ++j) {
            const float x = r[in.a + k * in.step + j * in.stride];
            sum += in.b < 0 ? x : flushed(x * r[in.b + j]);
          }
          to[k] = sum;
        }
        return;
      case ProgramOp::kOuter:
        for (Int i = 0; i < in.n; ++i)
          for (Int j = 0; j < in.m; ++j) to[i * in.m + j] = flushed(r[in.a + i] * r[in.b + j]);
        return;
      case ProgramOp::kRescale:
        return rescale(to, in.n);
      default:
        for (Int k = 0; k < in.n; ++k) to[k] = 1.0f;
    }
  }

  PK_HD static void rescale(float* x, Int n) {
    float most = x[0];
    for (Int k = 1; k < n; ++k) most = most > x[k] ? most : x[k];
    std::int32_t bits;
    memcpy(&bits, &most, 4);
    bits = (254 - std::min(bits >> 23, 253)) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    for (Int k = 0; k < n; ++k) x[k] = most == 0 ? 1.0f : flushed(x[k] * scale);
  }

  // Sixteen sums side by side: their weights lie so, or are turned over.
  template <int B>
  PK_HD static void matvec(const Program& p, const Instruction& in, float* r) {
    float* const to = r + in.dst;
    const float* const x = r + in.a;
    Int k = 0;
    for (; k + kLanes <= in.n && (in.step == 1 || (in.stride == 1 && in.m % kLanes == 0)); k += kLanes) {
      const float* const w = p.weights + in.b + k * in.step;
      auto sum = in.more ? load_vec<B>(to + k) : Vec<float, B>{};
      if (in.step == 1) {
        for (Int j = 0; j < in.m; ++j) add_product<B>(sum, load_vec<B>(w + j * in.stride), x[j]);
      } else {
        alignas(64) float turned[kLanes * kLanes];
        for (Int j = 0; j < in.m; j += kLanes) {
          transpose(w + j, in.step, turned, kLanes);
          for (int i = 0; i < kLanes; ++i)
            add_product<B>(sum, load_vec<B>(static_cast<const float*>(turned) + i * kLanes), x[j + i]);
        }
      }
      store_vec(to + k, flushed<B>(sum));
    }
    for (; k < in.n; ++k) {
      float sum = in.more ? to[k] : 0.0f;
      const float* const w = p.weights + in.b + k * in.step;
      for (Int j = 0; j < in.m; ++j) sum = fused<B>(x[j], w[j * in.stride], sum);
      to[k] = flushed(sum);
    }
  }

  PK_HD static void leaf(const Program& p, const Instruction& in, float* r, Int value) {
    const Variable& var = p.variables[in.m];
    const std::uint16_t* const low = p.tables + var.table + value * var.units + in.stride;
    const Word end = (Word(1) << kBits) - Word(value);
    if (value + 1 < var.categories)
      for (Int k = 0; k < in.n; ++k)
        r[in.dst + k] = kUnit * float(std::int32_t(256u * low[var.units + k] + 1 - 256u * low[k]));
    else
      for (Int k = 0; k < in.n; ++k) r[in.dst + k] = kUnit * float(std::int32_t(end - 256u * low[k]));
  }

  // As Walk::mixture, of one row.
  PK_HD static void mixture(const float* a, Int n, Scratch& s) {
    float total = a[0];
    for (Int k = 1; k < n; ++k) total += a[k];
    const bool usable = total > 0 && total < 3e38f;
    const float scale = 65536.0f / total;
    Word* const w = s.mixed.data();
    Word all = 0, most = 0;
    for (Int k = 0; k < n; ++k) w[k] = usable ? Word(std::int32_t(a[k] * scale)) : Word(65536 / n);
    for (Int k = 0; k < n; ++k) all += w[k], most = std::max(most, w[k]);
    Int best = 0;
    while (w[best] != most) ++best;
    w[best] += 65536u - all;
  }
};

}  // namespace
}  // namespace pk
