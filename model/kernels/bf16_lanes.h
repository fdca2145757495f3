#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

// What the kernels of BFloat16 in AVX-512 BF16 instructions are written with (bf16_rows.cpp,
// bf16_attend.cpp).
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

// GCC 12 warns of the registers that its own intrinsics leave undefined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#define WEFT_ROWS [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]]
#define WEFT_ROWS_INLINE \
  [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"), gnu::always_inline]] inline

namespace weft::model::kernel::lanes_of_16 {

using c10::BFloat16;
constexpr std::int64_t kWidth = 16;

/// Lanes that are left of `count`, all of them where there are so many.
WEFT_ROWS_INLINE __mmask16 lanes(std::int64_t count) {
  return count >= kWidth ? static_cast<__mmask16>(0xffff)
                         : static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1U);
}

WEFT_ROWS_INLINE __m512 read(const BFloat16* from, __mmask16 m) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, from)), 16));
}
WEFT_ROWS_INLINE __m512 read(const float* from, __mmask16 m) {
  return _mm512_maskz_loadu_ps(m, from);
}
WEFT_ROWS_INLINE void write(BFloat16* to, __m512 value, __mmask16 m) {
  _mm256_mask_storeu_epi16(to, m, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
}
WEFT_ROWS_INLINE void write(float* to, __m512 value, __mmask16 m) {
  _mm512_mask_storeu_ps(to, m, value);
}
WEFT_ROWS_INLINE __m512 rounded(__m512 value) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value))), 16));
}

/// Calls body(place, mask) for each 16 of `count`.
template <typename Body>
WEFT_ROWS_INLINE void for_lanes(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) body(i, static_cast<__mmask16>(0xffff));
  if (i < count) body(i, lanes(count - i));
}
#define WEFT_LANES                 \
  [&](std::int64_t i, __mmask16 m) \
      __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"), always_inline))

}  // namespace weft::model::kernel::lanes_of_16
#endif
