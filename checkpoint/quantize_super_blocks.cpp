// Q4_K, Q5_K, Q6_K: super-blocks of 256, whose sub-blocks (8 of 32, 16 of 16) are each fitted by
// trying scales and keeping the one with the least weighted error. The sums of a trial must be
// added in the reference's order to give its bits, so they cannot be split; instead eight
// sub-blocks are fitted side by side, one in each lane of a vector. Branches of the reference
// become selections.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "checkpoint/quantize_blocks.h"
#include "core/number.h"

#if defined(__x86_64__)
#define WEFT_X86 1
#endif

namespace weft::checkpoint {
namespace {

constexpr int kLanes = 8;
constexpr int kSuper = 256;
/// Below this a sub-block of Q6_K counts as zero (GROUP_MAX_EPS).
constexpr float kLeastMagnitude = 1e-15F;

// Passed by reference only, so the ABI of wide vectors does not matter.
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));

#define WEFT_INLINE [[gnu::always_inline]] inline

WEFT_INLINE void magnitude(const Floats& x, Floats& out) {
  out = reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & 0x7fffffff);
}

/// To nearest, ties to even, by adding 1.5 * 2^23: the sum's low bits are the integer.
WEFT_INLINE void nearest(const Floats& x, Ints& out) {
  const Floats sum = x + 12582912.0F;
  out = (reinterpret_cast<Ints>(sum) & 0x007fffff) - 0x00400000;
}

WEFT_INLINE void clamp(Ints& value, std::int32_t least, std::int32_t most) {
  value = value > least ? value : value * 0 + least;
  value = value < most ? value : value * 0 + most;
}

WEFT_INLINE void square_root(Floats& x) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
}

/// The scalar nearest().
WEFT_INLINE int nearest_int(float value) {
  const float sum = value + 12582912.0F;
  return (std::bit_cast<std::int32_t>(sum) & 0x007fffff) - 0x00400000;
}

/// Eight sub-blocks of N, lane by lane: x[i][lane] is element i of sub-block `lane`.
template <int N>
WEFT_INLINE void side_by_side(const float* values, Floats* x) {
  for (int i = 0; i < N; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) x[i][lane] = values[lane * N + i];
  }
}

/// One fit of a scale and a minimum: x is about scale * code - minimum.
struct Fit {
  Floats scale;
  Floats least;  ///< The negative of what is stored.
  Floats error;
};

/// sum over i of weight * (scale * code + least - x)^2, in order of i.
WEFT_INLINE void error_of(const Floats* x, const Floats* weights, const Ints* codes,
                          const Floats& scale, const Floats& least, Floats& error) {
  error = Floats{};
  for (int i = 0; i < 32; ++i) {
    const Floats difference = scale * __builtin_convertvector(codes[i], Floats) + least - x[i];
    error += weights[i] * (difference * difference);
  }
}

struct Sums {
  Floats l = {};
  Floats l2 = {};
  Floats xl = {};
};

WEFT_INLINE void codes_and_sums(const Floats* x, const Floats* weights, const Floats& least,
                                const Floats& inverse, int limit, Ints* codes, Sums& sums) {
  for (int i = 0; i < 32; ++i) {
    nearest(inverse * (x[i] - least), codes[i]);
    clamp(codes[i], 0, limit);
    const Floats code = __builtin_convertvector(codes[i], Floats);
    const Floats weighted = weights[i] * code;
    sums.l += weighted;
    sums.l2 += weighted * code;
    sums.xl += weighted * x[i];
  }
}

