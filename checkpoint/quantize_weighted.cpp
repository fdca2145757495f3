// Q4_0, Q4_1, Q5_0, Q5_1 with importance (quantize_row_q4_0_impl and its kin): scales are fitted as
// those of super-blocks are, eight blocks of 32 side by side.

#include <algorithm>

#include "checkpoint/quantize_blocks.h"
#include "checkpoint/quantize_fit.h"

namespace weft::checkpoint {
namespace {

using namespace fit;

constexpr int kBlock = 32;

/// Where the parts of a block lie, and how many bits a code has.
struct Form {
  bool minimum;  ///< A minimum after the scale.
  bool fifth;    ///< Fifth bits before the nibbles.
  std::size_t bytes;
};

constexpr Form form_of(Storage storage) {
  switch (storage) {
    case Storage::kQ4_0: return {false, false, 18};
    case Storage::kQ4_1: return {true, false, 20};
    case Storage::kQ5_0: return {false, true, 22};
    default: return {true, true, 24};
  }
}

WEFT_INLINE void store_block(const Form& form, const Ints* codes, int lane, float scale,
                             float minimum, std::uint8_t* out) {
  std::uint8_t flat[kBlock];
  for (int i = 0; i < kBlock; ++i) flat[i] = static_cast<std::uint8_t>(codes[i][lane]);
  store_half(out, scale);
  out += 2;
  if (form.minimum) {
    store_half(out, -minimum);
    out += 2;
  }
  if (form.fifth) {
    store_fifth_bits(flat, out);
    out += 4;
  }
  store_nibbles(flat, out);
}

template <Storage storage>
WEFT_INLINE void run(const float* values, const float* importance, std::size_t count,
                     std::uint8_t* out) {
  constexpr Form kForm = form_of(storage);
  const std::size_t width = count * kBlock;
  const float variance = sum_of_squares(values, width) / static_cast<float>(width);
  for (std::size_t block = 0; block < count; block += kLanes) {
    const int lanes = static_cast<int>(std::min<std::size_t>(kLanes, count - block));
    Floats x[kBlock] = {};
    side_by_side<kBlock>(values + block * kBlock, x, lanes);
    Floats weights[kBlock];
    importance_weights<kBlock>(x, importance + block * kBlock, variance, weights, lanes);
    Ints codes[kBlock] = {};
    Floats scales{};
    Floats minima{};
    if constexpr (kForm.minimum) {
      fit_with_minimum(x, weights, kForm.fifth ? 31 : 15, kWeightedTrials, codes, scales, minima);
    } else {
      fit_symmetric<kBlock, kForm.fifth ? 16 : 8>(x, weights, codes, scales);
    }
    for (int lane = 0; lane < lanes; ++lane, out += kForm.bytes) {
      store_block(kForm, codes, lane, scales[lane], minima[lane], out);
    }
  }
}

WEFT_INLINE void run(Storage storage, const float* values, const float* importance,
                     std::size_t count, std::uint8_t* out) {
  switch (storage) {
    case Storage::kQ4_0: run<Storage::kQ4_0>(values, importance, count, out); break;
    case Storage::kQ4_1: run<Storage::kQ4_1>(values, importance, count, out); break;
    case Storage::kQ5_0: run<Storage::kQ5_0>(values, importance, count, out); break;
    default: run<Storage::kQ5_1>(values, importance, count, out); break;
  }
}

}  // namespace

WEFT_CLONES void quantize_weighted_row(Storage storage, const float* values,
                                       const float* importance, std::size_t count,
                                       std::uint8_t* out) {
  run(storage, values, importance, count, out);
}

}  // namespace weft::checkpoint
