#include "model/kernels/dense.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <cstring>

namespace weft::model::kernel {
namespace {

#define WEFT_PAIRS [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]]

/// Rows of a, kRows at a time, times kColumns registers of 16 columns. A pair of a is broadcast,
/// and each of 16 sums takes the products of a pair at once.
template <int kRows, int kColumns>
WEFT_PAIRS inline void pairs_block(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                                   std::int64_t a_stride, const c10::BFloat16* b,
                                   std::int64_t b_columns, std::int64_t k, bool add) {
  __m512 sums[kRows][kColumns];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      sums[i][j] = add ? _mm512_loadu_ps(c + i * c_stride + j * kLanes) : _mm512_setzero_ps();
    }
  }
  for (std::int64_t step = 0; step < k; step += 2) {
    __m512bh right[kColumns];
    for (int j = 0; j < kColumns; ++j) {
      right[j] =
          reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + step * b_columns + j * 2 * kLanes));
    }
    for (int i = 0; i < kRows; ++i) {
      std::int32_t pair;
      std::memcpy(&pair, a + i * a_stride + step, sizeof pair);
      const auto left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int j = 0; j < kColumns; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) _mm512_storeu_ps(c + i * c_stride + j * kLanes, sums[i][j]);
  }
}

template <int kColumns>
WEFT_PAIRS inline void pairs_rows(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                                  std::int64_t a_stride, const c10::BFloat16* b, const Extent& e,
                                  bool add) {
  std::int64_t row = 0;
  for (; row + 6 <= e.m; row += 6) {
    pairs_block<6, kColumns>(c + row * c_stride, c_stride, a + row * a_stride, a_stride, b, e.n,
                             e.k, add);
  }
  for (; row + 2 <= e.m; row += 2) {
    pairs_block<2, kColumns>(c + row * c_stride, c_stride, a + row * a_stride, a_stride, b, e.n,
                             e.k, add);
  }
  if (row < e.m) {
    pairs_block<1, kColumns>(c + row * c_stride, c_stride, a + row * a_stride, a_stride, b, e.n,
                             e.k, add);
  }
}

}  // namespace

WEFT_PAIRS WEFT_MULTIPLY(pairs_avx512, float, c10::BFloat16) {
  std::int64_t column = 0;
  for (; column + 4 * kLanes <= extent.n; column += 4 * kLanes) {
    pairs_rows<4>(c + column, c_stride, a, a_stride, b + 2 * column, extent, add);
  }
  for (; column + 2 * kLanes <= extent.n; column += 2 * kLanes) {
    pairs_rows<2>(c + column, c_stride, a, a_stride, b + 2 * column, extent, add);
  }
  if (column < extent.n)
    pairs_rows<1>(c + column, c_stride, a, a_stride, b + 2 * column, extent, add);
}

}  // namespace weft::model::kernel
#endif
