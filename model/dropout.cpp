#include <ATen/ops/empty_like.h>

#include <array>

#include "model/kernel_math.h"
#include "model/ops.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::Wide;
using kernel::widen;

constexpr std::uint32_t kMultiplier0 = 0xD2511F53U;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57U;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;
constexpr int kRounds = 10;

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kBlock = 4 * kLanes;

/// Philox for kLanes counters at once: words[w * kLanes + lane] is word w of counter first + lane.
WEFT_INLINE void philox_lanes(std::uint64_t first, std::uint32_t module, std::uint64_t key,
                              std::uint32_t* words) {
  std::uint32_t c0[kLanes];
  std::uint32_t c1[kLanes];
  std::uint32_t c2[kLanes];
  std::uint32_t c3[kLanes];
  for (std::uint32_t l = 0; l < kLanes; ++l) {
    c0[l] = static_cast<std::uint32_t>(first) + l;  // first is a multiple of kLanes: no carry
    c1[l] = static_cast<std::uint32_t>(first >> 32);
    c2[l] = module;
    c3[l] = 0;
  }
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const std::uint64_t p0 = std::uint64_t{kMultiplier0} * c0[l];
      const std::uint64_t p1 = std::uint64_t{kMultiplier1} * c2[l];
      c0[l] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[l] ^ k0;
      c2[l] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[l] ^ k1;
      c1[l] = static_cast<std::uint32_t>(p1);
      c3[l] = static_cast<std::uint32_t>(p0);
    }
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  for (std::int64_t l = 0; l < kLanes; ++l) {
    words[l] = c0[l];
    words[kLanes + l] = c1[l];
    words[2 * kLanes + l] = c2[l];
    words[3 * kLanes + l] = c3[l];
  }
}

struct Mask {
  std::uint32_t threshold;  // words below it drop
  double keep_scale;
  std::uint64_t seed;
  std::uint32_t module;
};

/// out = mask(in), or out += mask(in) where kAdd.
template <bool kAdd, typename T>
WEFT_INLINE void mask_blocks_of(const T* in, T* out, std::int64_t elements, const Mask& mask,
                                std::int64_t begin, std::int64_t end) {
  const auto scale = static_cast<Wide<T>>(mask.keep_scale);
  for (std::int64_t block = begin; block < end; ++block) {
    std::uint32_t words[kBlock];
    philox_lanes(static_cast<std::uint64_t>(block * kLanes), mask.module, mask.seed, words);
    const std::int64_t first = block * kBlock;
    const std::int64_t count = std::min(kBlock, elements - first);
    for (std::int64_t i = 0; i < count; ++i) {
      const Wide<T> kept = words[i] < mask.threshold ? Wide<T>(0) : widen(in[first + i]) * scale;
      out[first + i] = narrow<T>(kAdd ? widen(out[first + i]) + kept : kept);
    }
  }
}

#define WEFT_DROPOUT_KERNELS(T)                                                                  \
  WEFT_CLONES void mask_blocks(const T* in, T* out, std::int64_t elements, const Mask& mask,     \
                               std::int64_t begin, std::int64_t end) {                           \
    mask_blocks_of<false>(in, out, elements, mask, begin, end);                                  \
  }                                                                                              \
  WEFT_CLONES void add_mask_blocks(const T* in, T* out, std::int64_t elements, const Mask& mask, \
                                   std::int64_t begin, std::int64_t end) {                       \
    mask_blocks_of<true>(in, out, elements, mask, begin, end);                                   \
  }
WEFT_DROPOUT_KERNELS(float)
WEFT_DROPOUT_KERNELS(double)
WEFT_DROPOUT_KERNELS(c10::BFloat16)

Mask mask_of(const Dropout& dropout, std::uint32_t module) {
  TORCH_INTERNAL_ASSERT(dropout.p >= 0 && dropout.p < 1);
  return {.threshold = static_cast<std::uint32_t>(dropout.p * 0x1p32),
          .keep_scale = 1 / (1 - dropout.p),
          .seed = dropout.seed,
          .module = module};
}

}  // namespace

Philox philox4x32(const Philox& counter, std::uint64_t key) {
  Philox c = counter;
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{kMultiplier0} * c.words[0];
    const std::uint64_t p1 = std::uint64_t{kMultiplier1} * c.words[2];
    c = {{static_cast<std::uint32_t>(p1 >> 32) ^ c.words[1] ^ k0, static_cast<std::uint32_t>(p1),
          static_cast<std::uint32_t>(p0 >> 32) ^ c.words[3] ^ k1, static_cast<std::uint32_t>(p0)}};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

at::Tensor dropout(const at::Tensor& x, const Dropout& dropout, std::uint32_t module) {
  at::Tensor y = at::empty_like(x);
  const Mask mask = mask_of(dropout, module);
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    const T* in = kernel::data<T>(x);
    T* out = kernel::mutable_data<T>(y);
    at::parallel_for(0, (x.numel() + kBlock - 1) / kBlock, kernel::grain(kBlock),
                     [&](std::int64_t begin, std::int64_t end) {
                       mask_blocks(in, out, x.numel(), mask, begin, end);
                     });
  });
  return y;
}

void dropout_backward_(const at::Tensor& dx, const at::Tensor& dy, const Dropout& dropout,
                       std::uint32_t module) {
  const Mask mask = mask_of(dropout, module);
  kernel::for_type(dx.scalar_type(), [&]<typename T>(T) {
    const T* in = kernel::data<T>(dy);
    T* out = kernel::mutable_data<T>(dx);
    at::parallel_for(0, (dx.numel() + kBlock - 1) / kBlock, kernel::grain(kBlock),
                     [&](std::int64_t begin, std::int64_t end) {
                       add_mask_blocks(in, out, dx.numel(), mask, begin, end);
                     });
  });
}

}  // namespace weft::model
