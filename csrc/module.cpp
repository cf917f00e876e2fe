// The only pybind11 translation unit. PK_OP declares a launcher and binds it: one line an op, and a launcher
// defined with other parameters does not link. Tensors are asked for their data_ptr() as any Python object would be,
// so nothing of torch is needed here.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "pk/launch.h"

namespace py = pybind11;

namespace pk {
namespace {

// A C++ parameter of what Python passes for it.
template <class T>
struct Arg {
  static T get(py::handle value, const char* op) {
    py::detail::make_caster<T> found;
    if (!found.load(value, true))
      throw py::type_error(std::string(op) + ": a native launcher got " + py::repr(value).cast<std::string>() +
                           " where it takes a number of another type");
    return found;
  }
};
void* data_ptr_of(py::handle tensor) {
  static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
  const auto address = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), data_ptr));
  if (!address) throw py::error_already_set();
  return PyLong_AsVoidPtr(address.ptr());
}
void* address_of(py::handle tensor, const char* op) {
  void* const found = data_ptr_of(tensor);
  if (found) return found;
  alignas(64) static char nothing[64];  // where an empty tensor is: torch gives it no address, and nobody looks there
  if (py::cast<std::int64_t>(tensor.attr("numel")()) == 0) return nothing;
  fail(op, "null data pointer: a fake or meta tensor reached a native kernel");
}
template <class T>
struct Arg<T*> {
  static T* get(py::handle tensor, const char* op) { return static_cast<T*>(address_of(tensor, op)); }
};
template <>
struct Arg<Maybe> {
  static Maybe get(py::handle tensor, const char* op) { return {tensor.is_none() ? nullptr : address_of(tensor, op)}; }
};
py::sequence list_of(py::handle items) { return py::reinterpret_borrow<py::object>(items); }  // TypeError if it is none
template <>
struct Arg<Tensors> {
  static Tensors get(py::handle tensors, const char*) {
    Tensors found;
    for (auto tensor : list_of(tensors)) found.ptr.push_back(data_ptr_of(tensor));
    return found;
  }
};
template <>
struct Arg<Ints> {
  static Ints get(py::handle numbers, const char* op) {
    Ints found;
    for (auto number : list_of(numbers)) found.push_back(Arg<std::int64_t>::get(number, op));
    return found;
  }
};
template <>
struct Arg<Stream> {
  static Stream get(py::handle handle, const char* op) {
    return {reinterpret_cast<void*>(Arg<std::uintptr_t>::get(handle, op))};
  }
};
template <>
struct Arg<Threads> {
  static Threads get(py::handle count, const char* op) { return {std::max(Arg<int>::get(count, op), 1)}; }
};
template <>
struct Arg<DType> {
  static DType get(py::handle code, const char* op) { return static_cast<DType>(Arg<int>::get(code, op)); }
};

// For pybind11 every launcher has the signature `*args`, which it then compiles once: a signature of their own for each
// took two thirds of this file's time.
using Launcher = void (*)();  // of a type that its caller knows
using Caller = void (*)(Launcher, const char*, const py::args&);

template <class... A>
void run_unlocked(void (*launcher)(A...), A... arguments) {
  const py::gil_scoped_release unlocked;
  launcher(std::move(arguments)...);
}
template <class... A, std::size_t... I>
void call(void (*launcher)(A...), const char* name, const py::args& args, std::index_sequence<I...>) {
  run_unlocked<A...>(launcher, Arg<A>::get(PyTuple_GET_ITEM(args.ptr(), I), name)...);
}

void define(py::module_& m, const char* name, std::size_t parameters, Launcher launcher, Caller caller) {
  m.def(name, [=](const py::args& args) {
    if (args.size() != parameters)
      throw py::type_error(std::string(name) + ": a native launcher takes " + std::to_string(parameters) +
                           " arguments, not " + std::to_string(args.size()));
    caller(launcher, name, args);
  });
}
template <class... A>
void bind(py::module_& m, const char* name, void (*launcher)(A...)) {
  const Caller caller = [](Launcher erased, const char* op, const py::args& args) {
    call(reinterpret_cast<void (*)(A...)>(erased), op, args, std::index_sequence_for<A...>{});
  };
  define(m, name, sizeof...(A), reinterpret_cast<Launcher>(launcher), caller);
}

