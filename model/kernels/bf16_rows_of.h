#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/kernels/bf16_rows.h"
#include "model/kernels/multiply.h"

// The row kernels of BFloat16, of the vectors that a header for one set of instructions gives
// (bf16_lanes_avx512.h, bf16_lanes_avx2.h), which a file for each set includes before this one.

namespace weft::model::kernel {
namespace {

/// Calls body(place, mask) for each kWidth of `count`.
template <typename Body>
WEFT_ROWS_INLINE void for_lanes(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) body(i, kAll);
  if (i < count) body(i, lanes(count - i));
}

/// e^x; 0 far below float's range, infinity above it; NaN stays NaN.
WEFT_ROWS_INLINE Vector exponential(Vector x) {
  // Of two operands of which one is NaN, the second is taken.
  x = smaller(all(150.0F), larger(all(-150.0F), x));
  const Vector n = to_integer(multiply(x, all(1.44269504088896341F)));
  Vector r = fnma(n, all(0.693359375F), x);
  r = fma(n, all(2.12194440e-4F), r);
  Vector p = all(1.38888889e-3F);
  p = fma(p, r, all(8.33333333e-3F));
  p = fma(p, r, all(4.16666667e-2F));
  p = fma(p, r, all(1.66666667e-1F));
  p = fma(p, r, all(0.5F));
  p = fma(p, r, all(1.0F));
  p = fma(p, r, all(1.0F));
  return times_power(p, n);
}

/// 1 / (1 + e^-x); 0 below -87, where it leaves float's normal range.
WEFT_ROWS_INLINE Vector sigmoid(Vector x) {
  // Beyond 87 the denominator would leave the range in which its reciprocal is a number.
  const Vector bounded = larger(all(-87.0F), x);
  const Vector one = all(1.0F);
  const Vector d = add(one, exponential(subtract(all(0.0F), bounded)));
  return zero_below(reciprocal(d), x, -87.0F);
}

WEFT_ROWS void silu_rows(const BFloat16* in, BFloat16* y, std::int64_t width, std::int64_t begin,
                         std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const BFloat16* const gate = in + row * 2 * width;
    const BFloat16* const up = gate + width;
    BFloat16* const out = y + row * width;
    for_lanes(
        width, WEFT_LANES {
          const Vector g = read(gate + i, m);
          const Vector activated = rounded(multiply(g, sigmoid(g)));
          write(out + i, multiply(activated, read(up + i, m)), m);
        });
  }
}

WEFT_ROWS void silu_backward_rows(BFloat16* in_out, const BFloat16* dy, std::int64_t width,
                                  std::int64_t begin, std::int64_t end) {
  const Vector one = all(1.0F);
  for (std::int64_t row = begin; row < end; ++row) {
    BFloat16* const gate = in_out + row * 2 * width;
    BFloat16* const up = gate + width;
    const BFloat16* const gradient = dy + row * width;
    for_lanes(
        width, WEFT_LANES {
          const Vector g = read(gate + i, m);
          const Vector d = read(gradient + i, m);
          const Vector s = sigmoid(g);
          const Vector slope = fma(g, subtract(one, s), one);
          const Vector through = multiply(d, read(up + i, m));
          write(gate + i, multiply(multiply(through, s), slope), m);
          write(up + i, multiply(multiply(d, g), s), m);
        });
  }
}

WEFT_ROWS void finish_rows(const Finish& f) {
  const Vector factor = all(f.scale);
  for (std::int64_t row = 0; row < f.rows; ++row) {
    BFloat16* const to = f.to + row * f.to_stride;
    const float* const sums = f.sums + row * f.sums_stride;
    const BFloat16* const residual = f.residual + row * f.residual_stride;
    for_lanes(
        f.columns, WEFT_LANES {
          Vector value = multiply(read(sums + i, m), factor);
          if (f.bias != nullptr) value = add(value, read(f.bias + i, m));
          if (f.residual != nullptr) value = add(rounded(value), read(residual + i, m));
          write(to + i, value, m);
        });
  }
}