/// make_qkx2_quants(32, limit, ..., first, step, trials, false) for eight sub-blocks.
WEFT_INLINE void fit_with_minimum(const Floats* x, int limit, float first, float step, int trials,
                                  Ints* codes, Floats& scale_out, Floats& minimum_out) {
  Floats weights[32];
  Floats squares{};
  for (int i = 0; i < 32; ++i) squares += x[i] * x[i];
  Floats average = squares / 32.0F;
  square_root(average);
  for (int i = 0; i < 32; ++i) {
    magnitude(x[i], weights[i]);
    weights[i] = average + weights[i];
  }

  Floats least = x[0];
  Floats most = x[0];
  Floats sum_w = weights[0];
  Floats sum_x = sum_w * x[0];
  for (int i = 1; i < 32; ++i) {
    least = x[i] < least ? x[i] : least;
    most = x[i] > most ? x[i] : most;
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  const Floats zero{};
  least = least > 0.0F ? zero : least;
  const Ints constant = most == least;
  const Floats range = most - least;
  const Floats start = least;  // Trials are all rounded from here.

  Floats inverse = static_cast<float>(limit) / range;
  Fit best{1.0F / inverse, least, {}};
  for (int i = 0; i < 32; ++i) {
    nearest(inverse * (x[i] - start), codes[i]);
    clamp(codes[i], 0, limit);
  }
  error_of(x, weights, codes, best.scale, best.least, best.error);

  Ints trial_codes[32];
  for (int trial = 0; trial <= trials; ++trial) {
    const float numerator = first + step * static_cast<float>(trial) + static_cast<float>(limit);
    // As in the reference, the codes of a trial are rounded from the best minimum so far.
    inverse = numerator / (most - best.least);
    Sums sums;
    codes_and_sums(x, weights, best.least, inverse, limit, trial_codes, sums);
    const Floats determinant = sum_w * sums.l2 - sums.l * sums.l;
    Floats scale = (sum_w * sums.xl - sum_x * sums.l) / determinant;
    Floats minimum = (sums.l2 * sum_x - sums.l * sums.xl) / determinant;
    const Ints positive = minimum > 0.0F;
    minimum = positive ? zero : minimum;
    scale = positive ? sums.xl / sums.l2 : scale;
    Floats error;
    error_of(x, weights, trial_codes, scale, minimum, error);
    const Ints better = (determinant > 0.0F) & (error < best.error);
    for (int i = 0; i < 32; ++i) codes[i] = better ? trial_codes[i] : codes[i];
    best.scale = better ? scale : best.scale;
    best.least = better ? minimum : best.least;
    best.error = better ? error : best.error;
  }
  for (int i = 0; i < 32; ++i) codes[i] = constant ? Ints{} : codes[i];
  scale_out = constant ? zero : best.scale;
  minimum_out = constant ? -start : -best.least;
}

/// The 6-bit scales and minima of eight sub-blocks in 12 bytes.
WEFT_INLINE void pack_scales(const int* scales, const int* minima, std::uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    out[j] = static_cast<std::uint8_t>(scales[j] | scales[j + 4] >> 4 << 6);
    out[j + 4] = static_cast<std::uint8_t>(minima[j] | minima[j + 4] >> 4 << 6);
    out[j + 8] = static_cast<std::uint8_t>((scales[j + 4] & 15) | (minima[j + 4] & 15) << 4);
  }
}

