#include "model/kernels/blocks.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#define WEFT_LANES_AVX2
#define WEFT_LANES_TARGET [[gnu::target("avx2,fma,f16c")]]
#define WEFT_LANES_INLINE [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline
#define WEFT_LANES_LAMBDA __attribute__((target("avx2,fma,f16c"), always_inline))
#include "model/kernels/blocks_few.h"

namespace weft::model::kernel {
namespace {

/// Elements of k whose chain begins at zero, as in the widened kernel's products
/// (model/kernels/multiply.cpp).
constexpr std::int64_t kChain = 256;

/// The bits of eight floats rounded to BFloat16, in the upper halves; all are finite.
WEFT_LANES_INLINE __m256i rounded_bits(__m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}

WEFT_LANES_INLINE __m256 upper_halves(__m256i bits) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
}

/// Element 2 p and element 2 p + 1 of eight rows each, as floats.
struct Halves {
  __m256 even, odd;
};

/// Of rows 0 to 7, or 8 to 15. Rows of blocks come in the order 0, 1, 4, 5, 2, 3, 6, 7.
template <typename F>
WEFT_LANES_INLINE Halves halves_of(const std::uint8_t* b, const OfLanes& x, int pair, bool second) {
  if constexpr (std::is_same_v<F, PlainPairs>) {
    const __m256i pairs =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 64 * pair + (second ? 32 : 0)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), upper_halves(pairs)};
  } else {
    const Floats& of = second ? x.high : x.low;
    const __m256 first = upper_halves(rounded_bits(of.first));
    const __m256 last = upper_halves(rounded_bits(of.second));
    return {_mm256_shuffle_ps(first, last, 0x88), _mm256_shuffle_ps(first, last, 0xdd)};
  }
}

/// Sums in the order of the rows.
template <typename F>
WEFT_LANES_INLINE __m256 in_order(__m256 sums) {
  if constexpr (std::is_same_v<F, PlainPairs>) {
    return sums;
  } else {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(sums), 0xd8));
  }
}

template <typename F>
WEFT_LANES_INLINE void put_pairs_of(const std::uint8_t* b, const typename F::Scales& scales,
                                    int unit, int pair, c10::BFloat16* to) {
  auto* const place = reinterpret_cast<__m256i*>(to);
  if constexpr (std::is_same_v<F, PlainPairs>) {
    const auto* const from = reinterpret_cast<const __m256i*>(b + 64 * pair);
    _mm256_storeu_si256(place, _mm256_loadu_si256(from));
    _mm256_storeu_si256(place + 1, _mm256_loadu_si256(from + 1));
  } else {
    OfLanes x;
    F::numbers(b, scales, unit, pair, x);
    for (int half = 0; half < 2; ++half) {
      const Floats& of = half == 0 ? x.low : x.high;
      const __m256i first = _mm256_srli_epi32(rounded_bits(of.first), 16);
      const __m256i last = _mm256_srli_epi32(rounded_bits(of.second), 16);
      _mm256_storeu_si256(place + half,
                          _mm256_permute4x64_epi64(_mm256_packus_epi32(first, last), 0xd8));
    }
  }
}

template <typename F, int kRows, int kStrips>
WEFT_LANES_INLINE void multiply_strips(const Few& few, const std::uint8_t* strip,
                                       std::int64_t strip_bytes) {
  constexpr std::int64_t kBlocks = F::kBytes * kLanes;
  __m256 sums[kStrips][kRows][2];
  __m256 totals[kStrips][kRows][2];
  const c10::BFloat16* rows[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = few.a + std::min<std::int64_t>(r, few.m - 1) * few.a_stride;
    for (int s = 0; s < kStrips; ++s) {
      for (int half = 0; half < 2; ++half) {
        sums[s][r][half] = totals[s][r][half] = _mm256_setzero_ps();
      }
    }
  }
  typename F::Scales scales[kStrips];
  for (std::int64_t k = 0; k < few.k; strip += kBlocks) {
    for (int s = 0; s < kStrips; ++s) {
      const std::uint8_t* const b = strip + s * strip_bytes;
      for (std::int64_t line = 0; line < kBlocks; line += 64) __builtin_prefetch(b + kAhead + line);
    }
    for (int unit = 0; unit < F::kUnits; ++unit) {
      for (int s = 0; s < kStrips; ++s) F::scales(strip + s * strip_bytes, unit, scales[s]);
      for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) {
          const std::uint8_t* const b = strip + s * strip_bytes;
          OfLanes x;
          if constexpr (!std::is_same_v<F, PlainPairs>) F::numbers(b, scales[s], unit, p, x);
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            const Halves right = halves_of<F>(b, x, p, half == 1);
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
              std::uint32_t pair;
              std::memcpy(&pair, rows[r] + k + 2 * p, sizeof pair);
              const __m256i left = _mm256_set1_epi32(static_cast<int>(pair));
              __m256& sum = sums[s][r][half];
              sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(left, 16)), right.even,
                                    sum);
              sum = _mm256_fmadd_ps(upper_halves(left), right.odd, sum);
            }
          }
        }
      }
      k += kUnit;
      if (k % kChain != 0 && k != few.k) continue;
      for (int s = 0; s < kStrips; ++s) {
        for (int r = 0; r < kRows; ++r) {
          for (int half = 0; half < 2; ++half) {
            __m256& total = totals[s][r][half];
            total = k <= kChain ? sums[s][r][half] : _mm256_add_ps(total, sums[s][r][half]);
            sums[s][r][half] = _mm256_setzero_ps();
          }
        }
      }
    }
  }
  for (int r = 0; r < kRows && r < few.m; ++r) {
    for (int s = 0; s < kStrips; ++s) {
      for (int half = 0; half < 2; ++half) {
        _mm256_storeu_ps(few.c + r * few.c_stride + s * kLanes + 8 * half,
                         in_order<F>(totals[s][r][half]));
      }
    }
  }
}

}  // namespace

const WovenKernels kWovenOfAvx2{pack_strip, multiply_rows};

}  // namespace weft::model::kernel
#endif
