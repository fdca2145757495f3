#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "model/kernels/attention.h"
#include "model/kernels/kernel_math.h"

namespace weft::model::attention {

/// What the slope of one head adds to scaled scores (Score). W: type of sums.
template <typename W>
struct Alibi {
  W slope;
  W scale;  ///< Of slopes in bf16; 0: the slope is exact

  WEFT_INLINE Alibi(const Score& score, std::int64_t head, W scale_of_products)
      : slope(score.slopes[static_cast<std::size_t>(head)]),
        scale(score.slopes_in_bf16 ? scale_of_products : W(0)) {
    if (score.slopes_in_bf16) slope = kernel::rounded<c10::BFloat16>(static_cast<float>(slope));
  }

  WEFT_INLINE W operator()(std::int64_t key, std::int64_t query) const {
    if (scale == 0) return slope * static_cast<W>(key - query);
    return scale * (in_bf16(key) - in_bf16(query));
  }

 private:
  WEFT_INLINE W in_bf16(std::int64_t position) const {
    const float whole = kernel::rounded<c10::BFloat16>(static_cast<float>(position));
    return kernel::rounded<c10::BFloat16>(static_cast<float>(slope) * whole);
  }
};

}  // namespace weft::model::attention
