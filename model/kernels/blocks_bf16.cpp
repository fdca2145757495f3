#include <c10/util/Exception.h>

#include <algorithm>
#include <type_traits>

#include "model/kernels/blocks.h"
#include "model/kernels/sets.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "model/kernels/bf16_lanes.h"

#define WEFT_LANES_INTRINSICS
#define WEFT_LANES_TARGET [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c")]]
#define WEFT_LANES_INLINE                                                  \
  [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c"), \
    gnu::always_inline]] inline
#include "model/kernels/blocks_lanes.h"
// GCC 12 takes some of these functions for ones that write nothing, and leaves their calls out.
#ifdef __clang__
#define WEFT_LANES_APART
#else
#define WEFT_LANES_APART [[gnu::noipa]]
#endif

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

struct PutPairsFast {
  typedef c10::BFloat16 Element;
  template <typename F>
  WEFT_LANES_INLINE static void pair(const std::uint8_t* b, const typename F::Scales& scales,
                                     int unit, int pair, c10::BFloat16* to, std::int64_t) {
    _mm512_storeu_si512(to, reinterpret_cast<__m512i>(pair_at<F>(b, scales, unit, pair)));
  }
};

/// A product of few rows.
struct Few {
  float* c;
  std::int64_t c_stride;
  const c10::BFloat16* a;
  std::int64_t a_stride, m, k;
};

/// Sums of kRows rows with kStrips strips; the products of one wait for each other, those of two do
/// not.
template <typename F, int kRows, int kStrips>
WEFT_LANES_INLINE void multiply_strips(const Few& few, const std::uint8_t* strip,
                                       std::int64_t strip_bytes) {
  constexpr std::int64_t kBlocks = F::kBytes * kLanes;
  __m512 sums[kStrips][kRows];
  const c10::BFloat16* rows[kRows];
  for (int r = 0; r < kRows; ++r) {
    // Rows that there are not are the last one once more.
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

template <typename F>
WEFT_LANES_TARGET WEFT_LANES_APART void multiply_few(const Few& few, const std::uint8_t* strip,
                                                     std::int64_t strip_bytes, bool two) {
  if (few.m == 1) {
    two ? multiply_strips<F, 1, 2>(few, strip, strip_bytes)
        : multiply_strips<F, 1, 1>(few, strip, strip_bytes);
  } else {
    two ? multiply_strips<F, 4, 2>(few, strip, strip_bytes)
        : multiply_strips<F, 4, 1>(few, strip, strip_bytes);
  }
}

template <typename F>
WEFT_LANES_TARGET WEFT_LANES_APART void pack_few(c10::BFloat16* to, std::int64_t lanes,
                                                 const std::uint8_t* strip, std::int64_t begin,
                                                 std::int64_t k) {
  put_strip<PutPairsFast, F>(to, lanes, strip, begin, k);
}

/// Calls body(F{}) for the format of a storage.
template <typename Body>
void of_format(checkpoint::Storage storage, const Body& body) {
  using checkpoint::Storage;
  switch (storage) {
    case Storage::kQ8_0: return body(Q8_0{});
    case Storage::kQ4_0: return body(Q4_0{});
    case Storage::kQ4_1: return body(Q4_1{});
    case Storage::kQ5_0: return body(Q5_0{});
    case Storage::kQ5_1: return body(Q5_1{});
    case Storage::kQ4_K: return body(Q4_K{});
    case Storage::kQ5_K: return body(Q5_K{});
    case Storage::kQ6_K: return body(Q6_K{});
    default: return body(PlainPairs{});
  }
}

}  // namespace

void pack_strip_fast(checkpoint::Storage storage, c10::BFloat16* to, std::int64_t lanes,
                     const std::uint8_t* strip, std::int64_t begin, std::int64_t k) {
  of_format(storage, [&]<typename F>(F) { pack_few<F>(to, lanes, strip, begin, k); });
}

bool multiplies_woven() {
  static const bool kThere = chosen_set() == Set::kAvx512Bf16;
  return kThere;
}

void multiply_woven(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
                    const WovenRows& b, std::int64_t first, const Extent& extent) {
  const Few few{c, c_stride, a, a_stride, extent.m, extent.k};
  of_format(b.storage, [&]<typename F>(F) {
    multiply_few<F>(few, b.data + first * b.row_bytes, kLanes * b.row_bytes, extent.n > kLanes);
  });
}

}  // namespace weft::model::kernel
#else
namespace weft::model::kernel {

void pack_strip_fast(checkpoint::Storage, c10::BFloat16*, std::int64_t, const std::uint8_t*,
                     std::int64_t, std::int64_t) {
  TORCH_INTERNAL_ASSERT(false, "this processor has no rows of BFloat16");
}
bool multiplies_woven() { return false; }
void multiply_woven(float*, std::int64_t, const c10::BFloat16*, std::int64_t, const WovenRows&,
                    std::int64_t, const Extent&) {
  TORCH_INTERNAL_ASSERT(false, "this processor multiplies no pairs of BFloat16");
}

}  // namespace weft::model::kernel
#endif