/// What Q4_K and Q5_K share: d, dmin and scales go to the first 16 bytes of `out`.
WEFT_INLINE void fit_super_block(const float* values, int limit, float first, int trials,
                                 std::uint8_t* out, Ints* codes) {
  Floats x[32];
  side_by_side<32>(values, x);
  Floats scales;
  Floats minima;
  fit_with_minimum(x, limit, first, 0.1F, trials, codes, scales, minima);

  float most_scale = 0.0F;
  float most_minimum = 0.0F;
  for (int j = 0; j < kLanes; ++j) {
    most_scale = scales[j] > most_scale ? scales[j] : most_scale;
    most_minimum = minima[j] > most_minimum ? minima[j] : most_minimum;
  }
  const float inverse_scale = most_scale > 0.0F ? 63.0F / most_scale : 0.0F;
  const float inverse_minimum = most_minimum > 0.0F ? 63.0F / most_minimum : 0.0F;
  const std::uint16_t d = core::float_to_f16(most_scale / 63.0F);
  const std::uint16_t dmin = core::float_to_f16(most_minimum / 63.0F);
  std::memcpy(out, &d, 2);
  std::memcpy(out + 2, &dmin, 2);
  int scale_codes[kLanes];
  int minimum_codes[kLanes];
  Floats steps{};
  Floats offsets{};
  for (int j = 0; j < kLanes; ++j) {
    // Stored in a byte before they are capped, as the reference does.
    scale_codes[j] =
        std::min<int>(63, static_cast<std::uint8_t>(nearest_int(inverse_scale * scales[j])));
    minimum_codes[j] =
        std::min<int>(63, static_cast<std::uint8_t>(nearest_int(inverse_minimum * minima[j])));
    steps[j] = core::f16_to_float(d) * static_cast<float>(scale_codes[j]);
    offsets[j] = core::f16_to_float(dmin) * static_cast<float>(minimum_codes[j]);
  }
  pack_scales(scale_codes, minimum_codes, out + 4);
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

WEFT_INLINE void q4_k(const float* values, std::uint8_t* out) {
  Ints codes[32];
  fit_super_block(values, 15, -1.0F, 20, out, codes);
  pack_nibbles(codes, out + 16);
}

WEFT_INLINE void q5_k(const float* values, std::uint8_t* out) {
  Ints codes[32];
  fit_super_block(values, 31, -0.5F, 15, out, codes);
  for (int i = 0; i < 32; ++i) {
    int bits = 0;
    for (int j = 0; j < kLanes; ++j) bits |= (codes[i][j] >> 4 & 1) << j;
    out[16 + i] = static_cast<std::uint8_t>(bits);
  }
  pack_nibbles(codes, out + 48);
}

/// make_qx_quants(16, 32, ..., 1, NULL) for eight sub-blocks: codes 0..63 about 32.
WEFT_INLINE void fit_symmetric(const Floats* x, Ints* codes, Floats& scale_out) {
  Floats most{};
  Floats extreme{};
  Floats weights[16];  // x^2
  for (int i = 0; i < 16; ++i) {
    Floats size;
    magnitude(x[i], size);
    const Ints larger = size > most;
    most = larger ? size : most;
    extreme = larger ? x[i] : extreme;
    weights[i] = x[i] * x[i];
  }
  const Floats zero{};
  const Ints empty = most < kLeastMagnitude;
  Floats scale{};
  Floats best{};
  for (int trial = 0; trial <= 18; ++trial) {
    // The first is 32 / extreme, then 32 + 0.1 * (-9 .. 9 without 0).
    const int offset = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;
    const Floats inverse = -(32.0F + 0.1F * static_cast<float>(offset)) / extreme;
    Ints trial_codes[16];
    Floats sum_xl{};
    Floats sum_l2{};
    for (int i = 0; i < 16; ++i) {
      nearest(inverse * x[i], trial_codes[i]);
      clamp(trial_codes[i], -32, 31);
      const Floats code = __builtin_convertvector(trial_codes[i], Floats);
      sum_xl += weights[i] * x[i] * code;
      sum_l2 += weights[i] * code * code;
    }
    const Floats trial_scale = sum_l2 != 0.0F ? sum_xl / sum_l2 : zero;
    const Ints first = Ints{} - (trial == 0 ? 1 : 0);
    const Ints better = first | ((sum_l2 > 0.0F) & (sum_xl * sum_xl > best * sum_l2));
    for (int i = 0; i < 16; ++i) codes[i] = better ? trial_codes[i] + 32 : codes[i];
    scale = better ? trial_scale : scale;
    best = better ? trial_scale * sum_xl : best;
  }
  for (int i = 0; i < 16; ++i) codes[i] = empty ? Ints{} : codes[i];
  scale_out = empty ? zero : scale;
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

WEFT_INLINE void q6_k(const float* values, std::uint8_t* out) {
  Floats x[2][16];
  Ints codes[2][16] = {};
  Floats scales[2];
  for (int half = 0; half < 2; ++half) {
    side_by_side<16>(values + half * 128, x[half]);
    fit_symmetric(x[half], codes[half], scales[half]);
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
  const std::uint16_t d = core::float_to_f16(1.0F / inverse);
  std::memcpy(out + 208, &d, 2);
  std::uint8_t flat[kSuper];
  for (int half = 0; half < 2; ++half) {
    Floats steps{};
    for (int j = 0; j < kLanes; ++j) {
      const auto code =
          static_cast<std::int8_t>(std::min(127, nearest_int(inverse * scales[half][j])));
      out[192 + half * kLanes + j] = static_cast<std::uint8_t>(code);
      steps[j] = core::f16_to_float(d) * static_cast<float>(code);
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

WEFT_INLINE void run(Storage storage, const float* values, std::size_t count, std::uint8_t* out) {
  for (std::size_t i = 0; i < count; ++i, values += kSuper) {
    if (storage == Storage::kQ4_K) {
      q4_k(values, out);
      out += 144;
    } else if (storage == Storage::kQ5_K) {
      q5_k(values, out);
      out += 176;
    } else {
      q6_k(values, out);
      out += 210;
    }
  }
}

using Run = void (*)(Storage, const float*, std::size_t, std::uint8_t*);

void run_plain(Storage storage, const float* values, std::size_t count, std::uint8_t* out) {
  run(storage, values, count, out);
}

#ifdef WEFT_X86
// Wider registers, the same operations: avx2 does not imply fused products (-ffp-contract=off).
[[gnu::target("avx2")]] void run_avx2(Storage storage, const float* values, std::size_t count,
                                      std::uint8_t* out) {
  run(storage, values, count, out);
}
#endif

Run best_run() {
#ifdef WEFT_X86
  if (__builtin_cpu_supports("avx2")) return run_avx2;
#endif
  return run_plain;
}

}  // namespace

void quantize_super_blocks(Storage storage, const float* values, std::size_t count,
                           std::uint8_t* out) {
  static const Run best = best_run();
  best(storage, values, count, out);
}

}  // namespace weft::checkpoint
