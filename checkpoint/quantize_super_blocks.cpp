// Q4_K, Q5_K, Q6_K: super-blocks of 256, whose sub-blocks (8 of 32, 16 of 16) are fitted side by
// side (quantize_fit.h), and whose scales share a scale. With importance each value's error counts
// as much as its input does.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "checkpoint/quantize_blocks.h"
#include "checkpoint/quantize_fit.h"

namespace weft::checkpoint {
namespace {

using namespace fit;

/// The 6-bit scales and minima of eight sub-blocks in 12 bytes.
WEFT_INLINE void pack_scales(const int* scales, const int* minima, std::uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    out[j] = static_cast<std::uint8_t>(scales[j] | scales[j + 4] >> 4 << 6);
    out[j + 4] = static_cast<std::uint8_t>(minima[j] | minima[j + 4] >> 4 << 6);
    out[j + 8] = static_cast<std::uint8_t>((scales[j + 4] & 15) | (minima[j + 4] & 15) << 4);
  }
}

/// The reading of pack_scales(): what a reader of the file multiplies with.
WEFT_INLINE void unpack_scales(const std::uint8_t* in, int* scales, int* minima) {
  for (int j = 0; j < 4; ++j) {
    scales[j] = in[j] & 63;
    minima[j] = in[j + 4] & 63;
    scales[j + 4] = (in[j + 8] & 15) | in[j] >> 6 << 4;
    minima[j + 4] = in[j + 8] >> 4 | in[j + 4] >> 6 << 4;
  }
}

/// Weights of the fit without importance: rms of the sub-block + |x|.
WEFT_INLINE void plain_weights(const Floats* x, Floats* weights) {
  Floats squares{};
  for (int i = 0; i < 32; ++i) squares += x[i] * x[i];
  Floats average = squares / 32.0F;
  square_root(average);
  for (int i = 0; i < 32; ++i) {
    magnitude(x[i], weights[i]);
    weights[i] = average + weights[i];
  }
}

/// The 6-bit codes of eight scales, or minima, that are largest at `most`; returns their unit.
WEFT_INLINE float plain_codes(const Floats& values, int* codes) {
  float most = 0.0F;
  for (int j = 0; j < kLanes; ++j) most = values[j] > most ? values[j] : most;
  const float inverse = most > 0.0F ? 63.0F / most : 0.0F;
  for (int j = 0; j < kLanes; ++j) {
    // Stored in a byte before they are capped, as the reference does.
    codes[j] = std::min<int>(63, static_cast<std::uint8_t>(nearest_int(inverse * values[j])));
  }
  return most / 63.0F;
}

/// make_qp_quants(8, 63, ...): the same by least squares, a number's weight that of its sub-block.
/// Codes are bytes there, which matters for a number below 0.
WEFT_INLINE float weighted_codes(const Floats& values, const Floats& weights, int* codes) {
  float most = 0.0F;
  for (int j = 0; j < kLanes; ++j) most = values[j] > most ? values[j] : most;
  for (int j = 0; j < kLanes; ++j) codes[j] = 0;
  if (most < kLeastMagnitude) return 0.0F;
  float inverse = 63.0F / most;
  float best = 0.0F;
  for (int trial = -5; trial <= 4; ++trial) {
    // The first is 63 / most as it is, its codes bytes without a cap.
    const bool first = trial == -5;
    if (trial == 0) continue;
    const float of_trial = first ? inverse : (0.1F * static_cast<float>(trial) + 63.0F) / most;
    const float step = 1.0F / of_trial;
    float error = 0.0F;
    for (int j = 0; j < kLanes; ++j) {
      int code = nearest_int(of_trial * values[j]);
      code = first ? static_cast<std::uint8_t>(code) : std::min(63, code);
      const float difference = values[j] - step * static_cast<float>(code);
      error += weights[j] * difference * difference;
    }
    if (first || error < best) {
      best = error;
      inverse = of_trial;
    }
  }
  float sum_xl = 0.0F;
  float sum_l2 = 0.0F;
  for (int j = 0; j < kLanes; ++j) {
    const int code = std::min(63, nearest_int(inverse * values[j]));
    codes[j] = static_cast<std::uint8_t>(code);
    sum_xl += weights[j] * values[j] * static_cast<float>(code);
    sum_l2 += weights[j] * static_cast<float>(code) * static_cast<float>(code);
  }
  for (int round = 0; round < 5; ++round) {
    bool changed = false;
    for (int j = 0; j < kLanes; ++j) {
      const float w = weights[j];
      const auto old = static_cast<float>(codes[j]);
      float xl = sum_xl - w * values[j] * old;
      float l2 = sum_l2 - w * old * old;
      if (!(xl > 0.0F && l2 > 0.0F)) continue;
      const int code = std::min(63, nearest_int(values[j] * l2 / xl));
      if (code == codes[j]) continue;
      xl += w * values[j] * static_cast<float>(code);
      l2 += w * static_cast<float>(code) * static_cast<float>(code);
      if (xl * xl * sum_l2 > sum_xl * sum_xl * l2) {
        codes[j] = static_cast<std::uint8_t>(code);
        sum_xl = xl;
        sum_l2 = l2;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return sum_l2 > 0.0F ? sum_xl / sum_l2 : 0.0F;
}

/// What Q4_K and Q5_K share: d, dmin and scales go to the first 16 bytes of `out`. `importance` of
/// each value, or null (quantize_row_q4_K_impl, and _ref).
WEFT_INLINE void fit_super_block(const float* values, const float* importance, int limit,
                                 const Trials& plain, std::uint8_t* out, Ints* codes) {
  Floats x[32];
  side_by_side<32>(values, x);
  Floats weights[32];
  Floats scales;
  Floats minima;
  float d = 0.0F;
  float dmin = 0.0F;
  int scale_codes[kLanes];
  int minimum_codes[kLanes];
  if (importance == nullptr) {
    plain_weights(x, weights);
    fit_with_minimum(x, weights, limit, plain, codes, scales, minima);
    d = plain_codes(scales, scale_codes);
    dmin = plain_codes(minima, minimum_codes);
  } else {
    importance_weights<32>(x, importance, 2.0F * sum_of_squares(values, kSuper) / kSuper, weights);
    Floats sums{};
    for (int i = 0; i < 32; ++i) sums += weights[i];
    fit_with_minimum(x, weights, limit, kWeightedTrials, codes, scales, minima);
    d = weighted_codes(scales, sums, scale_codes);
    dmin = weighted_codes(minima, sums, minimum_codes);
    for (int j = 0; j < kLanes && limit == 31; ++j) {  // The reference caps Q5_K only.
      scale_codes[j] = std::min(63, scale_codes[j]);
      minimum_codes[j] = std::min(63, minimum_codes[j]);
    }
  }
  store_half(out, d);
  store_half(out + 2, dmin);
  pack_scales(scale_codes, minimum_codes, out + 4);
  unpack_scales(out + 4, scale_codes, minimum_codes);
  Floats steps{};
  Floats offsets{};
  for (int j = 0; j < kLanes; ++j) {
    steps[j] = load_half(out) * static_cast<float>(scale_codes[j]);
    offsets[j] = load_half(out + 2) * static_cast<float>(minimum_codes[j]);
  }
  const Ints keep = steps == 0.0F;
  for (int i = 0; i < 32; ++i) {
    Ints code;
    nearest((x[i] + offsets) / steps, code);
    clamp(code, 0, limit);
    codes[i] = keep ? codes[i] : code;
  }
}

/// Nibbles of two sub-blocks a byte: sub-block 2p low, 2p + 1 high.
WEFT_INLINE void pack_nibbles(const Ints* codes, std::uint8_t* out) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int i = 0; i < 32; ++i) {
      out[32 * pair + i] =
          static_cast<std::uint8_t>((codes[i][2 * pair] & 15) | (codes[i][2 * pair + 1] & 15) << 4);
    }
  }
}

WEFT_INLINE void q4_k(const float* values, const float* importance, std::uint8_t* out) {
  Ints codes[32];
  fit_super_block(values, importance, 15, {-1.0F, 0.1F, 20}, out, codes);
  pack_nibbles(codes, out + 16);
}

WEFT_INLINE void q5_k(const float* values, const float* importance, std::uint8_t* out) {
  Ints codes[32];
  fit_super_block(values, importance, 31, {-0.5F, 0.1F, 15}, out, codes);
  for (int i = 0; i < 32; ++i) {
    int bits = 0;
    for (int j = 0; j < kLanes; ++j) bits |= (codes[i][j] >> 4 & 1) << j;
    out[16 + i] = static_cast<std::uint8_t>(bits);
  }
  pack_nibbles(codes, out + 48);
}

/// Four codes of a byte pair: see the table in docs/export.md, or ggml-common.h, block_q6_K.
WEFT_INLINE void pack_q6_k(const std::uint8_t* codes, std::uint8_t* low, std::uint8_t* high) {
  for (int half = 0; half < 2; ++half, codes += 128, low += 64, high += 32) {
    for (int i = 0; i < 32; ++i) {
      const std::array<int, 4> c{codes[i], codes[i + 32], codes[i + 64], codes[i + 96]};
      low[i] = static_cast<std::uint8_t>((c[0] & 15) | (c[2] & 15) << 4);
      low[i + 32] = static_cast<std::uint8_t>((c[1] & 15) | (c[3] & 15) << 4);
      high[i] =
          static_cast<std::uint8_t>(c[0] >> 4 | c[1] >> 4 << 2 | c[2] >> 4 << 4 | c[3] >> 4 << 6);
    }
  }
}

WEFT_INLINE void q6_k(const float* values, const float* importance, std::uint8_t* out) {
  Floats x[2][16];
  Ints codes[2][16] = {};
  Floats scales[2];
  for (int half = 0; half < 2; ++half) {
    side_by_side<16>(values + half * 128, x[half]);
    Floats weights[16];
    if (importance != nullptr) {
      side_by_side<16>(importance + half * 128, weights);
    } else {
      for (int i = 0; i < 16; ++i) weights[i] = x[half][i] * x[half][i];
    }
    fit_symmetric<16, 32>(x[half], weights, codes[half], scales[half]);
  }
  float extreme = 0.0F;
  float most = 0.0F;
  for (int j = 0; j < 16; ++j) {
    const float scale = scales[j / kLanes][j % kLanes];
    if (__builtin_fabsf(scale) > most) {
      most = __builtin_fabsf(scale);
      extreme = scale;
    }
  }
  if (most < kLeastMagnitude) {
    std::memset(out, 0, 210);
    return;
  }
  const float inverse = -128.0F / extreme;
  store_half(out + 208, 1.0F / inverse);
  const float d = load_half(out + 208);
  std::uint8_t flat[kSuper];
  for (int half = 0; half < 2; ++half) {
    Floats steps{};
    for (int j = 0; j < kLanes; ++j) {
      const auto code =
          static_cast<std::int8_t>(std::min(127, nearest_int(inverse * scales[half][j])));
      out[192 + half * kLanes + j] = static_cast<std::uint8_t>(code);
      steps[j] = d * static_cast<float>(code);
    }
    const Ints keep = steps == 0.0F;
    for (int i = 0; i < 16; ++i) {
      Ints code;
      nearest(x[half][i] / steps, code);
      clamp(code, -32, 31);
      code = keep ? codes[half][i] : code + 32;
      for (int j = 0; j < kLanes; ++j) {
        flat[half * 128 + j * 16 + i] = static_cast<std::uint8_t>(code[j]);
      }
    }
  }
  pack_q6_k(flat, out, out + 128);
}

WEFT_INLINE void run(Storage storage, const float* values, const float* importance,
                     std::size_t count, std::uint8_t* out) {
  for (std::size_t i = 0; i < count; ++i, values += kSuper) {
    if (storage == Storage::kQ4_K) {
      q4_k(values, importance, out);
      out += 144;
    } else if (storage == Storage::kQ5_K) {
      q5_k(values, importance, out);
      out += 176;
    } else {
      q6_k(values, importance, out);
      out += 210;
    }
    if (importance != nullptr) importance += kSuper;
  }
}

}  // namespace

WEFT_CLONES void quantize_super_blocks(Storage storage, const float* values,
                                       const float* importance, std::size_t count,
                                       std::uint8_t* out) {
  run(storage, values, importance, count, out);
}

}  // namespace weft::checkpoint
