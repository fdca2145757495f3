#include "model/kernels/bf16_rows.h"

#include <limits>

#include "model/kernels/bf16_lanes.h"
#include "model/kernels/sets.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cmath>

namespace weft::model::kernel {
namespace {

using namespace lanes_of_16;

/// e^x; 0 far below float's range, infinity above it; NaN stays NaN.
WEFT_ROWS_INLINE __m512 exponential(__m512 x) {
  // Of two operands of which one is NaN, the second is taken.
  x = _mm512_min_ps(_mm512_set1_ps(150.0F), _mm512_max_ps(_mm512_set1_ps(-150.0F), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341F)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4F), r);
  __m512 p = _mm512_set1_ps(1.38888889e-3F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.33333333e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16666667e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66666667e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(p, n);
}

/// 1 / (1 + e^-x); 0 below -87, where it leaves float's normal range.
WEFT_ROWS_INLINE __m512 sigmoid(__m512 x) {
  // Beyond 87 the denominator would leave the range in which its reciprocal is a number.
  const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(-87.0F), x);
  const __m512 one = _mm512_set1_ps(1.0F);
  const __m512 d = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), bounded)));
  const __m512 y = _mm512_rcp14_ps(d);
  const __mmask16 zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0F), _CMP_LT_OQ);
  return _mm512_mask_mov_ps(_mm512_mul_ps(y, _mm512_fnmadd_ps(d, y, _mm512_set1_ps(2.0F))), zero,
                            _mm512_setzero_ps());
}

}  // namespace

bool has_bf16_rows() {
  static const bool kHas = chosen_set() == Set::kAmx || chosen_set() == Set::kAvx512Bf16;
  return kHas;
}

WEFT_ROWS void silu_rows(const BFloat16* in, BFloat16* y, std::int64_t width, std::int64_t begin,
                         std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const BFloat16* const gate = in + row * 2 * width;
    const BFloat16* const up = gate + width;
    BFloat16* const out = y + row * width;
    for_lanes(
        width, WEFT_LANES {
          const __m512 g = read(gate + i, m);
          const __m512 activated = rounded(_mm512_mul_ps(g, sigmoid(g)));
          write(out + i, _mm512_mul_ps(activated, read(up + i, m)), m);
        });
  }
}

WEFT_ROWS void silu_backward_rows(BFloat16* in_out, const BFloat16* dy, std::int64_t width,
                                  std::int64_t begin, std::int64_t end) {
  const __m512 one = _mm512_set1_ps(1.0F);
  for (std::int64_t row = begin; row < end; ++row) {
    BFloat16* const gate = in_out + row * 2 * width;
    BFloat16* const up = gate + width;
    const BFloat16* const gradient = dy + row * width;
    for_lanes(
        width, WEFT_LANES {
          const __m512 g = read(gate + i, m);
          const __m512 d = read(gradient + i, m);
          const __m512 s = sigmoid(g);
          const __m512 slope = _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one);
          const __m512 through = _mm512_mul_ps(d, read(up + i, m));
          write(gate + i, _mm512_mul_ps(_mm512_mul_ps(through, s), slope), m);
          write(up + i, _mm512_mul_ps(_mm512_mul_ps(d, g), s), m);
        });
  }
}

WEFT_ROWS void finish_rows(const Finish& f) {
  const __m512 factor = _mm512_set1_ps(f.scale);
  for (std::int64_t row = 0; row < f.rows; ++row) {
    BFloat16* const to = f.to + row * f.to_stride;
    const float* const sums = f.sums + row * f.sums_stride;
    const BFloat16* const residual = f.residual + row * f.residual_stride;
    for_lanes(
        f.columns, WEFT_LANES {
          __m512 value = _mm512_mul_ps(read(sums + i, m), factor);
          if (f.bias != nullptr) value = _mm512_add_ps(value, read(f.bias + i, m));
          if (f.residual != nullptr) value = _mm512_add_ps(rounded(value), read(residual + i, m));
          write(to + i, value, m);
        });
  }
}

WEFT_ROWS void interleave_pairs(const Interleave& p) {
  alignas(64) static constexpr std::uint16_t kLower[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  constexpr std::int64_t kAhead =
      16;  // rows: a panel of a wide matrix is no stream to the processor
  const __m512i lower = _mm512_load_si512(kLower);
  const __m512i upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
  BFloat16* row_of_pairs = p.to;
  for (std::int64_t row = 0; row < p.rows; row += 2, row_of_pairs += p.to_stride) {
    const BFloat16* const even = p.from + row * p.from_stride;
    const BFloat16* const odd = even + p.from_stride;
    BFloat16* to = row_of_pairs;
    std::int64_t i = 0;
    for (; i + 2 * kWidth <= p.columns; i += 2 * kWidth, to += 2 * p.strip_stride) {
      __builtin_prefetch(even + kAhead * p.from_stride + i);
      __builtin_prefetch(odd + kAhead * p.from_stride + i);
      const __m512i a = _mm512_loadu_si512(even + i);
      const __m512i b = _mm512_loadu_si512(odd + i);
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, lower, b));
      _mm512_storeu_si512(to + p.strip_stride, _mm512_permutex2var_epi16(a, upper, b));
    }
    for (std::int64_t j = 0; i + j < p.columns; ++j) {
      BFloat16* const pair = to + j / kWidth * p.strip_stride + 2 * (j % kWidth);
      pair[0] = even[i + j];
      pair[1] = odd[i + j];
    }
  }
}

