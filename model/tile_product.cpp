#include "model/tile_product.h"

#include <algorithm>
#include <cstring>

#include "model/kernel_math.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define WEFT_HAS_BF16_PAIRS
#endif

namespace weft::model::kernel {
namespace {

/// kLanes sums; the compiler makes registers of the processor's width of them.
template <typename W>
struct Vector {
  typedef W Type __attribute__((vector_size(kLanes * sizeof(W)), aligned(sizeof(W)), may_alias));
};

/// kRows rows times kColumns vectors of columns: as many sums as registers hold.
template <int kRows, int kColumns, typename W>
WEFT_INLINE void block_of(W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride,
                          const W* b, std::int64_t b_columns, std::int64_t k, bool add) {
  using V = typename Vector<W>::Type;
  V sums[kRows][kColumns];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      sums[i][j] = V{};
    }
  }
  for (std::int64_t step = 0; step < k; ++step) {
    for (int j = 0; j < kColumns; ++j) {
      const V right = *reinterpret_cast<const V*>(b + step * b_columns + j * kLanes);
      for (int i = 0; i < kRows; ++i) sums[i][j] += a[i * a_stride + step] * right;
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      // Added as a whole: a sum of many parts keeps more digits than one long chain.
      V& place = *reinterpret_cast<V*>(c + i * c_stride + j * kLanes);
      place = add ? place + sums[i][j] : sums[i][j];
    }
  }
}

template <int kRows, int kColumns, typename W>
WEFT_INLINE void rows_of(W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride, const W* b,
                         const Extent& e, bool add) {
  std::int64_t row = 0;
  for (; row + kRows <= e.m; row += kRows) {
    block_of<kRows, kColumns>(c + row * c_stride, c_stride, a + row * a_stride, a_stride, b, e.n,
                              e.k, add);
  }
  for (; row < e.m; ++row) {
    block_of<1, kColumns>(c + row * c_stride, c_stride, a + row * a_stride, a_stride, b, e.n, e.k,
                          add);
  }
}

/// In blocks of kRows rows and kColumns vectors, then of fewer columns.
template <int kRows, int kColumns, typename W>
WEFT_INLINE void multiply_of(W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride,
                             const W* b, const Extent& e, bool add) {
  std::int64_t column = 0;
  for (; column + kColumns * kLanes <= e.n; column += kColumns * kLanes) {
    rows_of<kRows, kColumns>(c + column, c_stride, a, a_stride, b + column, e, add);
  }
  if constexpr (kColumns > 1) {
    for (; column + 2 * kLanes <= e.n; column += 2 * kLanes) {
      rows_of<kRows, 2>(c + column, c_stride, a, a_stride, b + column, e, add);
    }
  }
  if (column < e.n) rows_of<kRows, 1>(c + column, c_stride, a, a_stride, b + column, e, add);
}

// The block is what the registers hold: 32 of 16 floats, 16 of 8, 16 of 4.
#if defined(__x86_64__) && defined(__GNUC__)
template <typename W>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,fma")]] void multiply_v4(
    W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride, const W* b, const Extent& e,
    bool add) {
  multiply_of<6, sizeof(W) == 4 ? 4 : 2>(c, c_stride, a, a_stride, b, e, add);
}
template <typename W>
[[gnu::target("avx2,fma")]] void multiply_v3(W* c, std::int64_t c_stride, const W* a,
                                             std::int64_t a_stride, const W* b, const Extent& e,
                                             bool add) {
  multiply_of<sizeof(W) == 4 ? 6 : 3, 1>(c, c_stride, a, a_stride, b, e, add);
}
#endif

template <typename W>
void multiply_portable(W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride, const W* b,
                       const Extent& e, bool add) {
  multiply_of<2, 1>(c, c_stride, a, a_stride, b, e, add);
}

template <typename W>
using Kernel = void (*)(W*, std::int64_t, const W*, std::int64_t, const W*, const Extent&, bool);

enum class Dense { kPortable, kAvx2, kAvx512 };

Dense best_dense() noexcept {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Dense::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Dense::kAvx2;
#endif
  return Dense::kPortable;
}

template <typename W>
Kernel<W> best_kernel() {
  switch (best_dense()) {
#if defined(__x86_64__) && defined(__GNUC__)
    case Dense::kAvx512: return multiply_v4<W>;
    case Dense::kAvx2: return multiply_v3<W>;
#endif
    default: return multiply_portable<W>;
  }
}

#ifdef WEFT_HAS_BF16_PAIRS
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

WEFT_PAIRS void multiply_pairs(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                               std::int64_t a_stride, const c10::BFloat16* b, const Extent& e,
                               bool add) {
  std::int64_t column = 0;
  for (; column + 4 * kLanes <= e.n; column += 4 * kLanes) {
    pairs_rows<4>(c + column, c_stride, a, a_stride, b + 2 * column, e, add);
  }
  for (; column + 2 * kLanes <= e.n; column += 2 * kLanes) {
    pairs_rows<2>(c + column, c_stride, a, a_stride, b + 2 * column, e, add);
  }
  if (column < e.n) pairs_rows<1>(c + column, c_stride, a, a_stride, b + 2 * column, e, add);
}
#endif

}  // namespace

bool has_bf16_pairs() noexcept {
#ifdef WEFT_HAS_BF16_PAIRS
  static const bool kHas = __builtin_cpu_supports("avx512bf16") &&
                           __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return kHas;
#else
  return false;
#endif
}

const char* dense_instructions() noexcept {
  switch (best_dense()) {
    case Dense::kAvx512: return "avx512";
    case Dense::kAvx2: return "avx2";
    case Dense::kPortable: break;
  }
  return "portable";
}

void multiply(float* c, std::int64_t c_stride, const float* a, std::int64_t a_stride,
              const float* b, Extent extent, bool add) {
  static const Kernel<float> kKernel = best_kernel<float>();
  kKernel(c, c_stride, a, a_stride, b, extent, add);
}

void multiply(double* c, std::int64_t c_stride, const double* a, std::int64_t a_stride,
              const double* b, Extent extent, bool add) {
  static const Kernel<double> kKernel = best_kernel<double>();
  kKernel(c, c_stride, a, a_stride, b, extent, add);
}

void multiply(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
              const c10::BFloat16* b, Extent extent, bool add) {
#ifdef WEFT_HAS_BF16_PAIRS
  multiply_pairs(c, c_stride, a, a_stride, b, extent, add);
#else
  TORCH_INTERNAL_ASSERT(false, "products of bf16 pairs on a processor without them");
#endif
}

}  // namespace weft::model::kernel
