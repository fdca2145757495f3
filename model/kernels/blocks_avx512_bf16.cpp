#include "model/kernels/blocks.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

// GCC 12 warns of the registers that its own intrinsics leave undefined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#define WEFT_LANES_INTRINSICS
#define WEFT_LANES_TARGET [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c")]]
#define WEFT_LANES_INLINE                                                  \
  [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c"), \
    gnu::always_inline]] inline
#include "model/kernels/blocks_few.h"

namespace weft::model::kernel {
namespace {

/// A pair of 16 rows as vdpbf16ps multiplies it.
template <typename F>
WEFT_LANES_INLINE __m512bh pair_at(const std::uint8_t* b, const typename F::Scales& scales,
                                   int unit, int pair) {
  if constexpr (std::is_same_v<F, PlainPairs>) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + 64 * pair));
  } else {
    OfLanes x;
    F::numbers(b, scales, unit, pair, x);
    return _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(x.high), reinterpret_cast<__m512>(x.low));
  }
}

template <typename F>
WEFT_LANES_INLINE void put_pairs_of(const std::uint8_t* b, const typename F::Scales& scales,
                                    int unit, int pair, c10::BFloat16* to) {
  _mm512_storeu_si512(to, reinterpret_cast<__m512i>(pair_at<F>(b, scales, unit, pair)));
}

// The products of one strip wait for each other, those of two do not.
template <typename F, int kRows, int kStrips>
WEFT_LANES_INLINE void multiply_strips(const Few& few, const std::uint8_t* strip,
                                       std::int64_t strip_bytes) {
  constexpr std::int64_t kBlocks = F::kBytes * kLanes;
  __m512 sums[kStrips][kRows];
  const c10::BFloat16* rows[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = few.a + std::min<std::int64_t>(r, few.m - 1) * few.a_stride;
    for (int s = 0; s < kStrips; ++s) sums[s][r] = _mm512_setzero_ps();
  }
  typename F::Scales scales[kStrips];
  for (std::int64_t k = 0; k < few.k; strip += kBlocks) {
    for (int s = 0; s < kStrips; ++s) {
      const std::uint8_t* const b = strip + s * strip_bytes;
      for (std::int64_t line = 0; line < kBlocks; line += 64) __builtin_prefetch(b + kAhead + line);
    }
    for (int unit = 0; unit < F::kUnits; ++unit, k += kUnit) {
      for (int s = 0; s < kStrips; ++s) F::scales(strip + s * strip_bytes, unit, scales[s]);
#pragma GCC unroll 16
      for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) {
          const __m512bh right = pair_at<F>(strip + s * strip_bytes, scales[s], unit, p);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
            std::int32_t left;
            std::memcpy(&left, rows[r] + k + 2 * p, sizeof left);
            sums[s][r] = _mm512_dpbf16_ps(
                sums[s][r], reinterpret_cast<__m512bh>(_mm512_set1_epi32(left)), right);
          }
        }
      }
    }
  }
  for (int r = 0; r < kRows && r < few.m; ++r) {
    for (int s = 0; s < kStrips; ++s)
      _mm512_storeu_ps(few.c + r * few.c_stride + s * kLanes, sums[s][r]);
  }
}

}  // namespace

const WovenKernels kWovenOfAvx512Bf16{pack_strip, multiply_rows};

}  // namespace weft::model::kernel
#endif