WEFT_ROWS float rms_row(const BFloat16* x, const BFloat16* weight, float plus, float eps,
                        BFloat16* y, std::int64_t width) {
  __m512 squares = _mm512_setzero_ps();
  for_lanes(
      width, WEFT_LANES {
        const __m512 value = read(x + i, m);
        squares = _mm512_fmadd_ps(value, value, squares);
      });
  const float s = 1 / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(width) + eps);
  const __m512 factor = _mm512_set1_ps(s);
  const __m512 shift = _mm512_set1_ps(plus);
  for_lanes(
      width, WEFT_LANES {
        const __m512 normal = rounded(_mm512_mul_ps(read(x + i, m), factor));
        write(y + i, _mm512_mul_ps(_mm512_add_ps(read(weight + i, m), shift), normal), m);
      });
  return s;
}

WEFT_ROWS void rms_backward_row(const BFloat16* x, const BFloat16* weight, float plus, float s,
                                const BFloat16* dy, BFloat16* dx, bool adds, std::int64_t width) {
  const __m512 shift = _mm512_set1_ps(plus);
  __m512 dots = _mm512_setzero_ps();
  for_lanes(
      width, WEFT_LANES {
        const __m512 through =
            _mm512_mul_ps(read(dy + i, m), _mm512_add_ps(read(weight + i, m), shift));
        dots = _mm512_fmadd_ps(through, read(x + i, m), dots);
      });
  const __m512 back =
      _mm512_set1_ps(_mm512_reduce_add_ps(dots) * s * s * s / static_cast<float>(width));
  const __m512 factor = _mm512_set1_ps(s);
  for_lanes(
      width, WEFT_LANES {
        const __m512 around = adds ? read(dx + i, m) : _mm512_setzero_ps();
        const __m512 through = _mm512_mul_ps(
            _mm512_mul_ps(factor, _mm512_add_ps(read(weight + i, m), shift)), read(dy + i, m));
        write(dx + i, _mm512_fnmadd_ps(back, read(x + i, m), _mm512_add_ps(around, through)), m);
      });
}

WEFT_ROWS float scale_scores(float* score, std::int64_t count, float scale, float most) {
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512 least = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest = _mm512_set1_ps(most);
  for_lanes(
      count, WEFT_LANES {
        const __m512 value = _mm512_mul_ps(rounded(read(score + i, m)), factor);
        largest = _mm512_max_ps(largest, _mm512_mask_blend_ps(m, least, value));
        write(score + i, value, m);
      });
  return _mm512_reduce_max_ps(largest);
}

WEFT_ROWS float exponentials(float* score, std::int64_t count, float most) {
  const __m512 top = _mm512_set1_ps(most);
  __m512 sum = _mm512_setzero_ps();
  for_lanes(
      count, WEFT_LANES {
        const __m512 value = exponential(_mm512_sub_ps(read(score + i, m), top));
        sum = _mm512_add_ps(sum, _mm512_maskz_mov_ps(m, value));
        write(score + i, value, m);
      });
  return _mm512_reduce_add_ps(sum);
}

WEFT_ROWS void weights_row(BFloat16* to, const float* score, std::int64_t count, float share) {
  const __m512 factor = _mm512_set1_ps(share);
  for_lanes(
      count, WEFT_LANES { write(to + i, _mm512_mul_ps(read(score + i, m), factor), m); });
}

WEFT_ROWS void score_gradients(BFloat16* to, const float* score, const float* gradient,
                               std::int64_t count, float scale, float log_sum, float delta) {
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512 top = _mm512_set1_ps(log_sum);
  const __m512 shift = _mm512_set1_ps(delta);
  for_lanes(
      count, WEFT_LANES {
        const __m512 p = exponential(_mm512_fmsub_ps(rounded(read(score + i, m)), factor, top));
        const __m512 d = _mm512_sub_ps(read(gradient + i, m), shift);
        write(to + i, _mm512_mul_ps(_mm512_mul_ps(p, d), factor), m);
      });
}

WEFT_ROWS void score_gradients_across(BFloat16* weight, BFloat16* to, const float* score,
                                      const float* gradient, const float* log_sum,
                                      const float* delta, std::int64_t count, float scale) {
  const __m512 factor = _mm512_set1_ps(scale);
  for_lanes(
      count, WEFT_LANES {
        const __m512 p =
            exponential(_mm512_fmsub_ps(rounded(read(score + i, m)), factor, read(log_sum + i, m)));
        const __m512 d = _mm512_sub_ps(read(gradient + i, m), read(delta + i, m));
        write(weight + i, p, m);
        write(to + i, _mm512_mul_ps(_mm512_mul_ps(p, d), factor), m);
      });
}

}  // namespace weft::model::kernel

#else

namespace weft::model::kernel {

// No set with such rows is available on other processors.
bool has_bf16_rows() { return false; }
void silu_rows(const c10::BFloat16*, c10::BFloat16*, std::int64_t, std::int64_t, std::int64_t) {}
void silu_backward_rows(c10::BFloat16*, const c10::BFloat16*, std::int64_t, std::int64_t,
                        std::int64_t) {}
void finish_rows(const Finish&) {}
void interleave_pairs(const Interleave&) {}
float rms_row(const c10::BFloat16*, const c10::BFloat16*, float, float, c10::BFloat16*,
              std::int64_t) {
  return 0;
}
void rms_backward_row(const c10::BFloat16*, const c10::BFloat16*, float, float,
                      const c10::BFloat16*, c10::BFloat16*, bool, std::int64_t) {}
float scale_scores(float*, std::int64_t, float, float) { return 0; }
float exponentials(float*, std::int64_t, float) { return 0; }
void weights_row(c10::BFloat16*, const float*, std::int64_t, float) {}
void score_gradients(c10::BFloat16*, const float*, const float*, std::int64_t, float, float,
                     float) {}
void score_gradients_across(c10::BFloat16*, c10::BFloat16*, const float*, const float*,
                            const float*, const float*, std::int64_t, float) {}

}  // namespace weft::model::kernel

#endif