WEFT_ROWS void interleave_pairs(const Interleave& p) {
  constexpr std::int64_t kAhead =
      16;  // rows: a panel of a wide matrix is no stream to the processor
  constexpr std::int64_t kStrips = kPaired / kLanes;
  BFloat16* row_of_pairs = p.to;
  for (std::int64_t row = 0; row < p.rows; row += 2, row_of_pairs += p.to_stride) {
    const BFloat16* const even = p.from + row * p.from_stride;
    const BFloat16* const odd = even + p.from_stride;
    BFloat16* to = row_of_pairs;
    std::int64_t i = 0;
    for (; i + kPaired <= p.columns; i += kPaired, to += kStrips * p.strip_stride) {
      __builtin_prefetch(even + kAhead * p.from_stride + i);
      __builtin_prefetch(odd + kAhead * p.from_stride + i);
      put_pairs(even + i, odd + i, to, p.strip_stride);
    }
    for (std::int64_t j = 0; i + j < p.columns; ++j) {
      BFloat16* const pair = to + j / kLanes * p.strip_stride + 2 * (j % kLanes);
      pair[0] = even[i + j];
      pair[1] = odd[i + j];
    }
  }
}

WEFT_ROWS float rms_row(const BFloat16* x, const BFloat16* weight, float plus, float eps,
                        BFloat16* y, std::int64_t width) {
  Vector squares = all(0.0F);
  for_lanes(
      width, WEFT_LANES {
        const Vector value = read(x + i, m);
        squares = fma(value, value, squares);
      });
  const float s = 1 / std::sqrt(sum_of(squares) / static_cast<float>(width) + eps);
  const Vector factor = all(s);
  const Vector shift = all(plus);
  for_lanes(
      width, WEFT_LANES {
        const Vector normal = rounded(multiply(read(x + i, m), factor));
        write(y + i, multiply(add(read(weight + i, m), shift), normal), m);
      });
  return s;
}

WEFT_ROWS void rms_backward_row(const BFloat16* x, const BFloat16* weight, float plus, float s,
                                const BFloat16* dy, BFloat16* dx, bool adds, std::int64_t width) {
  const Vector shift = all(plus);
  Vector dots = all(0.0F);
  for_lanes(
      width, WEFT_LANES {
        const Vector through = multiply(read(dy + i, m), add(read(weight + i, m), shift));
        dots = fma(through, read(x + i, m), dots);
      });
  const Vector back = all(sum_of(dots) * s * s * s / static_cast<float>(width));
  const Vector factor = all(s);
  for_lanes(
      width, WEFT_LANES {
        const Vector around = adds ? read(dx + i, m) : all(0.0F);
        const Vector through =
            multiply(multiply(factor, add(read(weight + i, m), shift)), read(dy + i, m));
        write(dx + i, fnma(back, read(x + i, m), add(around, through)), m);
      });
}

WEFT_ROWS float scale_scores(float* score, std::int64_t count, float scale, float most) {
  const Vector factor = all(scale);
  const Vector least = all(-std::numeric_limits<float>::infinity());
  Vector largest = all(most);
  for_lanes(
      count, WEFT_LANES {
        const Vector value = multiply(rounded(read(score + i, m)), factor);
        largest = larger(largest, only(m, value, least));
        write(score + i, value, m);
      });
  return largest_of(largest);
}

WEFT_ROWS float exponentials(float* score, std::int64_t count, float most) {
  const Vector top = all(most);
  Vector sum = all(0.0F);
  for_lanes(
      count, WEFT_LANES {
        const Vector value = exponential(subtract(read(score + i, m), top));
        sum = add(sum, only(m, value, all(0.0F)));
        write(score + i, value, m);
      });
  return sum_of(sum);
}

WEFT_ROWS void weights_row(BFloat16* to, const float* score, std::int64_t count, float share) {
  const Vector factor = all(share);
  for_lanes(
      count, WEFT_LANES { write(to + i, multiply(read(score + i, m), factor), m); });
}

WEFT_ROWS void score_gradients(BFloat16* to, const float* score, const float* gradient,
                               std::int64_t count, float scale, float log_sum, float delta) {
  const Vector factor = all(scale);
  const Vector top = all(log_sum);
  const Vector shift = all(delta);
  for_lanes(
      count, WEFT_LANES {
        const Vector p = exponential(fms(rounded(read(score + i, m)), factor, top));
        const Vector d = subtract(read(gradient + i, m), shift);
        write(to + i, multiply(multiply(p, d), factor), m);
      });
}

WEFT_ROWS void score_gradients_across(BFloat16* weight, BFloat16* to, const float* score,
                                      const float* gradient, const float* log_sum,
                                      const float* delta, std::int64_t count, float scale) {
  const Vector factor = all(scale);
  for_lanes(
      count, WEFT_LANES {
        const Vector p =
            exponential(fms(rounded(read(score + i, m)), factor, read(log_sum + i, m)));
        const Vector d = subtract(read(gradient + i, m), read(delta + i, m));
        write(weight + i, p, m);
        write(to + i, multiply(multiply(p, d), factor), m);
      });
}