using Binder = void (*)(py::module_&);
std::vector<Binder>& binders() {
  static std::vector<Binder> all;
  return all;
}
struct Register {
  explicit Register(Binder binder) { binders().push_back(binder); }
};

}  // namespace

#ifdef PK_EMULATE  // the tests' module: the .cu files compiled for the CPU
#define PK_BIND_CPU(name)
#else
#define PK_BIND_CPU(name) bind(m, #name "_cpu", &name##_cpu);
#endif
#if defined(PK_WITH_CUDA) || defined(PK_EMULATE)
#define PK_BIND_CUDA(name) bind(m, #name "_cuda", &name##_cuda);
#else
#define PK_BIND_CUDA(name)
#endif
#define PK_OP(name, ...)                 \
  void name##_cpu(__VA_ARGS__, Threads); \
  void name##_cuda(__VA_ARGS__, Stream); \
  static const Register name##_binder{[]([[maybe_unused]] py::module_& m) { PK_BIND_CPU(name) PK_BIND_CUDA(name) }};
// For ops whose GPU kernels are Triton's.
#define PK_CPU_OP(name, ...)             \
  void name##_cpu(__VA_ARGS__, Threads); \
  static const Register name##_binder{[]([[maybe_unused]] py::module_& m) { PK_BIND_CPU(name) }};

using In = const void*;
using Out = void*;
using Int = std::int64_t;

