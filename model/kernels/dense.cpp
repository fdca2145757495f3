#include "model/kernels/dense.h"

#include <vector>

#include "core/clones.h"
#include "model/kernels/kernel_math.h"

namespace weft::model::kernel {
namespace {

// Blocks of kRows rows times kColumns registers of kBytes: as many sums as there are registers for.
// They are plain arrays in one function each, of the processor's own width: of structs and of wider
// vectors the compiler makes memory. A block's sums begin at zero and are added as a whole: a sum
// of many parts keeps more digits than one long chain.

template <typename W, int kBytes>
struct Register {
  typedef W Type __attribute__((vector_size(kBytes), aligned(sizeof(W)), may_alias));
  static constexpr std::int64_t kLength = kBytes / static_cast<std::int64_t>(sizeof(W));
};

// Types of registers are never deduced: a deduced one has lost its attributes.

template <int kBytes, int kRows, int kColumns, typename W>
WEFT_INLINE void put(W* c, std::int64_t c_stride,
                     const typename Register<W, kBytes>::Type (&sums)[kRows][kColumns], bool add) {
  using V = typename Register<W, kBytes>::Type;
  constexpr std::int64_t kLength = Register<W, kBytes>::kLength;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      V& place = *reinterpret_cast<V*>(c + i * c_stride + j * kLength);
      place = add ? place + sums[i][j] : sums[i][j];
    }
  }
}

/// Operands and sums of one type.
struct Same {
  template <int kBytes, int kRows, int kColumns, typename W>
  WEFT_INLINE static void block(W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride,
                                const W* b, std::int64_t b_columns, std::int64_t k, bool add) {
    using R = Register<W, kBytes>;
    using V = typename R::Type;
    V sums[kRows][kColumns];
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kColumns; ++j) sums[i][j] = V{};
    }
    for (std::int64_t step = 0; step < k; ++step) {
      V right[kColumns];
      for (int j = 0; j < kColumns; ++j)
        right[j] = *reinterpret_cast<const V*>(b + step * b_columns + j * R::kLength);
      for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kColumns; ++j) sums[i][j] += a[i * a_stride + step] * right[j];
      }
    }
    put<kBytes, kRows, kColumns>(c, c_stride, sums, add);
  }
};

/// The right operand in pairs of BFloat16 along k, made floats in registers: the first of a pair is
/// the lower half of its word. The left one was widened before.
struct Widened {
  template <int kBytes>
  struct Pairs {
    typedef std::uint32_t Type __attribute__((vector_size(kBytes), aligned(2), may_alias));
  };

  template <bool kSecond, int kBytes, int kRows, int kColumns>
  WEFT_INLINE static void half_step(typename Register<float, kBytes>::Type (&sums)[kRows][kColumns],
                                    const float* a, std::int64_t a_stride, const c10::BFloat16* b) {
    using V = typename Register<float, kBytes>::Type;
    using Words = typename Pairs<kBytes>::Type;
    constexpr std::int64_t kLength = Register<float, kBytes>::kLength;
    V right[kColumns];
    for (int j = 0; j < kColumns; ++j) {
      const Words pairs = *reinterpret_cast<const Words*>(b + 2 * j * kLength);
      const Words bits = kSecond ? pairs & 0xffff0000U : pairs << 16;
      right[j] = __builtin_bit_cast(V, bits);
    }
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kColumns; ++j) sums[i][j] += a[i * a_stride] * right[j];
    }
  }

  template <int kBytes, int kRows, int kColumns>
  WEFT_INLINE static void block(float* c, std::int64_t c_stride, const float* a,
                                std::int64_t a_stride, const c10::BFloat16* b,
                                std::int64_t b_columns, std::int64_t k, bool add) {
    using V = typename Register<float, kBytes>::Type;
    V sums[kRows][kColumns];
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kColumns; ++j) sums[i][j] = V{};
    }
    for (std::int64_t step = 0; step < k; step += 2) {
      half_step<false, kBytes, kRows, kColumns>(sums, a + step, a_stride, b + step * b_columns);
      half_step<true, kBytes, kRows, kColumns>(sums, a + step + 1, a_stride, b + step * b_columns);
    }
    put<kBytes, kRows, kColumns>(c, c_stride, sums, add);
  }
};

