// Runs CUDA kernels on the CPU, for tests. A block is run by one OS thread, each of its CUDA threads is a fiber: a
// stack that runs until its next barrier or warp intrinsic, where the scheduler below takes over.
//
// Between two barriers each warp runs as far as it gets before the next one starts, in the order that the environment
// variable CUEMU_ORDER = forward | reverse | shuffle gives; results that depend on it show a missing barrier. Misuse
// throws std::runtime_error with its cause: barriers reached at different places, different warp intrinsics that wait
// for each other, deadlock, stack overflow. Under -fsanitize=address every read and write of a kernel is checked.
//
// Not modeled: concurrency and weak memory order inside a block, launch limits, tensor cores, asynchronous copies.
// Shared memory starts as poison: numbers are NaN, whatever their type, and integers far from zero.
#pragma once
#include <link.h>
#include <math.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "fiber.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local
#define CUEMU_DYN_SMEM(T, name) T* name = reinterpret_cast<T*>(cuemu::block->dynamic_smem.get())

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuemu {

constexpr std::uint64_t kCanary = 0x5afe57ac5afe57ac;  // at the far end of every stack

struct Site {  // the barrier or warp intrinsic that a thread waits at
  const char *name, *file;
  int line;
  bool operator==(const Site& other) const {
    return line == other.line && !std::strcmp(name, other.name) && !std::strcmp(file, other.file);
  }
  std::string text() const {
    return std::string(name) + " (" + (std::strrchr(file, '/') ? std::strrchr(file, '/') + 1 : file) + ":" +
           std::to_string(line) + ")";
  }
};

enum class State { ready, at_barrier, in_warp, done };

struct Thread {
  Context context;
  dim3 index;
  State state;
  Site site;
  unsigned mask;           // of the warp intrinsic
  std::uint64_t given;     // what this thread hands to the others of its warp
  std::uint64_t received;  // `given` as the others see it: copied when the whole warp has arrived
};

struct Block {
  std::vector<Thread> threads;
  std::unique_ptr<char[]> stacks, dynamic_smem;
  Context scheduler;
  void (*body)(void*);
  void* arguments;
  int current;

  char* stack(int thread) {
    return stacks.get() + (thread + 1) * kStackBytes;
  }  // below the first there is room to spill
};
inline thread_local Block* block = nullptr;

[[noreturn]] inline void fail(const std::string& what) {
  const dim3& b = blockIdx;
  throw std::runtime_error("cuemu: block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " +
                           std::to_string(b.z) + "): " + what);
}

inline void wait(State state, Site site, unsigned mask = 0) {
  Block* b = block;
  Thread& me = b->threads[b->current];
  me.state = state, me.site = site, me.mask = mask;
  swap(me.context, b->scheduler);
}

inline void thread_main() {
  Block* b = block;
  b->body(b->arguments);
  b->threads[b->current].state = State::done;
  swap(b->threads[b->current].context, b->scheduler);
}

// --- the scheduler ---

inline void start_threads(Block& b) {
  for (int t = 0; t < int(b.threads.size()); ++t) {
    Thread& thread = b.threads[t];
    thread.state = State::ready;
    thread.index = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y));
    std::memcpy(b.stack(t), &kCanary, sizeof(kCanary));
    prepare(thread.context, b.stack(t), thread_main);
  }
}

// The order in which the warps of a block and the lanes of a warp run.
struct Order {
  std::vector<int> warps, lanes;

  Order(int threads, std::uint64_t block_number) : warps((threads + 31) / 32), lanes(32) {
    const char* name = std::getenv("CUEMU_ORDER");
    const std::string order = name ? name : "forward";
    std::mt19937 random(unsigned(block_number) + 1);
    for (auto* list : {&warps, &lanes}) {
      std::iota(list->begin(), list->end(), 0);
      if (order == "reverse")
        std::reverse(list->begin(), list->end());
      else if (order == "shuffle")
        std::shuffle(list->begin(), list->end(), random);
      else if (order != "forward")
        throw std::invalid_argument("CUEMU_ORDER=" + order + ": use forward, reverse or shuffle");
    }
  }
};