// clang-format off
// op, then per parameter its shape: N rows, C features, A = accumulation type of the dtype
//                       dtype  x (N,C)  pad_mask (N)  mean_sq (C) A  N    C    groups  eps
PK_OP(power_norm_stats,  DType, In,      Maybe,        Out,           Int, Int, Int,    double)
//                       dtype  x (N,C)  weight (C) A  bias (C) A  psi2 (C) A  pad_mask (N)  y (N,C)  mean_sq (C) A  N    C    groups  eps
PK_OP(power_norm_fwd,    DType, In,      Maybe,        Maybe,      In,         Maybe,        Out,     Out,           Int, Int, Int,    double)
//                       dtype  x (N,C)  grad_y (N,C)  weight (C) A  psi2 (C) A  scale2 (C) A  nu (C) A  pad_mask (N)  grad_x (N,C)  grad_weight (C) A  grad_bias (C) A  grad_nu (C) A  N    C    groups  eps
PK_OP(power_norm_bwd,    DType, In,      In,           Maybe,        In,         In,           Maybe,    Maybe,        Out,          Out,               Out,             Out,           Int, Int, Int,    double)
//                       dtype  x (N,C)  grad_y (N,C)  weight (C) A  psi2 (C) A  pad_mask (N)  grad_x (N,C)  grad_weight (C) A  grad_bias (C) A  N    C    groups  eps
PK_OP(power_norm_v_bwd,  DType, In,      In,           Maybe,        In,         Maybe,        Out,          Out,               Out,             Int, Int, Int,    double)
// N entries of a weight, K of them selected; selections: index (K) i32, or words (N/64) i64 and ranks (N/512) i32
//                           dtype  w (N)  index (K)  words (N/64)  ranks (N/512)  values (K)  N    K
PK_OP(selection_gather,      DType, In,    Maybe,     Maybe,        Maybe,         Out,        Int, Int)
//                           dtype  w (N)  values (K)  index (K)  words (N/64)  ranks (N/512)  N    K
PK_OP(selection_scatter,     DType, Out,   In,         Maybe,     Maybe,        Maybe,         Int, Int)
//                           words (N/64)  ranks (N/512)  index (K)  N    K
PK_OP(selection_index,       In,           In,            Out,       Int, Int)
//                           dtype  w (N)  words (N/64)  ranks (N/512)  N    threshold  largest
PK_OP(magnitude_select,      DType, In,    Out,          Out,           Int, double,    bool)
//                           dtype  w (N)  histogram (65536) i64, zeros before  N    level  prefix
PK_OP(magnitude_histogram,   DType, In,    Out,                                 Int, Int,   Int)
// Lists have an item for each of K weights with N entries of which C are selected, in blocks of 256; A = accumulation type
//                       dtypes  weights (N)  values (C) A  grad dtypes  grads dense  grads (C or N)  m (C) A or codes  v     m_scale (blocks) A  v_scale   index (C)  words (N/64)  ranks (N/512)  N     C     steps  codes (2,2,256)  table (2,2,S)  lr      beta1   beta2   eps     weight_decay
PK_OP(sparse_adamw,      Ints,   Tensors,     Tensors,      Ints,        Ints,        Tensors,        Tensors,          Tensors,  Tensors,          Tensors,  Tensors,   Tensors,      Tensors,       Ints, Ints, Ints,  Maybe,           Maybe,         double, double, double, double, double)
// Lists have an item for each of K tensors with N entries
//                       dtype  weights (N)  momentum  tau      g        v        grads    N     rows  burn_in  lr      mdecay  scale   eps     seed step
PK_OP(sghmc_step,        DType, Tensors,     Tensors,  Tensors, Tensors, Tensors, Tensors, Ints, Ints, bool,    double, double, double, double, Int, Int)
// op, then per parameter its shape: S samples, R rows, E entries, K selected ones
//                       dtype  grad_y (S,R,out)  x (S,C,in)  index (K) int32  words (E/64) int64  ranks (E/512) int32  values (K) A  sizes (22) int64 on the host  K
PK_OP(sampled_matmul,    DType, In,               In,         Maybe,           Maybe,              Maybe,               Out,          In,                            Int)
// G groups, O out-units, I in-units, B batch
//                       dtype  x (G,I,B)  weights (G,O,I)  y (G,O,B)  G    O    I    B
PK_CPU_OP(sum_layer,     DType, In,        In,              Out,       Int, Int, Int, Int)
//                       dtype  x (G,I,B)  weights (G,O,I)  y (G,O,B)  grad_y (G,O,B)  grad_x (G,I,B)  grad_weights (G,O,I)  G    O    I    B
PK_CPU_OP(sum_layer_bwd, DType, In,        In,              In,        In,             Out,            Out,                  Int, Int, Int, Int)
// V variables, C categories, K units, B batch; codes < 0 are missing
//                       dtype  table (V,C,K)  codes (V,B) int32  out (V,K,B)  V    C    K    B
PK_OP(leaf_gather,       DType, In,            In,                Out,         Int, Int, Int, Int)
//                       dtype  values (V,K,B)  codes (V,B) int32  sums (V,C,K)  V    C    K    B
PK_OP(leaf_histogram,    DType, In,             In,                Out,          Int, Int, Int, Int)
// N times M distributions over K entries
//                       dtype  params (N,K,M)  flows (N,K,M)  kept (N,M)  N    K    M    step    pseudocount
PK_OP(em_update,         DType, Out,            In,            Maybe,      Int, Int, Int, double, double)
// V variables, B images, N nodes, E weights and L leaves in all, M missing flows; a GPU needs the nodes with places too
//                        dtype  weights (E)  leaves (L)  codes (V,B) int32  tree (7 N)  placed (N,12) i64  log_prob (B)  V    B    E    L
PK_OP(latent_tree,        DType, In,          In,         In,                Ints,       Maybe,            Out,          Int, Int, Int, Int)
//                        dtype  weights (E)  leaves (L)  codes (V,B) int32  tree (7 N)  placed (N,12) i64  grad (B)  log_prob (B)  grad_weights (E)  leaf_flows (L)  missing_flows (M)  V    B    E    L
PK_OP(latent_tree_flows,  DType, In,          In,         In,                Ints,       Maybe,            Maybe,    Out,          Out,              Out,            Maybe,             Int, Int, Int, Int)
//                         dtype  pmf (rows,K)  counts (rows,K+1) i32  rows K    bits
PK_OP(quantize_cdf,        DType, In,           Out,                   Int, Int, Int)
//                         counts (tables,K+1) i32  lookup (tables,2^lookup_bits) u16  tables  K    bits  lookup_bits
PK_OP(rans_lookup,         In,                      Out,                               Int,    Int, Int,  Int)
// B rows of n symbols; counts (K+1) i32, row_step and step further for each row and symbol, or those of `tables` that index (B,n) i32 names
//                         symbols (B,n) i32  counts i32  index  payload (B,capacity) u8  sizes (B) i64  B    n    K    row_step  step  tables  bits  capacity
PK_OP(rans_encode,         In,                In,         Maybe, Out,                     Out,           Int, Int, Int, Int,      Int,  Int,    Int,  Int)
//                         dtype  symbols (B,n) i32  pmf (n,K)  payload (B,capacity) u8  sizes (B) i64  B    n    K    row_step  bits  capacity
PK_OP(rans_encode_pmf,     DType, In,                In,        Out,                     Out,           Int, Int, Int, Int,      Int,  Int)
//                         payload u8  offsets (B+1) i64  counts i32  index  lookup u16  symbols (B,n) i32  damage (B) i64  B    n    K    row_step  step  tables  bits  lookup_bits
PK_OP(rans_decode,         In,         In,                In,         Maybe, Maybe,      Out,               Out,            Int, Int, Int, Int,      Int,  Int,    Int,  Int)
//                         dtype  payload u8  offsets (B+1) i64  pmf (n,K)  room (B,K+1) i32  symbols (B,n) i32  damage (B) i64  B    n    K    row_step  bits
PK_OP(rans_decode_pmf,     DType, In,         In,                In,        Out,              Out,               Out,            Int, Int, Int, Int,      Int)
//                         symbols (B,n) i32  counts i32  index  states (B) u64  words (B,n) i32  sizes (B) i64  B    n    K    row_step  step  tables  bits
PK_OP(rans_push,           In,                In,         Maybe, Out,            Out,             Out,           Int, Int, Int, Int,      Int,  Int,    Int)
//                         counts i32  states (B) u64  index  words (B,room) i32  sizes (B) i64  symbols (B,n) i32  damage (B) i64  B    n    K    row_step  step  tables  bits  room
PK_OP(rans_pop,            In,         Out,            Maybe, In,                 Out,           Out,               Out,            Int, Int, Int, Int,      Int,  Int,    Int,  Int)
// n bytes in chunks of `each`, each coded into `capacity` bytes
//                         bytes (n) u8  payload (chunks,capacity) u8  sizes (chunks) i64  n    each  order  capacity
PK_OP(adaptive_encode,     In,           Out,                          Out,                Int, Int,  Int,   Int)
//                         payload u8  offsets (chunks+1) i64  starts (chunks+1) i64  bytes (n) u8  damage (chunks) i64  chunks  order
PK_OP(adaptive_decode,     In,         In,                     In,                    Out,          Out,                 Int,    Int)
// A program of R instructions (R,9) i32 with weights (E), tables (T) u16 and variables (V,4) i64; n rows in chunks of `each`, each coded into `capacity` bytes
//                         code  weights  tables  variables  codes (n,V) i32  payload (chunks,capacity) u8  sizes (chunks) i64  R    registers  V    n    each  lanes  capacity
PK_OP(program_encode,      In,   In,      In,     In,        In,              Out,                          Out,                Int, Int,       Int, Int, Int,  Int,   Int)
//                         code  weights  tables  variables  payload u8  offsets (chunks+1) i64  starts (chunks+1) i64  codes (n,V) i32  damage (chunks) i64  R    registers  V    chunks  lanes
PK_OP(program_decode,      In,   In,      In,     In,        In,         In,                     In,                    Out,             Out,                 Int, Int,       Int, Int,    Int)
// B rows of n elements; seeds (B) i64, or one seed for rows that are numbered from `row` on
//                         dtype  z (B,n)  seeds  B    n    seed  row  step  normal
PK_OP(philox,              DType, Out,     Maybe, Int, Int, Int,  Int, Int,  bool)
// I inputs of B rows of n elements, O outputs; G groups of rows with coefficients of their own (1 or B)
//                         dtype  inputs (I)(B,n)  coefficients (G,O,I) f64  noise (G,O) f64  seeds  y (O,B,n)  G    B    n    O    seed  row  step
PK_OP(linear_step,         DType, Tensors,         In,                       Maybe,           Maybe, Out,       Int, Int, Int, Int, Int,  Int, Int)
//                         dtype  inputs (I)(B,n)  y (O,B,n)  seeds  sums (G,O,I+noisy) f64  scratch (G,chunks,O,I+noisy) f64  G    B    n    O    noisy  seed  row  step
PK_OP(linear_step_dots,    DType, Tensors,         In,        Maybe, Out,                    Out,                              Int, Int, Int, Int, bool,  Int,  Int, Int)
// N elements; what a step changes is first
//                         dtype  y (N) i64  p (N) i64  rest (N) i64  e (N)  x (N)  seen (N)  bad (1) i32  N    scale   first   second  alpha   last    keep undo
PK_OP(leapfrog_step,       DType, Out,       Out,       Maybe,        Maybe, Out,   Maybe,    Out,         Int, double, double, double, double, double, Int, bool)
//                         dtype  to_y (N)  to_p (N)  along (N)  out (N)  N    alpha   before  after   keep    scale
PK_OP(leapfrog_adjoint,    DType, Out,      Out,      In,        Out,     Int, double, double, double, double, double)
// B rows of n elements; v and its gradient may be absent; seeds (B) i64, or one that rows share, or none beside an int
//                          dtype  a (B,n)  v (B,n)  seeds  y (B,n)  B    n    mode  sampled  slope   shared  seed  row  step
PK_OP(stochastic_gate,      DType, In,      Maybe,   Maybe, Out,     Int, Int, Int,  bool,    double, bool,   Int,  Int, Int)
//                          dtype  grad_y (B,n)  a (B,n)  v (B,n)  seeds  grad_a, grad_v (1 or 2)(B,n)  B    n    mode  sampled  slope   shared  seed  row  step
PK_OP(stochastic_gate_bwd,  DType, In,           In,      Maybe,   Maybe, Tensors,                      Int, Int, Int,  bool,    double, bool,   Int,  Int, Int)
// A tile (R,C) of inner products of N points, sorted into K classes; row, col: the first points of the tile
//                             dtype  products (R,C)  half (N)  bounds (K+1) i64  best (N)  sums (N,K)  R    C    row  col  K
PK_CPU_OP(pairwise_softmax,    DType, Out,            In,       In,               Out,      Out,        Int, Int, Int, Int, Int)
//                             dtype  products (R,C)  half (N)  bounds (K+1) i64  grads (N,K)  grads_t (K,N)  delta (N)  shift (N)  total (N)  R    C    row  col  K    N
PK_CPU_OP(pairwise_softmax_bwd, DType, Out,           In,       In,               In,          In,            In,        In,        Out,       Int, Int, Int, Int, Int, Int)
// N rows of K logits, one chosen in each; sums in float64
//                          dtype  logits (N,K)  index (N) i64  log_prob (N) A  log_sums (N)  N    K
PK_CPU_OP(bar_log_prob,     DType, In,           In,            Out,            Out,          Int, Int)
//                          dtype  logits (N,K)  index (N) i64  log_sums (N)  grad_log_prob (N) A  grad_log_sums (N)  grad (N,K)  N    K
PK_CPU_OP(bar_log_prob_bwd, DType, In,           In,            In,           In,                  In,                Out,        Int, Int)
// KL divergences between the softmaxes of N rows of V logits; sums in float64
//                          dtype  p (N,V)  q (N,V)  kl (N) A  log_sums_p (N)  log_sums_q (N)  N    V
PK_CPU_OP(kl_rows,          DType, In,      In,      Out,      Out,            Out,            Int, Int)
//                          dtype  p (N,V)  q (N,V)  kl (N) A  log_sums_p (N)  log_sums_q (N)  grad_kl (N) A  grad_log_sums_p (N)  grad_log_sums_q (N)  grad_p (N,V)  grad_q (N,V)  N    V
PK_CPU_OP(kl_rows_bwd,      DType, In,      In,      In,       In,             In,             In,            In,                  In,                  Out,          Out,          Int, Int)
// F functions of N points in T tiles of 128; S numbers of a row and a point make an exponent; W sums
//                             dtype  left (F,M,S)  right (F,T,S,128)  columns (F,T,128,W)  sums (F,M,W)  F    M    T    S    W
PK_CPU_OP(rbf_mean,            DType, In,           In,                In,                  Out,          Int, Int, Int, Int, Int)
// B blocks (M,N) of pairs of points, L layers; lengths of the points and their inverses; 2 numbers (M) on the diagonal
//                       dtype  k (B,M,N)  left (B,L,M)  its inverse  right (B,L,N)  its inverse  weights, biases (L+1)  diagonal (B,2,M)  nngp, ntk (B,M,N)  B    M    N    L    activation  residual  tangent
PK_OP(arc_cosine,        DType, In,        In,           In,          In,            In,          In, In,                Maybe,            Out, Out,          Int, Int, Int, Int, Int,        bool,     bool)
// Sums over blocks of rows (R) and of columns (C)
//                       dtype  k (B,M,N)  left (B,L,M)  its inverse  right (B,L,N)  its inverse  weights, biases (L+1)  grad_nngp, grad_ntk  grad_k (B,M,N)  grad_left (B,C,L,M)  grad_right (B,R,L,N)  grad_layers (B,RC,2,L+1) f64  B    M    N    L    activation  residual  tangent  same  rows of a block
PK_OP(arc_cosine_bwd,    DType, In,        In,           In,          In,            In,          In, In,                In, In,              Out,            Out,                 Out,                  Out,                          Int, Int, Int, Int, Int,        bool,     bool,    bool, Int)
// M and N images of C channels and H x W = P pixels, L layers; what belongs to z is (N, ...) on a GPU
//                       dtype  x (M,C,P)  z (C,P,N)  left (M,L,P)  its inverse  right (L,P,N)  its inverse  weights, biases (L+1)  nngp, ntk (M,N)  M    N    C    H    W    L    activation  tangent
PK_OP(conv_arc_cosine,   DType, In,        In,        In,           In,          In,            In,          In, In,                Out, Out,        Int, Int, Int, Int, Int, Int, Int,        bool)
// S sequences of T steps, D units and Z latents (R = D + 4 Z), the first K steps with vectors A
//                       dtype  h0 (S,D)  noise (S,T,Z)  weight (R,D)  bias (R)  z_weight (D,Z)  leak (D)  adapt (S,K,2Z)  lengths (S) i64  d (S,T,D)  z (S,T,Z)  stats (S,T,4,Z)  kl (S,T,Z)  last (S,D)  S    T    D    Z    K    start low     high
PK_OP(pvrnn_scan,        DType, In,       In,            In,           In,       In,             In,       Maybe,          Maybe,           Out,       Out,       Out,             Out,        Out,        Int, Int, Int, Int, Int, bool, double, double)
//                       dtype  h0 (S,D)  noise (S,T,Z)  weight (R,D)  bias (R)  z_weight (D,Z)  leak (D)  adapt (S,K,2Z)  lengths (S) i64  d (S,T,D)  grads of d, z, stats, kl, last  grad_pre (S,T,R)  grad_h0 (S,D)  grad_noise (S,T,Z)  S    T    D    Z    K    start low     high
PK_OP(pvrnn_scan_bwd,    DType, In,       In,            In,           In,       In,             In,       Maybe,          Maybe,           In,        In, In, In, In, In,             Out,              Out,           Out,                Int, Int, Int, Int, Int, bool, double, double)
// N elements
//                            dtype  x (N)  softplus (N)  sigmoid (N)  N    beta
PK_OP(softplus_sigmoid,       DType, In,    Out,          Out,         Int, double)
//                            dtype  grad of softplus (N)  grad of sigmoid (N)  x (N)  grad_x (N)  N    beta
PK_OP(softplus_sigmoid_bwd,   DType, In,                   In,                  In,    Out,        Int, double)
// Sums over R groups of rows and G groups of columns, zeros at first; what belongs to z is (R,N,...) on a GPU
//                         dtype  x (M,C,P)  z (C,P,N)  left (M,L,P)  its inverse  right (L,P,N)  its inverse  weights, biases (L+1)  grad_nngp, grad_ntk  grad_x (G,M,C,P)  grad_z (R,C,P,N)  grad_left (G,M,L,P)  grad_right (R,L,P,N)  grad_layers (RG,2,L+1) f64  M    N    C    H    W    L    activation  tangent  R    G
PK_OP(conv_arc_cosine_bwd, DType, In,        In,        In,           In,          In,            In,          In, In,                In, In,              Out,              Out,              Out,                 Out,                  Out,                        Int, Int, Int, Int, Int, Int, Int,        bool,    Int, Int)
// G groups of n states
//                       dtype  y (G,n)  p (G,n)  G    n    alpha
PK_OP(prox_softmax,      DType, In,      Out,     Int, Int, double)
//                       dtype  p (G,n)  grad (G,n)  grad_y (G,n)  G    n    alpha
PK_OP(prox_softmax_bwd,  DType, In,      In,         Out,          Int, Int, double)
// clang-format on

}  // namespace pk

PYBIND11_MODULE(PK_MODULE, m) {
  m.doc() = "probkernels' native launchers: tensors, sizes and a stream or thread count. Use probkernels.ops.";
  for (auto binder : pk::binders()) binder(m);
  m.def("build_info", [] {
    py::dict info;
    info["version"] = PK_VERSION;
    info["compiler"] = __VERSION__;
#ifdef _OPENMP
    info["openmp"] = true;
#else
    info["openmp"] = false;
#endif
#ifdef PK_CUDA_ARCHS
    info["cuda_archs"] = PK_CUDA_ARCHS;
#else
    info["cuda_archs"] = py::none();
#endif
    return info;
  });
}