template <typename Operands, int kBytes, int kRows, int kColumns, typename W, typename E>
WEFT_INLINE void rows_of(W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride, const E* b,
                         const Extent& e, bool add) {
  std::int64_t row = 0;
  for (; row + kRows <= e.m; row += kRows) {
    Operands::template block<kBytes, kRows, kColumns>(
        c + row * c_stride, c_stride, a + row * a_stride, a_stride, b, e.n, e.k, add);
  }
  for (; row < e.m; ++row) {
    Operands::template block<kBytes, 1, kColumns>(c + row * c_stride, c_stride, a + row * a_stride,
                                                  a_stride, b, e.n, e.k, add);
  }
}

/// In blocks of kRows rows and kColumns registers, then of kLanes columns.
template <typename Operands, int kBytes, int kRows, int kColumns, typename W, typename E>
WEFT_INLINE void multiply_of(W* c, std::int64_t c_stride, const W* a, std::int64_t a_stride,
                             const E* b, const Extent& e, bool add) {
  constexpr std::int64_t kPair = Operand<E>::kPair;
  constexpr std::int64_t kLength = Register<W, kBytes>::kLength;
  constexpr int kFew = static_cast<int>(kLanes / kLength);
  std::int64_t column = 0;
  for (; column + kColumns * kLength <= e.n; column += kColumns * kLength) {
    rows_of<Operands, kBytes, kRows, kColumns>(c + column, c_stride, a, a_stride,
                                               b + kPair * column, e, add);
  }
  if constexpr (kColumns > kFew) {
    for (; column < e.n; column += kLanes) {
      rows_of<Operands, kBytes, kRows, kFew>(c + column, c_stride, a, a_stride, b + kPair * column,
                                             e, add);
    }
  }
}

/// Rows of a in floats, one after the other. A panel of b meets each of them many times.
WEFT_INLINE const float* widened_rows(const c10::BFloat16* a, std::int64_t a_stride,
                                      const Extent& e) {
  thread_local std::vector<float> rows;
  if (std::ssize(rows) < e.m * e.k) rows.resize(static_cast<std::size_t>(e.m * e.k));
  for (std::int64_t i = 0; i < e.m; ++i) {
    const c10::BFloat16* const from = a + i * a_stride;
    float* const to = rows.data() + i * e.k;
#pragma omp simd
    for (std::int64_t p = 0; p < e.k; ++p) to[p] = widen(from[p]);
  }
  return rows.data();
}

}  // namespace

#define WEFT_SAME(NAME, W, BYTES, ROWS, COLUMNS)                                       \
  WEFT_MULTIPLY(NAME, W, W) {                                                          \
    multiply_of<Same, BYTES, ROWS, COLUMNS>(c, c_stride, a, a_stride, b, extent, add); \
  }
#define WEFT_WIDENED(NAME, BYTES, ROWS, COLUMNS)                                               \
  WEFT_MULTIPLY(NAME, float, c10::BFloat16) {                                                  \
    multiply_of<Widened, BYTES, ROWS, COLUMNS>(c, c_stride, widened_rows(a, a_stride, extent), \
                                               extent.k, b, extent, add);                      \
  }

// Sixteen registers of 16 bytes.
WEFT_SAME(floats_portable, float, 16, 2, 4)
WEFT_SAME(doubles_portable, double, 16, 1, 8)
WEFT_WIDENED(widened_portable, 16, 2, 4)

#if defined(__x86_64__) && defined(__GNUC__)
// Sixteen of 32 bytes.
#define WEFT_AVX2 [[gnu::target("avx2,fma")]]
WEFT_AVX2 WEFT_SAME(floats_avx2, float, 32, 6, 2) WEFT_AVX2
    WEFT_SAME(doubles_avx2, double, 32, 3, 4) WEFT_AVX2 WEFT_WIDENED(widened_avx2, 32, 5, 2)

// Thirty-two of 64 bytes.
#define WEFT_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,fma")]]
        WEFT_AVX512 WEFT_SAME(floats_avx512, float, 64, 6, 4) WEFT_AVX512
    WEFT_SAME(doubles_avx512, double, 64, 6, 4) WEFT_AVX512 WEFT_WIDENED(widened_avx512, 64, 6, 4)
#endif

}  // namespace weft::model::kernel
