#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

// Eight floats in a register of AVX2, for the row kernels of BFloat16 (bf16_rows_of.h). The names
// are those of bf16_lanes_avx512.h.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define WEFT_ROWS_TARGET "avx2,fma"
#define WEFT_ROWS [[gnu::target(WEFT_ROWS_TARGET)]]
#define WEFT_ROWS_INLINE [[gnu::target(WEFT_ROWS_TARGET), gnu::always_inline]] inline
#define WEFT_LANES \
  [&](std::int64_t i, Mask m) __attribute__((target(WEFT_ROWS_TARGET), always_inline))

namespace weft::model::kernel {
namespace {

using c10::BFloat16;
typedef __m256 Vector;
typedef int Mask;  ///< The first so many lanes count
constexpr std::int64_t kWidth = 8;
constexpr Mask kAll = 8;

WEFT_ROWS_INLINE Mask lanes(std::int64_t count) {
  return count >= kWidth ? kAll : static_cast<Mask>(count);
}

WEFT_ROWS_INLINE Vector all(float value) { return _mm256_set1_ps(value); }
WEFT_ROWS_INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
WEFT_ROWS_INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
WEFT_ROWS_INLINE Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
WEFT_ROWS_INLINE Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
WEFT_ROWS_INLINE Vector fms(Vector a, Vector b, Vector c) { return _mm256_fmsub_ps(a, b, c); }
WEFT_ROWS_INLINE Vector fnma(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
WEFT_ROWS_INLINE Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
WEFT_ROWS_INLINE Vector smaller(Vector a, Vector b) { return _mm256_min_ps(a, b); }
WEFT_ROWS_INLINE Vector to_integer(Vector x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// n between -252 and 254, in two factors that are both normal numbers.
WEFT_ROWS_INLINE Vector times_power(Vector p, Vector n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return multiply(multiply(p, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
/// By division: the processors' approximations differ between makers.
WEFT_ROWS_INLINE Vector reciprocal(Vector d) { return _mm256_div_ps(all(1.0F), d); }
WEFT_ROWS_INLINE Vector zero_below(Vector value, Vector x, float limit) {
  return _mm256_andnot_ps(_mm256_cmp_ps(x, all(limit), _CMP_LT_OQ), value);
}
WEFT_ROWS_INLINE Vector only(Mask m, Vector value, Vector other) {
  if (m == kAll) return value;
  const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i counts = _mm256_cmpgt_epi32(_mm256_set1_epi32(m), place);
  return _mm256_blendv_ps(other, value, _mm256_castsi256_ps(counts));
}
WEFT_ROWS_INLINE float sum_of(Vector value) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
WEFT_ROWS_INLINE float largest_of(Vector value) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/// Eight words, the upper half of each the rounded number.
WEFT_ROWS_INLINE __m256i rounded_words(Vector value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const Vector nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
  return _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc00000), _mm256_castps_si256(nan));
}
WEFT_ROWS_INLINE Vector rounded(Vector value) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  return _mm256_castsi256_ps(_mm256_and_si256(rounded_words(value), upper));
}
WEFT_ROWS_INLINE Vector widen(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
WEFT_ROWS_INLINE Vector read(const BFloat16* from, Mask m) {
  if (m == kAll) return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  alignas(16) std::uint16_t some[kWidth] = {};
  std::memcpy(some, from, static_cast<std::size_t>(m) * sizeof(BFloat16));
  return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(some)));
}
WEFT_ROWS_INLINE Vector read(const float* from, Mask m) {
  if (m == kAll) return _mm256_loadu_ps(from);
  alignas(32) float some[kWidth] = {};
  std::memcpy(some, from, static_cast<std::size_t>(m) * sizeof(float));
  return _mm256_load_ps(some);
}
WEFT_ROWS_INLINE void write(BFloat16* to, Vector value, Mask m) {
  const __m256i words = _mm256_srli_epi32(rounded_words(value), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
  const __m128i halves = _mm256_castsi256_si128(packed);
  if (m == kAll) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
  alignas(16) std::uint16_t some[kWidth];
  _mm_store_si128(reinterpret_cast<__m128i*>(some), halves);
  std::memcpy(static_cast<void*>(to), some, static_cast<std::size_t>(m) * sizeof(BFloat16));
}
WEFT_ROWS_INLINE void write(float* to, Vector value, Mask m) {
  if (m == kAll) return _mm256_storeu_ps(to, value);
  alignas(32) float some[kWidth];
  _mm256_store_ps(some, value);
  std::memcpy(to, some, static_cast<std::size_t>(m) * sizeof(float));
}

constexpr std::int64_t kPaired = 16;

WEFT_ROWS_INLINE void put_pairs(const BFloat16* even, const BFloat16* odd, BFloat16* to,
                                std::int64_t) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(even));
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd));
  const __m256i low = _mm256_unpacklo_epi16(a, b);
  const __m256i high = _mm256_unpackhi_epi16(a, b);
  auto* const place = reinterpret_cast<__m256i*>(to);
  _mm256_storeu_si256(place, _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(place + 1, _mm256_permute2x128_si256(low, high, 0x31));
}

constexpr int kQueries = 2;
constexpr int kKeys = 4;

WEFT_ROWS_INLINE Vector sums_of(const Vector (&a)[kWidth]) {
  // In each half, the sums of the halves of four registers.
  const Vector low = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
  const Vector high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
  return add(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

}  // namespace
}  // namespace weft::model::kernel
#endif