inline bool run_ready(Block& b, int warp, const std::vector<int>& lanes) {
  bool ran = false;
  for (int lane : lanes) {
    const int t = warp * 32 + lane;
    if (t >= int(b.threads.size()) || b.threads[t].state != State::ready) continue;
    b.current = t, threadIdx = b.threads[t].index, ran = true;
    swap(b.scheduler, b.threads[t].context);
    if (std::memcmp(b.stack(t), &kCanary, sizeof(kCanary))) fail("a thread overflowed its 64 KiB stack");
  }
  return ran;
}

// Lets the lanes of a mask go once all of them that still run have arrived at the same intrinsic.
inline bool release_warp(Thread* warp, int lanes) {
  bool released = false;
  for (int l = 0; l < lanes; ++l) {
    if (warp[l].state != State::in_warp) continue;
    const unsigned mask = warp[l].mask;
    if (!(mask >> l & 1)) fail("a thread is not in the mask that it gives to " + warp[l].site.text());
    bool all = true;
    for (int k = 0; k < lanes; ++k) {
      if (!(mask >> k & 1) || warp[k].state == State::done) continue;
      const bool here = warp[k].state == State::in_warp && warp[k].mask == mask && warp[k].site == warp[l].site;
      if (!here && warp[k].state == State::in_warp && (warp[k].mask >> l & 1))
        fail("lanes of one warp wait for each other at " + warp[l].site.text() + " and " + warp[k].site.text() +
             (warp[k].mask == mask ? "" : " with different masks"));
      all = all && here;
    }
    if (!all) continue;
    released = true;
    for (int k = 0; k < lanes; ++k) {
      if (!(mask >> k & 1)) continue;
      warp[k].received = warp[k].state == State::done ? 0 : warp[k].given;
      if (warp[k].state == State::in_warp) warp[k].state = State::ready;
    }
  }
  return released;
}

inline bool release_barrier(Block& b) {
  const Thread* first = nullptr;
  for (const Thread& thread : b.threads) {
    if (thread.state == State::done) continue;
    if (thread.state != State::at_barrier) return false;
    if (!first) first = &thread;
    if (!(thread.site == first->site))
      fail("divergent barrier: threads wait at " + first->site.text() + " and " + thread.site.text());
  }
  for (Thread& thread : b.threads)
    if (thread.state == State::at_barrier) thread.state = State::ready;
  return first != nullptr;
}

[[noreturn]] inline void fail_deadlock(const Block& b) {
  std::string text = "deadlock: the threads wait at";
  std::vector<Site> seen;
  int done = 0;
  for (const Thread& thread : b.threads) {
    done += thread.state == State::done;
    if (thread.state == State::done || std::count(seen.begin(), seen.end(), thread.site)) continue;
    seen.push_back(thread.site);
    text += (seen.size() > 1 ? ", " : " ") + thread.site.text();
  }
  fail(text + "; " + std::to_string(done) + " of " + std::to_string(b.threads.size()) + " have returned");
}

inline void run_block(Block& b, const Order& order) {
  const int n = int(b.threads.size());
  start_threads(b);
  for (bool progress = true; progress;) {
    progress = false;
    for (int warp : order.warps)  // each as far as it gets: what the others had yet to read may be overwritten
      while (run_ready(b, warp, order.lanes) || release_warp(&b.threads[warp * 32], std::min(32, n - warp * 32)))
        progress = true;
    progress |= release_barrier(b);
  }
  if (!std::all_of(b.threads.begin(), b.threads.end(), [](auto& t) { return t.state == State::done; }))
    fail_deadlock(b);
}

// --- shared memory ---

inline void poison(void* memory, std::size_t bytes) {
  static const unsigned char kPattern[2] = {0xfb, 0xff};  // as numbers of two, four or eight bytes: NaN
  for (std::size_t i = 0; i < bytes; ++i) static_cast<unsigned char*>(memory)[i] = kPattern[i % 2];
}

