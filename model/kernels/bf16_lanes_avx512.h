#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

// Sixteen floats in a register of AVX-512, for the row kernels of BFloat16 (bf16_rows_of.h). With
// WEFT_LANES_CONVERT the processor rounds to BFloat16 itself (AVX-512 BF16); else integers do.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

// GCC 12 warns of the registers that its own intrinsics leave undefined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#ifdef WEFT_LANES_CONVERT
#define WEFT_ROWS_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#else
#define WEFT_ROWS_TARGET "avx512f,avx512bw,avx512dq,avx512vl,fma"
#endif
#define WEFT_ROWS [[gnu::target(WEFT_ROWS_TARGET)]]
#define WEFT_ROWS_INLINE [[gnu::target(WEFT_ROWS_TARGET), gnu::always_inline]] inline
#define WEFT_LANES \
  [&](std::int64_t i, Mask m) __attribute__((target(WEFT_ROWS_TARGET), always_inline))

namespace weft::model::kernel {
namespace {

using c10::BFloat16;
typedef __m512 Vector;
typedef __mmask16 Mask;  ///< Lanes that count
constexpr std::int64_t kWidth = 16;
constexpr Mask kAll = 0xffff;

/// Lanes that are left of `count`, all of them where there are so many.
WEFT_ROWS_INLINE Mask lanes(std::int64_t count) {
  return count >= kWidth ? kAll : static_cast<Mask>((1U << static_cast<unsigned>(count)) - 1U);
}

WEFT_ROWS_INLINE Vector all(float value) { return _mm512_set1_ps(value); }
WEFT_ROWS_INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
WEFT_ROWS_INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
WEFT_ROWS_INLINE Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
/// a b + c
WEFT_ROWS_INLINE Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
/// a b - c
WEFT_ROWS_INLINE Vector fms(Vector a, Vector b, Vector c) { return _mm512_fmsub_ps(a, b, c); }
/// c - a b
WEFT_ROWS_INLINE Vector fnma(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }
/// Of two operands of which one is NaN, the second is taken.
WEFT_ROWS_INLINE Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
WEFT_ROWS_INLINE Vector smaller(Vector a, Vector b) { return _mm512_min_ps(a, b); }
WEFT_ROWS_INLINE Vector to_integer(Vector x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// p 2^n for whole n.
WEFT_ROWS_INLINE Vector times_power(Vector p, Vector n) { return _mm512_scalef_ps(p, n); }
/// 1 / d for normal d whose reciprocal is normal.
WEFT_ROWS_INLINE Vector reciprocal(Vector d) {
  const Vector y = _mm512_rcp14_ps(d);
  return multiply(y, fnma(d, y, all(2.0F)));
}
/// value; 0 where x is below the limit.
WEFT_ROWS_INLINE Vector zero_below(Vector value, Vector x, float limit) {
  const Mask below = _mm512_cmp_ps_mask(x, all(limit), _CMP_LT_OQ);
  return _mm512_mask_mov_ps(value, below, _mm512_setzero_ps());
}
/// value in the lanes that count, `other` in the rest.
WEFT_ROWS_INLINE Vector only(Mask m, Vector value, Vector other) {
  return _mm512_mask_blend_ps(m, other, value);
}
WEFT_ROWS_INLINE float sum_of(Vector value) { return _mm512_reduce_add_ps(value); }
WEFT_ROWS_INLINE float largest_of(Vector value) { return _mm512_reduce_max_ps(value); }

WEFT_ROWS_INLINE __m256i narrow(Vector value) {
#ifdef WEFT_LANES_CONVERT
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
#else
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const Mask nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan, _mm512_set1_epi32(0x7fc0)));
#endif
}
WEFT_ROWS_INLINE Vector widen(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
WEFT_ROWS_INLINE Vector rounded(Vector value) { return widen(narrow(value)); }
WEFT_ROWS_INLINE Vector read(const BFloat16* from, Mask m) {
  return widen(_mm256_maskz_loadu_epi16(m, from));
}
WEFT_ROWS_INLINE Vector read(const float* from, Mask m) { return _mm512_maskz_loadu_ps(m, from); }
WEFT_ROWS_INLINE void write(BFloat16* to, Vector value, Mask m) {
  _mm256_mask_storeu_epi16(to, m, narrow(value));
}
WEFT_ROWS_INLINE void write(float* to, Vector value, Mask m) {
  _mm512_mask_storeu_ps(to, m, value);
}

/// Columns whose pairs put_pairs() makes.
constexpr std::int64_t kPaired = 2 * kWidth;

/// The elements of two rows by turns, the pairs of 16 columns together and the next 16 a strip on.
WEFT_ROWS_INLINE void put_pairs(const BFloat16* even, const BFloat16* odd, BFloat16* to,
                                std::int64_t strip_stride) {
  alignas(64) static constexpr std::uint16_t kLower[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i lower = _mm512_load_si512(kLower);
  const __m512i upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
  const __m512i a = _mm512_loadu_si512(even);
  const __m512i b = _mm512_loadu_si512(odd);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, lower, b));
  _mm512_storeu_si512(to + strip_stride, _mm512_permutex2var_epi16(a, upper, b));
}

/// Queries by keys whose sums are in registers, kWidth together.
constexpr int kQueries = 4;
constexpr int kKeys = 4;

/// The sums of kWidth registers, in their order.
WEFT_ROWS_INLINE Vector sums_of(const Vector (&a)[kWidth]) {
  Vector twos[8];
  for (int i = 0; i < 8; ++i) {
    twos[i] =
        add(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
  }
  Vector fours[4];  // in each quarter, four sums of quarters
  for (int i = 0; i < 4; ++i) {
    const __m512d low = _mm512_castps_pd(twos[2 * i]);
    const __m512d high = _mm512_castps_pd(twos[2 * i + 1]);
    fours[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                   _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  }
  Vector halves[2];
  for (int i = 0; i < 2; ++i) {
    halves[i] = add(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                    _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  }
  return add(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
             _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
}

}  // namespace
}  // namespace weft::model::kernel
#endif
