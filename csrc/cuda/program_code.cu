// Codes rows of data with a compiled circuit on a GPU: a thread for each row, which executes the program by itself, so
// that sums have the order that they have on the CPU, and the same bytes come out. When decoding, a block holds the
// lanes of one chunk: after each symbol its threads share out the words that their states ask for, in the order of the
// lanes.
#include "pk/gpu.h"
#include "pk/program.h"
#include "pk/range_coder.h"

namespace pk {
namespace {

using Int = std::int64_t;
using Word = std::uint32_t;

constexpr int kThreads = 128;
constexpr Int kMostRows = 1 << 16;  // in flight: bounds the scratch memory
constexpr int kMostLanes = 512;     // of a chunk, threads of a block

#ifdef PK_EMULATE
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline float rounded_product(float a, float b) {
  volatile float product = a * b;  // not to be fused with a sum
  return product;
}
#else
__device__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
#endif

PK_HD float flushed(float x) { return x < kLeast ? 0.0f : x; }

// Vectors of one row of data, interleaved with those of the rows beside it.
struct File {
  float* first;
  Int stride;
  __device__ float& operator[](Int i) const { return first[i * stride]; }
};

struct Mixture {
  Word* first;
  Int stride, units;
  const std::uint16_t* table;
  Int categories;
  // Of 2^24, how much lies below value x.
  __device__ Word below(Int x) const {
    if (x == categories) return Word(1) << kBits;
    Word sum = 0;
    for (Int k = 0; k < units; ++k) sum += first[k * stride] * Word(table[x * units + k]);
    return (sum >> 8) + Word(x);
  }
};

__device__ void matvec(const Program& p, const Instruction& in, File r) {
  for (Int k = 0; k < in.n; ++k) {
    float sum = in.more ? r[in.dst + k] : 0.0f;
    const float* const w = p.weights + in.b + k * in.step;
    for (Int j = 0; j < in.m; ++j) sum = fused(r[in.a + j], w[j * in.stride], sum);
    r[in.dst + k] = flushed(sum);
  }
}

__device__ void contract(const Instruction& in, File r) {
  for (Int k = 0; k < in.n; ++k) {
    float sum = in.more ? r[in.dst + k] : 0.0f;
    for (Int j = 0; j < in.m; ++j) {
      const float x = r[in.a + k * in.step + j * in.stride];
      sum += in.b < 0 ? x : flushed(rounded_product(x, r[in.b + j]));
    }
    r[in.dst + k] = sum;
  }
}

__device__ void multiply(const Instruction& in, File r) {
  for (Int k = 0; k < in.n; ++k) {
    const float x = in.b < 0 ? r[in.a + k] : flushed(rounded_product(r[in.a + k], r[in.b + k]));
    r[in.dst + k] = in.more ? r[in.dst + k] + x : x;
  }
}

__device__ void rescale(const Instruction& in, File r) {
  float most = r[in.dst];
  for (Int k = 1; k < in.n; ++k) most = most > r[in.dst + k] ? most : r[in.dst + k];
  const std::int32_t exponent = bit_cast<std::int32_t>(most) >> 23;
  const float scale = bit_cast<float>((254 - (exponent < 253 ? exponent : 253)) << 23);
  for (Int k = 0; k < in.n; ++k) r[in.dst + k] = most == 0 ? 1.0f : flushed(rounded_product(r[in.dst + k], scale));
}

// Mixture weights as whole numbers, 65536 in all.
__device__ void mix(const Instruction& in, File r, const Mixture& w) {
  float total = r[in.a];
  for (Int k = 1; k < in.n; ++k) total += r[in.a + k];
  const bool usable = total > 0 && total < 3e38f;
  const float scale = usable ? 65536.0f / total : 0.0f;
  Word all = 0, most = 0;
  Int best = 0;
  for (Int k = 0; k < in.n; ++k) {
    const Word share = usable ? Word(std::int32_t(rounded_product(r[in.a + k], scale))) : Word(65536 / in.n);
    w.first[k * w.stride] = share;
    all += share;
    if (share > most) most = share, best = k;
  }
  w.first[best * w.stride] += 65536u - all;
}

__device__ void leaf(const Program& p, const Instruction& in, File r, Int value) {
  const Variable& var = p.variables[in.m];
  const std::uint16_t* const low = p.tables + var.table + value * var.units + in.stride;
  const bool last = value + 1 == var.categories;
  const Word end = (Word(1) << kBits) - Word(value);
  for (Int k = 0; k < in.n; ++k) {
    const Word above = last ? end : 256 * Word(low[var.units + k]) + 1;
    r[in.dst + k] = rounded_product(float(std::int32_t(above - 256 * Word(low[k]))), kUnit);
  }
}

// Runs the program for one row; coder(variable, turn, mixture) says which value a variable has.
template <class Coder>
__device__ void walk(const Program& p, File r, Word* mixed, Coder&& coder) {
  Int turn = 0, value = 0;
  for (Int row = 0; row < p.rows; ++row) {
    const Instruction in = p.code[row];
    switch (in.op) {
      case ProgramOp::kMatvec:
        matvec(p, in, r);
        break;
      case ProgramOp::kMultiply:
        multiply(in, r);
        break;
      case ProgramOp::kContract:
        contract(in, r);
        break;
      case ProgramOp::kRescale:
        rescale(in, r);
        break;
      case ProgramOp::kLeaf:
        leaf(p, in, r, value);
        break;
      case ProgramOp::kFill:
        for (Int k = 0; k < in.n; ++k) r[in.dst + k] = 1.0f;
        break;
      case ProgramOp::kOuter:
        for (Int i = 0; i < in.n; ++i)
          for (Int j = 0; j < in.m; ++j) r[in.dst + i * in.m + j] = flushed(rounded_product(r[in.a + i], r[in.b + j]));
        break;
      case ProgramOp::kCode: {
        const Variable& var = p.variables[in.m];
        const Mixture w{mixed, r.stride, var.units, p.tables + var.table, var.categories};
        mix(in, r, w);
        value = coder(Int(in.m), turn++, w);
      }
    }
  }
}

// below, width (n, V) of every value, in the order of coding.
__global__ void __launch_bounds__(kThreads) measure_kernel(Program p, const std::int32_t* codes, Int n,
                                                           float* registers, Word* mixed, Word* below, Word* width) {
  const Int row = Int(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= n) return;
  walk(p, File{registers + row, n}, mixed + row, [&](Int variable, Int turn, const Mixture& w) {
    const Int x = codes[row * p.v + variable];
    const Word low = w.below(x);
    below[row * p.v + turn] = low;
    width[row * p.v + turn] = w.below(x + 1) - low;
    return x;
  });
}

// A thread writes the stream of one chunk of several lanes at the end of its room, symbols in reverse, and moves it to
// the front.
__global__ void __launch_bounds__(kThreads)
    stream_kernel(const Word* below, const Word* width, Int n, Int v, Int each, Int most_lanes, std::uint64_t* states,
                  std::uint8_t* payload, Int* sizes, Int capacity) {
  const Int chunk = Int(blockIdx.x) * kThreads + threadIdx.x, begin = chunk * each;
  const Int rows = n - begin < each ? n - begin : each, lanes = rows < most_lanes ? rows : most_lanes;
  if (lanes < 2) return;
  std::uint8_t* const out = payload + chunk * capacity;
  states += chunk * most_lanes;
  for (Int g = 0; g < lanes; ++g) states[g] = kLower;
  Int at = capacity;
  const auto emit = [&](Word word) {
    for (int i = 3; i >= 0; --i) out[--at] = std::uint8_t(word >> (8 * i));
  };
  for (Int first = (rows - 1) / lanes * lanes; first >= 0; first -= lanes)
    for (Int turn = v - 1; turn >= 0; --turn)
      for (Int g = (rows - first < lanes ? rows - first : lanes) - 1; g >= 0; --g) {
        const Int i = (begin + first + g) * v + turn;
        states[g] = rans_push(states[g], below[i], width[i], kBits, emit);
      }
  for (Int g = lanes - 1; g >= 0; --g)
    for (int i = 7; i >= 0; --i) out[--at] = std::uint8_t(states[g] >> (8 * i));
  for (Int i = 0; i < capacity; ++i) out[i] = i + at < capacity ? out[i + at] : 0;
  sizes[chunk] = capacity - at;
}

// A thread writes the stream of one chunk of a single lane. A kernel of its own, as both together would spill
// registers.
__global__ void __launch_bounds__(kThreads)
    stream_alone_kernel(const Word* below, const Word* width, Int n, Int v, Int each, Int most_lanes,
                        std::uint8_t* payload, Int* sizes, Int capacity) {
  const Int chunk = Int(blockIdx.x) * kThreads + threadIdx.x, begin = chunk * each;
  const Int rows = n - begin < each ? n - begin : each, lanes = rows < most_lanes ? rows : most_lanes;
  if (lanes != 1) return;
  RangeEncoder coder{payload + chunk * capacity};
  for (Int i = begin * v; i < (begin + rows) * v; ++i) coder.put(below[i], width[i]);
  sizes[chunk] = coder.finish();
  for (Int i = sizes[chunk]; i < capacity; ++i) payload[chunk * capacity + i] = 0;
}

// The value whose share of 2^24 holds the slot.
__device__ Int search(const Mixture& w, Int likely, Word slot, Word* below, Word* above) {
  Int low = 0, high = w.categories;
  *below = 0;
  *above = Word(1) << kBits;
  Int at = likely + 1 < high ? likely + 1 : high >> 1;
  while (high - low > 1) {
    const Word c = w.below(at);
    if (c <= slot)
      low = at, *below = c;
    else
      high = at, *above = c;
    at = high == likely + 1 && low < likely ? likely : (low + high) >> 1;
  }
  return low;
}

// A block decodes chunk after chunk, a thread for each lane.
__global__ void __launch_bounds__(kMostLanes, 1)
    decode_kernel(Program p, const std::uint8_t* payload, const Int* offsets, const Int* starts, Int chunks,
                  Int most_lanes, float* registers, Word* mixed, std::int32_t* codes, Int* damage) {
  __shared__ bool wants[kMostLanes];
  __shared__ Int found;
  const Int g = threadIdx.x, stride = Int(gridDim.x) * blockDim.x, thread = Int(blockIdx.x) * blockDim.x + g;
  for (Int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const Int rows = starts[chunk + 1] - starts[chunk], lanes = rows < most_lanes ? rows : most_lanes;
    const std::uint8_t* const in = payload + offsets[chunk];
    const Int bytes = offsets[chunk + 1] - offsets[chunk];
    const bool single = lanes == 1;
    const Int head = single ? 0 : 8 * lanes;
    RangeDecoder alone{in, bytes};  // every thread follows it, so that none waits for another
    alone.start();
    std::uint64_t state = single ? kLower : 0;
    Int at = head;
    __syncthreads();
    if (g == 0) found = bytes < head ? Int(Damage::kShort) : 0;
    __syncthreads();
    if (!single && g < lanes && bytes >= head) {
      for (Int i = 0; i < 8; ++i) state |= std::uint64_t(in[8 * g + i]) << (8 * i);
      if (state < kLower) found = Int(Damage::kState);
    }
    __syncthreads();
    const bool sound = found == 0;
    bool is_short = false;
    for (Int first = 0; sound && first < rows; first += lanes) {
      const bool active = g < lanes && first + g < rows;
      // Idle threads walk along, so that all meet at the barriers; what they compute goes nowhere.
      walk(p, File{registers + thread, stride}, mixed + thread, [&](Int variable, Int, const Mixture& w) {
        Word below, above;
        const Word slot = single ? alone.slot() : Word(state) & ((Word(1) << kBits) - 1);
        const Int x = search(w, p.variables[variable].likely, slot, &below, &above);
        if (active) codes[(starts[chunk] + first + g) * p.v + variable] = std::int32_t(x);
        if (single) {
          alone.take(below, above - below);
          return x;
        }
        std::uint64_t next = rans_pop(state, below, above - below, kBits);
        wants[g] = active && next < kLower;
        __syncthreads();
        Int before = 0, all = 0;
        for (Int i = 0; i < lanes; ++i) {
          if (i == g) before = all;
          all += wants[i];
        }
        if (wants[g]) {
          Int place = at + 4 * before;
          if (place + 4 <= bytes) {
            next = next << 32 | Word(in[place]) | Word(in[place + 1]) << 8 | Word(in[place + 2]) << 16 |
                   Word(in[place + 3]) << 24;
          } else {
            next = kLower;
          }
        }
        if (at + 4 * all > bytes) {  // the same for all threads: from here on nothing is read
          is_short = true;
          at = bytes;
        } else {
          at += 4 * all;
        }
        __syncthreads();
        if (active) state = next;
        return x;
      });
    }
    if (sound && !single && g < lanes && !is_short && state != kLower) found = Int(Damage::kState);
    __syncthreads();
    if (g == 0)
      damage[chunk] = !sound     ? found
                      : single   ? Int(alone.finish())
                      : is_short ? Int(Damage::kShort)
                      : found    ? found
                                 : Int(at != bytes ? Damage::kLeft : Damage::kNone);
  }
}

Program program_of(const void* code, const void* weights, const void* tables, const void* variables, Int rows,
                   Int registers, Int v) {
  Program p{};
  p.code = static_cast<const Instruction*>(code);
  p.weights = static_cast<const float*>(weights);
  p.tables = static_cast<const std::uint16_t*>(tables);
  p.variables = static_cast<const Variable*>(variables);
  p.rows = rows, p.registers = registers, p.v = v;
  return p;
}

constexpr Int kMostUnits = 2048;  // of a variable, as the model's check allows
constexpr Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

}  // namespace

void program_encode_cuda(const void* code, const void* weights, const void* tables, const void* variables,
                         const void* codes, void* payload, void* sizes, Int rows, Int registers, Int v, Int n, Int each,
                         Int lanes, Int capacity, Stream stream) {
  const Program p = program_of(code, weights, tables, variables, rows, registers, v);
  const Int step = each < kMostRows ? kMostRows / each * each : each, most = n < step ? n : step;
  const Int side = lanes < each ? lanes : each;
  const Scratch<float> file(most * registers, stream);
  const Scratch<Word> mixed(most * kMostUnits, stream), below(most * v, stream), width(most * v, stream);
  const Scratch<std::uint64_t> states(ceil_div(most, each) * side, stream);
  for (Int first = 0; first < n; first += step) {
    const Int count = n - first < step ? n - first : step, chunk = first / each;
    PK_LAUNCH(measure_kernel, unsigned(ceil_div(count, kThreads)), kThreads, 0, stream, p,
              static_cast<const std::int32_t*>(codes) + first * v, count, file.data(), mixed.data(), below.data(),
              width.data());
    const unsigned blocks = unsigned(ceil_div(ceil_div(count, each), kThreads));
    std::uint8_t* const out = static_cast<std::uint8_t*>(payload) + chunk * capacity;
    Int* const lengths = static_cast<Int*>(sizes) + chunk;
    if (side > 1)
      PK_LAUNCH(stream_kernel, blocks, kThreads, 0, stream, below.data(), width.data(), count, v, each, side,
                states.data(), out, lengths, capacity);
    if (side == 1 || count % each == 1)
      PK_LAUNCH(stream_alone_kernel, blocks, kThreads, 0, stream, below.data(), width.data(), count, v, each, side, out,
                lengths, capacity);
  }
}

void program_decode_cuda(const void* code, const void* weights, const void* tables, const void* variables,
                         const void* payload, const void* offsets, const void* starts, void* codes, void* damage,
                         Int rows, Int registers, Int v, Int chunks, Int lanes, Stream stream) {
  if (lanes > kMostLanes) fail("program_decode", "at most 512 lanes on a GPU");
  const Program p = program_of(code, weights, tables, variables, rows, registers, v);
  const Int threads = ceil_div(lanes, kWarp) * kWarp, most = kMostRows / threads,
            blocks = chunks < most ? chunks : most;
  const Scratch<float> file(blocks * threads * registers, stream);
  const Scratch<Word> mixed(blocks * threads * kMostUnits, stream);
  PK_LAUNCH(decode_kernel, unsigned(blocks), unsigned(threads), 0, stream, p, static_cast<const std::uint8_t*>(payload),
            static_cast<const Int*>(offsets), static_cast<const Int*>(starts), chunks, lanes, file.data(), mixed.data(),
            static_cast<std::int32_t*>(codes), static_cast<Int*>(damage));
}

}  // namespace pk