// Poisons this thread's static shared memory: all of this library's thread-local variables that start as zeros. Those
// below `block`, which says what the thread runs, have initial values of their own.
inline void poison_static() {
  struct Found {
    const void* of;
    char* zeros;
    std::size_t bytes;
  } found = {&kCanary, nullptr, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* module, std::size_t, void* to) {
        Found& f = *static_cast<Found*>(to);
        const ElfW(Phdr)* tls = nullptr;
        bool mine = false;
        for (int i = 0; i < module->dlpi_phnum; ++i) {
          const auto& part = module->dlpi_phdr[i];
          const auto at = reinterpret_cast<std::uintptr_t>(f.of) - module->dlpi_addr - part.p_vaddr;
          mine |= part.p_type == PT_LOAD && at < part.p_memsz;
          if (part.p_type == PT_TLS) tls = &part;
        }
        if (!mine) return 0;
        if (tls && module->dlpi_tls_data) {
          f.zeros = static_cast<char*>(module->dlpi_tls_data) + tls->p_filesz;
          f.bytes = tls->p_memsz - tls->p_filesz;
        }
        return 1;
      },
      &found);
  Block* const mine = block;
  poison(found.zeros, found.bytes);
  block = mine;
}

// --- launching ---

struct Launch {
  dim3 grid, threads;
  std::size_t smem;
  void (*body)(void*);
  void* arguments;

  std::uint64_t blocks() const { return std::uint64_t(grid.x) * grid.y * grid.z; }
  std::size_t block_size() const { return std::size_t(threads.x) * threads.y * threads.z; }
};

inline void run_block_number(Block& b, const Launch& launch, std::uint64_t i) {
  const dim3& grid = launch.grid;
  block = &b, blockDim = launch.threads, gridDim = grid;
  blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
  poison_static();
  poison(b.dynamic_smem.get(), launch.smem);
  run_block(b, Order(int(b.threads.size()), i));
}

// As many blocks at a time as there are processors, each on an OS thread of its own: __shared__ variables are
// thread-local, and every block must find fresh ones.
inline void run_grid(const Launch& launch) {
  if (launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535)
    throw std::runtime_error(
        "cuemu: invalid configuration: a grid has at most 2^31 - 1 blocks along x and 65535 along y or z");
  if (launch.blocks() == 0 || launch.block_size() == 0 || launch.block_size() > 1024)
    throw std::runtime_error("cuemu: invalid configuration: an empty grid or block, or more than 1024 threads a block");
  std::vector<Block> workers(
      std::min<std::uint64_t>(launch.blocks(), std::max(1u, std::thread::hardware_concurrency())));
  for (Block& b : workers) {
    b.threads.resize(launch.block_size());
    b.stacks.reset(new char[(b.threads.size() + 1) * kStackBytes]);
    b.dynamic_smem.reset(new char[std::max<std::size_t>(launch.smem, 1)]);
    b.body = launch.body, b.arguments = launch.arguments;
  }
  std::vector<std::exception_ptr> errors(workers.size());
  for (std::uint64_t first = 0; first < launch.blocks(); first += workers.size()) {
    std::vector<std::thread> running;
    for (std::size_t w = 0; w < workers.size() && first + w < launch.blocks(); ++w)
      running.emplace_back([&launch, &workers, &errors, first, w] {
        try {
          run_block_number(workers[w], launch, first + w);
        } catch (...) {
          errors[w] = std::current_exception();
        }
      });
    for (std::thread& thread : running) thread.join();
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
  }
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 threads, std::size_t smem, A&&... args) {
  std::pair<void (*)(P...), std::tuple<P...>> call(kernel, std::tuple<P...>(static_cast<P>(args)...));
  const auto body = [](void* c) {
    auto& [function, parameters] = *static_cast<decltype(call)*>(c);
    std::apply(function, parameters);
  };
  run_grid({grid, threads, smem, body, &call});
}

// Hands v over to the warp, waits for the other lanes, and takes what lane `source` handed over.
template <class T>
T exchange(Site site, unsigned mask, T v, int source) {
  static_assert(sizeof(T) <= 8);
  Block* b = block;
  const int me = b->current, first = me & ~31;
  std::memcpy(&b->threads[me].given, &v, sizeof(v));
  wait(State::in_warp, site, mask);
  if (source < 0 || source > 31 || !(mask >> source & 1)) return v;
  std::memcpy(&v, &b->threads[first + source].received, sizeof(v));
  return v;
}

inline int lane() { return block->current & 31; }

}  // namespace cuemu

#include "intrinsics.h"  // __syncthreads, __shfl_sync and the like, in terms of the above