/// Products of up to kKeys keys and kQueries queries; places beyond `keys` and `queries` repeat the
/// last ones and are not written.
WEFT_ROWS void score_block(const KeysOfHead& h, const float* query, std::int64_t queries,
                           std::int64_t key, std::int64_t keys, float* scores) {
  Vector sums[kWidth];
  for (Vector& sum : sums) sum = all(0.0F);
  for_lanes(
      h.head_dim, WEFT_LANES {
        Vector q[kQueries];
        for (int g = 0; g < kQueries; ++g)
          q[g] = read(query + std::min<std::int64_t>(g, queries - 1) * h.head_dim + i, m);
        for (int j = 0; j < kKeys; ++j) {
          const Vector k =
              read(h.rows + (key + std::min<std::int64_t>(j, keys - 1)) * h.head_dim + i, m);
          for (int g = 0; g < kQueries; ++g)
            sums[g * kKeys + j] = fma(q[g], k, sums[g * kKeys + j]);
        }
      });
  float products[kWidth];
  write(products, sums_of(sums), kAll);
  for (std::int64_t g = 0; g < queries; ++g)
    std::copy_n(products + g * kKeys, keys, scores + g * h.count + key);
}

constexpr int kRegisters = 4;

/// Up to kQueries queries' sums over the values in kRegisters registers from `place` on; kWhole:
/// all their lanes are values.
template <bool kWhole>
WEFT_ROWS void value_block(const KeysOfHead& h, const float* weights, std::int64_t queries,
                           std::int64_t place, float* sums) {
  Vector sum[kQueries][kRegisters];
  Mask masks[kRegisters];
  for (int r = 0; r < kRegisters; ++r) {
    masks[r] = kWhole ? kAll : lanes(std::max<std::int64_t>(h.head_dim - place - r * kWidth, 0));
    for (int g = 0; g < kQueries; ++g) sum[g][r] = all(0.0F);
  }
  for (std::int64_t j = 0; j < h.count; ++j) {
    const BFloat16* const value = h.rows + j * h.head_dim + place;
    for (int r = 0; r < kRegisters; ++r) {
      const Vector v = read(value + r * kWidth, kWhole ? kAll : masks[r]);
      for (int g = 0; g < kQueries; ++g) {
        const float weight = weights[std::min<std::int64_t>(g, queries - 1) * h.count + j];
        sum[g][r] = fma(all(weight), v, sum[g][r]);
      }
    }
  }
  for (std::int64_t g = 0; g < queries; ++g) {
    for (int r = 0; r < kRegisters; ++r)
      write(sums + g * h.head_dim + place + r * kWidth, sum[g][r], kWhole ? kAll : masks[r]);
  }
}

void products_with_keys(const KeysOfHead& keys, const float* queries, std::int64_t group,
                        float* scores) {
  for (std::int64_t g = 0; g < group; g += kQueries) {
    const std::int64_t some = std::min<std::int64_t>(kQueries, group - g);
    for (std::int64_t key = 0; key < keys.count; key += kKeys) {
      score_block(keys, queries + g * keys.head_dim, some, key,
                  std::min<std::int64_t>(kKeys, keys.count - key), scores + g * keys.count);
    }
  }
}

void sums_of_values(const KeysOfHead& values, const float* weights, std::int64_t group,
                    float* sums) {
  for (std::int64_t g = 0; g < group; g += kQueries) {
    const std::int64_t some = std::min<std::int64_t>(kQueries, group - g);
    for (std::int64_t place = 0; place < values.head_dim; place += kRegisters * kWidth) {
      const bool whole = place + kRegisters * kWidth <= values.head_dim;
      (whole ? value_block<true> : value_block<false>)(values, weights + g * values.count, some,
                                                       place, sums + g * values.head_dim);
    }
  }
}

constexpr RowKernels kRows{silu_rows,
                           silu_backward_rows,
                           finish_rows,
                           interleave_pairs,
                           rms_row,
                           rms_backward_row,
                           scale_scores,
                           exponentials,
                           weights_row,
                           score_gradients,
                           score_gradients_across,
                           products_with_keys,
                           sums_of_values};

}  // namespace
}  // namespace weft::model::kernel
