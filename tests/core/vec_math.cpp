// exp, log, asin and tanh of csrc/include/pk/vec_math.h as functions of arrays, for tests/core/test_vec_math.py.
#include "pk/vec_math.h"

using namespace pk;

struct Exp {
  template <int B, class A>
  PK_HD static void run(const A* x, A* y, int n) {
    for_lanes(
        n, [&](std::int64_t i, auto lanes) PK_INLINE { store_vec(y + i, vec_exp(load_vec<B>(x + i, lanes)), lanes); });
  }
};
struct Log {
  template <int B, class A>
  PK_HD static void run(const A* x, A* y, int n) {
    for_lanes(
        n, [&](std::int64_t i, auto lanes) PK_INLINE { store_vec(y + i, vec_log(load_vec<B>(x + i, lanes)), lanes); });
  }
};
struct Asin {
  template <int B, class A>
  PK_HD static void run(const A* x, A* y, int n) {
    for_lanes(
        n, [&](std::int64_t i, auto lanes) PK_INLINE { store_vec(y + i, vec_asin(load_vec<B>(x + i, lanes)), lanes); });
  }
};
struct Tanh {
  template <int B, class A>
  PK_HD static void run(const A* x, A* y, int n) {
    for_lanes(
        n, [&](std::int64_t i, auto lanes) PK_INLINE { store_vec(y + i, vec_tanh(load_vec<B>(x + i, lanes)), lanes); });
  }
};

// With the best instruction set, and with the baseline that every machine has.
extern "C" {
void exp_float(const float* x, float* y, int n) { run_best<Exp>(x, y, n); }
void log_float(const float* x, float* y, int n) { run_best<Log>(x, y, n); }
void exp_double(const double* x, double* y, int n) { run_best<Exp>(x, y, n); }
void log_double(const double* x, double* y, int n) { run_best<Log>(x, y, n); }
void exp_float_baseline(const float* x, float* y, int n) { run_baseline<Exp>(x, y, n); }
void log_float_baseline(const float* x, float* y, int n) { run_baseline<Log>(x, y, n); }
void exp_double_baseline(const double* x, double* y, int n) { run_baseline<Exp>(x, y, n); }
void log_double_baseline(const double* x, double* y, int n) { run_baseline<Log>(x, y, n); }
void asin_float(const float* x, float* y, int n) { run_best<Asin>(x, y, n); }
void asin_double(const double* x, double* y, int n) { run_best<Asin>(x, y, n); }
void asin_float_baseline(const float* x, float* y, int n) { run_baseline<Asin>(x, y, n); }
void asin_double_baseline(const double* x, double* y, int n) { run_baseline<Asin>(x, y, n); }
void tanh_float(const float* x, float* y, int n) { run_best<Tanh>(x, y, n); }
void tanh_double(const double* x, double* y, int n) { run_best<Tanh>(x, y, n); }
void tanh_float_baseline(const float* x, float* y, int n) { run_baseline<Tanh>(x, y, n); }
void tanh_double_baseline(const double* x, double* y, int n) { run_baseline<Tanh>(x, y, n); }
}
