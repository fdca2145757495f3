#include <ATen/ops/empty_like.h>

#include <array>

#include "core/philox.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::Wide;
using kernel::widen;

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kBlock = 4 * kLanes;

/// words[w][lane] is word w of counter first + lane.
WEFT_INLINE void words_of(std::uint64_t first, std::uint32_t module, std::uint64_t key,
                          std::uint32_t (&words)[4][kLanes]) {
  for (std::uint32_t l = 0; l < kLanes; ++l) {
    words[0][l] = static_cast<std::uint32_t>(first) + l;  // a multiple of kLanes: no carry
    words[1][l] = static_cast<std::uint32_t>(first >> 32);
    words[2][l] = module;
    words[3][l] = 0;
  }
  core::philox_lanes(core::philox_key(key), words);
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
    std::uint32_t words[4][kLanes];
    words_of(static_cast<std::uint64_t>(block * kLanes), mask.module, mask.seed, words);
    const std::uint32_t* word = words[0];  // all four, one after the other
    const std::int64_t first = block * kBlock;
    const std::int64_t count = std::min(kBlock, elements - first);
    for (std::int64_t i = 0; i < count; ++i) {
      const Wide<T> kept = word[i] < mask.threshold ? Wide<T>(0) : widen(in[first + i]) * scale;
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

at::Tensor Processor::dropout(const at::Tensor& x, const Dropout& dropout,
                              std::uint32_t module) const {
  at::Tensor y = at::empty_like(x);
  const Mask mask = mask_of(dropout, module);
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    const T* in = kernel::data<T>(x);
    T* out = kernel::mutable_data<T>(y);
    kernel::parallel_for((x.numel() + kBlock - 1) / kBlock, kernel::grain(kBlock),
                         [&](std::int64_t begin, std::int64_t end) {
                           mask_blocks(in, out, x.numel(), mask, begin, end);
                         });
  });
  return y;
}

void Processor::dropout_backward_(const at::Tensor& dx, const at::Tensor& dy,
                                  const Dropout& dropout, std::uint32_t module) const {
  const Mask mask = mask_of(dropout, module);
  kernel::for_type(dx.scalar_type(), [&]<typename T>(T) {
    const T* in = kernel::data<T>(dy);
    T* out = kernel::mutable_data<T>(dx);
    kernel::parallel_for((dx.numel() + kBlock - 1) / kBlock, kernel::grain(kBlock),
                         [&](std::int64_t begin, std::int64_t end) {
                           add_mask_blocks(in, out, dx.numel(), mask, begin, end);
                         });
  });
}

}  // namespace weft::model
