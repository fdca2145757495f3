#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

// Kernels as programs of a block of threads, so that the processor can run them too.
//
// A kernel is a struct of pointers and numbers with
//
//   struct Thread;                      what a thread keeps from phase to phase
//   int phases(int block) const;        of this block
//   void run(int phase, Place, Thread&, float* shared) const;
//
// Between two phases all threads of a block wait for each other, and nowhere else. A GPU runs the
// phases with a barrier in between (launch.cuh); run_on_host() lets one thread after the other do a
// phase: what depends on their order within a phase is a fault that tests can find by turning the
// order round. Shared memory is fp32, and begins where a double may.

#ifdef __CUDACC__
#define WEFT_BODY __host__ __device__ __forceinline__
#define WEFT_UNROLL _Pragma("unroll")
#else
#define WEFT_BODY inline
#define WEFT_UNROLL
#endif

namespace weft::cuda {

inline constexpr int kWarp = 32;

/// Which block and which of its threads.
struct Place {
  std::int64_t block = 0;
  int thread = 0;
  int threads = 0;
};

/// BFloat16 as both compilers see it.
struct Bf16 {
  std::uint16_t bits;
};

WEFT_BODY float from_bits(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
WEFT_BODY std::uint32_t to_bits(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

WEFT_BODY float widen(float value) { return value; }
WEFT_BODY float widen(Bf16 value) { return from_bits(std::uint32_t{value.bits} << 16); }

/// Rounds to nearest, ties to even.
template <typename T>
WEFT_BODY T narrow(float value);
template <>
WEFT_BODY float narrow<float>(float value) {
  return value;
}
template <>
WEFT_BODY Bf16 narrow<Bf16>(float value) {
  const std::uint32_t bits = to_bits(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return {0x7fc0};
  return {static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

/// As the element type holds it.
template <typename T>
WEFT_BODY float rounded(float value) {
  return widen(narrow<T>(value));
}

/// The sum (or the largest) of what the threads of a block have put into shared[0, threads): two
/// phases, after which shared[0] holds it. The order is fixed. threads: a multiple of kWarp.
struct Reduction {
  enum class Kind { kSum, kMost };
  template <Kind kind>
  WEFT_BODY static float of(float a, float b) {
    return kind == Kind::kSum ? a + b : (a > b ? a : b);
  }
  /// Phase 1: the first threads take a warp's worth each.
  template <Kind kind>
  WEFT_BODY static void first(const Place& at, float* shared) {
    if (at.thread >= at.threads / kWarp) return;
    // Of its own warp's numbers: nobody else reads or writes these in this phase.
    float value = shared[at.thread * kWarp];
    for (int i = 1; i < kWarp; ++i) value = of<kind>(value, shared[at.thread * kWarp + i]);
    shared[at.thread * kWarp] = value;
  }
  /// Phase 2: one thread takes those.
  template <Kind kind>
  WEFT_BODY static void second(const Place& at, float* shared) {
    if (at.thread != 0) return;
    float value = shared[0];
    for (int i = 1; i < at.threads / kWarp; ++i) value = of<kind>(value, shared[i * kWarp]);
    shared[0] = value;
  }
};

/// Runs a kernel on the processor. `backwards`: the threads of a phase in the reverse order.
template <typename Kernel>
void run_on_host(const Kernel& kernel, std::int64_t blocks, int threads, std::int64_t shared_floats,
                 bool backwards = false) {
  std::vector<float> shared(static_cast<std::size_t>(shared_floats));
  for (std::int64_t block = 0; block < blocks; ++block) {
    std::vector<typename Kernel::Thread> kept(static_cast<std::size_t>(threads));
    const int phases = kernel.phases(block);
    for (int phase = 0; phase < phases; ++phase) {
      for (int i = 0; i < threads; ++i) {
        const int thread = backwards ? threads - 1 - i : i;
        kernel.run(phase, {block, thread, threads}, kept[static_cast<std::size_t>(thread)],
                   shared.data());
      }
    }
  }
}

}  // namespace weft::cuda
