#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "core/clones.h"

// How eight sub-blocks are fitted side by side, one in each lane of a vector: scales are tried, and
// the one with the least weighted error is kept. The sums of a trial must be added in the
// reference's order to give its bits, so they cannot be split over lanes. Branches of the reference
// become selections. Included by sources that are compiled with -ffp-contract=off.

namespace weft::checkpoint::fit {

constexpr int kLanes = 8;
constexpr int kSuper = 256;
/// Below this a sub-block of Q6_K counts as zero (GROUP_MAX_EPS).
constexpr float kLeastMagnitude = 1e-15F;

// Passed by reference only, so the ABI of wide vectors does not matter.
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));

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

/// Up to eight sub-blocks of N, lane by lane: x[i][lane] is element i of sub-block `lane`. Lanes
/// without one are left alone.
template <int N>
WEFT_INLINE void side_by_side(const float* values, Floats* x, int lanes = kLanes) {
  for (int i = 0; i < N; ++i) {
    for (int lane = 0; lane < lanes; ++lane) x[i][lane] = values[lane * N + i];
  }
}

/// In order, as the reference adds.
WEFT_INLINE float sum_of_squares(const float* values, std::size_t count) {
  float sum = 0.0F;
  for (std::size_t i = 0; i < count; ++i) sum += values[i] * values[i];
  return sum;
}

/// importance * sqrt(variance + x^2), for sub-blocks of N.
template <int N>
WEFT_INLINE void importance_weights(const Floats* x, const float* importance, float variance,
                                    Floats* weights, int lanes = kLanes) {
  Floats input[N] = {};
  side_by_side<N>(importance, input, lanes);
  for (int i = 0; i < N; ++i) {
    Floats root = variance + x[i] * x[i];
    square_root(root);
    weights[i] = input[i] * root;
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

/// Scales that are tried: (limit + first + step * k) / range for k = 0 .. count.
struct Trials {
  float first;
  float step;
  int count;
};

/// What the reference tries where it has importance.
inline constexpr Trials kWeightedTrials{-0.9F, 0.05F, 36};

/// make_qkx2_quants(32, limit, ...) for eight sub-blocks, which is make_qkx3_quants, too.
WEFT_INLINE void fit_with_minimum(const Floats* x, const Floats* weights, int limit,
                                  const Trials& trials, Ints* codes, Floats& scale_out,
                                  Floats& minimum_out) {
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
  for (int trial = 0; trial <= trials.count; ++trial) {
    const float numerator =
        trials.first + trials.step * static_cast<float>(trial) + static_cast<float>(limit);
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

/// make_qx_quants(N, half, ..., 1, weights) for eight sub-blocks: codes 0..2 half - 1 about half.
template <int N, int half>
WEFT_INLINE void fit_symmetric(const Floats* x, const Floats* weights, Ints* codes,
                               Floats& scale_out) {
  Floats most{};
  Floats extreme{};
  for (int i = 0; i < N; ++i) {
    Floats size;
    magnitude(x[i], size);
    const Ints larger = size > most;
    most = larger ? size : most;
    extreme = larger ? x[i] : extreme;
  }
  const Floats zero{};
  const Ints empty = most < kLeastMagnitude;
  Floats scale{};
  Floats best{};
  for (int trial = 0; trial <= 18; ++trial) {
    // The first is half / extreme, then half + 0.1 * (-9 .. 9 without 0).
    const int offset = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;
    const Floats inverse =
        -(static_cast<float>(half) + 0.1F * static_cast<float>(offset)) / extreme;
    Ints trial_codes[N];
    Floats sum_xl{};
    Floats sum_l2{};
    for (int i = 0; i < N; ++i) {
      nearest(inverse * x[i], trial_codes[i]);
      clamp(trial_codes[i], -half, half - 1);
      const Floats code = __builtin_convertvector(trial_codes[i], Floats);
      sum_xl += weights[i] * x[i] * code;
      sum_l2 += weights[i] * code * code;
    }
    const Floats trial_scale = sum_l2 != 0.0F ? sum_xl / sum_l2 : zero;
    const Ints first = Ints{} - (trial == 0 ? 1 : 0);
    const Ints better = first | ((sum_l2 > 0.0F) & (sum_xl * sum_xl > best * sum_l2));
    for (int i = 0; i < N; ++i) codes[i] = better ? trial_codes[i] + half : codes[i];
    scale = better ? trial_scale : scale;
    best = better ? trial_scale * sum_xl : best;
  }
  for (int i = 0; i < N; ++i) codes[i] = empty ? Ints{} : codes[i];
  scale_out = empty ? zero : scale;
}

}  // namespace weft::checkpoint::fit
