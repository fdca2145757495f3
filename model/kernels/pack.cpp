#include "model/kernels/pack.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "model/kernels/bf16_rows.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/multiply.h"

namespace weft::model::kernel {
namespace {

/// What is turned as a whole: a float, or a pair of BFloat16, whose alignment it has.
typedef std::uint32_t Word __attribute__((may_alias, aligned(2)));
typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4), may_alias, aligned(2)));

/// Exchanges the words that lie kStep apart between rows kStep apart: a quarter of a transposition.
template <int kStep, int... kLane>
WEFT_INLINE void exchange(Words (&rows)[kLanes], std::integer_sequence<int, kLane...>) {
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    const Words a = rows[i];
    const Words b = rows[i + kStep];
    rows[i] = __builtin_shufflevector(
        a, b, ((kLane & kStep) == 0 ? kLane : kLane - kStep + static_cast<int>(kLanes))...);
    rows[i + kStep] = __builtin_shufflevector(
        a, b, ((kLane & kStep) == 0 ? kLane + kStep : kLane + static_cast<int>(kLanes))...);
  }
}

WEFT_INLINE void transpose_block(Word* to, std::int64_t to_stride, const Word* from,
                                 std::int64_t from_stride) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
  Words rows[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    // Sixteen rows are no stream to the processor: the ones that come next are asked for.
    __builtin_prefetch(from + (i + kLanes) * from_stride);
    rows[i] = *reinterpret_cast<const Words*>(from + i * from_stride);
  }
  exchange<8>(rows, kAll);
  exchange<4>(rows, kAll);
  exchange<2>(rows, kAll);
  exchange<1>(rows, kAll);
  for (int i = 0; i < kLanes; ++i) *reinterpret_cast<Words*>(to + i * to_stride) = rows[i];
}

/// to[j][i] = from[i][j] for `rows` rows of `columns` words.
WEFT_CLONES void transpose(Word* to, std::int64_t to_stride, const Word* from,
                           std::int64_t from_stride, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t i = 0; i < rows; i += kLanes) {
    for (std::int64_t j = 0; j < columns; j += kLanes) {
      Word* target = to + j * to_stride + i;
      const Word* source = from + i * from_stride + j;
      const std::int64_t height = std::min(kLanes, rows - i);
      const std::int64_t width = std::min(kLanes, columns - j);
      if (height == kLanes && width == kLanes) {
        transpose_block(target, to_stride, source, from_stride);
        continue;
      }
      for (std::int64_t y = 0; y < height; ++y) {
        for (std::int64_t x = 0; x < width; ++x)
          target[x * to_stride + y] = source[y * from_stride + x];
      }
    }
  }
}

// --- rows of b lie in rows of the packed panel -------------------------------------------------

template <typename E>
WEFT_INLINE void copy_rows_of(E* to, std::int64_t lanes, const MatrixView<E>& b, std::int64_t first,
                              std::int64_t columns, std::int64_t k) {
  for (std::int64_t i = 0; i < k; ++i) {
    const E* from = b.data + i * b.row_stride + first;
    E* row = to + i * lanes;
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) row[j] = from[j];
    for (std::int64_t j = columns; j < lanes; ++j) row[j] = E{};
  }
}
#define WEFT_COPY_ROWS(E)                                                                \
  WEFT_CLONES void copy_rows(E* to, std::int64_t lanes, const MatrixView<E>& b,          \
                             std::int64_t first, std::int64_t columns, std::int64_t k) { \
    copy_rows_of(to, lanes, b, first, columns, k);                                       \
  }
WEFT_COPY_ROWS(float)
WEFT_COPY_ROWS(double)

/// Rows 2 i and 2 i + 1 of b become row i of pairs.
WEFT_CLONES void interleave_rows(c10::BFloat16* to, std::int64_t lanes,
                                 const MatrixView<c10::BFloat16>& b, std::int64_t first,
                                 std::int64_t columns, std::int64_t k) {
  for (std::int64_t i = 0; i < k; i += 2) {
    const c10::BFloat16* even = b.data + i * b.row_stride + first;
    const c10::BFloat16* odd = even + b.row_stride;
    auto* row = reinterpret_cast<std::uint32_t*>(to + i * lanes);
    if (i + 1 < k) {
#pragma omp simd
      for (std::int64_t j = 0; j < columns; ++j)
        row[j] = even[j].x | static_cast<std::uint32_t>(odd[j].x) << 16;
    } else {
      for (std::int64_t j = 0; j < columns; ++j) row[j] = even[j].x;
    }
    for (std::int64_t j = columns; j < lanes; ++j) row[j] = 0;
  }
}

// --- columns of b lie in rows of memory: turned on the way ---------------------------------------

void turn(float* to, std::int64_t lanes, const MatrixView<float>& b, std::int64_t first,
          std::int64_t columns, std::int64_t k) {
  if (columns < lanes) std::fill_n(to, k * lanes, 0.0F);
  transpose(reinterpret_cast<Word*>(to), lanes,
            reinterpret_cast<const Word*>(b.data + first * b.column_stride), b.column_stride,
            columns, k);
}

void turn(double* to, std::int64_t lanes, const MatrixView<double>& b, std::int64_t first,
          std::int64_t columns, std::int64_t k) {
  if (columns < lanes) std::fill_n(to, k * lanes, 0.0);
  for (std::int64_t j = 0; j < columns; ++j) {
    const double* from = b.data + (first + j) * b.column_stride;
    for (std::int64_t i = 0; i < k; ++i) to[i * lanes + j] = from[i];
  }
}

void turn_pairs(c10::BFloat16* to, std::int64_t lanes, const MatrixView<c10::BFloat16>& b,
                std::int64_t first, std::int64_t columns, std::int64_t k) {
  const std::int64_t pairs = k / 2;
  if (columns < lanes) std::fill_n(to, round_up(k, 2) * lanes, c10::BFloat16());
  auto* packed = reinterpret_cast<Word*>(to);
  const c10::BFloat16* from = b.data + first * b.column_stride;
  if (b.column_stride % 2 == 0) {
    transpose(packed, lanes, reinterpret_cast<const Word*>(from), b.column_stride / 2, columns,
              pairs);
  } else {
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t p = 0; p < pairs; ++p)
        packed[p * lanes + j] = *reinterpret_cast<const Word*>(from + j * b.column_stride + 2 * p);
    }
  }
  if (k % 2 == 0) return;
  for (std::int64_t j = 0; j < columns; ++j)
    packed[pairs * lanes + j] = from[j * b.column_stride + k - 1].x;
}

template <typename E>
void turn_left(E* to, const MatrixView<E>& a, std::int64_t first, std::int64_t height,
               std::int64_t k, std::int64_t depth) {
  for (std::int64_t j = 0; j < k; ++j) {
    const E* from = a.data + first + j * a.column_stride;
    for (std::int64_t r = 0; r < height; ++r) to[r * depth + j] = from[r];
  }
  for (std::int64_t r = 0; r < height; ++r)
    std::fill(to + r * depth + k, to + (r + 1) * depth, E{});
}

/// Pairs of k are made first, and then turned as words.
void turn_left(c10::BFloat16* to, const MatrixView<c10::BFloat16>& a, std::int64_t first,
               std::int64_t height, std::int64_t k, std::int64_t depth) {
  alignas(64) c10::BFloat16 pairs[2 * kLanes * kLanes];  // [pairs][lanes][2]
  for (std::int64_t j = 0; j < depth; j += 2 * kLanes) {
    const std::int64_t wanted = std::min(2 * kLanes, depth - j);
    const std::int64_t there = std::clamp<std::int64_t>(k - j, 0, wanted);
    const MatrixView<c10::BFloat16> rows{a.data + j * a.column_stride, a.column_stride, 1};
    interleave_rows(pairs, kLanes, rows, first, height, there);
    std::fill(pairs + round_up(there, 2) * kLanes, pairs + wanted * kLanes, c10::BFloat16());
    transpose(reinterpret_cast<Word*>(to + j), depth / 2, reinterpret_cast<const Word*>(pairs),
              kLanes, wanted / 2, height);
  }
}

template <typename E>
void pack_left_of(E* to, const MatrixView<E>& a, std::int64_t first, std::int64_t last,
                  std::int64_t k, const Layout& layout) {
  const std::int64_t depth = round_up(k, layout.depth);
  if (a.column_stride == 1) {
    for (std::int64_t i = first; i < last; ++i) {
      E* row = to + (i - first) * depth;
      std::copy_n(a.data + i * a.row_stride, k, row);
      std::fill(row + k, row + depth, E{});
    }
    return;
  }
  for (std::int64_t i = first; i < last; i += kLanes)
    turn_left(to + (i - first) * depth, a, i, std::min(kLanes, last - i), k, depth);
}

/// One strip of a panel: `lanes` columns, of which `columns` are b's, filled up to `depth`.
template <typename E>
void pack_strip(E* to, std::int64_t lanes, const MatrixView<E>& b, std::int64_t first,
                std::int64_t columns, std::int64_t k, std::int64_t depth) {
  if constexpr (Operand<E>::kPair == 2) {
    if (b.column_stride == 1) {
      interleave_rows(to, lanes, b, first, columns, k);
    } else {
      turn_pairs(to, lanes, b, first, columns, k);
    }
  } else {
    if (b.column_stride == 1) {
      copy_rows(to, lanes, b, first, columns, k);
    } else {
      turn(to, lanes, b, first, columns, k);
    }
  }
  std::fill(to + round_up(k, Operand<E>::kPair) * lanes, to + depth * lanes, E{});
}

/// Rows of b that are whole pairs, by permutations of whole registers; how many were packed.
std::int64_t interleave_whole_pairs(c10::BFloat16* to, const MatrixView<c10::BFloat16>& b,
                                    std::int64_t first, std::int64_t columns, std::int64_t k,
                                    std::int64_t strip, std::int64_t depth) {
  const RowKernels* const fast = bf16_rows();
  if (b.column_stride != 1 || columns % kLanes != 0 || fast == nullptr) return 0;
  const std::int64_t whole = k / 2 * 2;
  fast->interleave_pairs({.to = to,
                          .from = b.data + first,
                          .to_stride = 2 * strip,
                          .strip_stride = strip == kLanes ? depth * strip : 2 * kLanes,
                          .from_stride = b.row_stride,
                          .rows = whole,
                          .columns = columns});
  return whole;
}

template <typename E>
void pack_panel_of(E* to, MatrixView<E> b, std::int64_t first, std::int64_t columns, std::int64_t k,
                   const Layout& layout) {
  const std::int64_t lanes = round_up(columns, kLanes);
  const std::int64_t strip = layout.strip == 0 ? lanes : layout.strip;
  const std::int64_t depth = round_up(k, layout.depth);
  std::int64_t done = 0;
  if constexpr (Operand<E>::kPair == 2) {
    done = interleave_whole_pairs(to, b, first, columns, k, strip, depth);
    if (done == depth) return;
    b.data += done * b.row_stride;
  }
  for (std::int64_t column = 0; column < lanes; column += strip) {
    pack_strip(to + column * depth + done * strip, strip, b, first + column,
               std::min(strip, columns - column), k - done, depth - done);
  }
}

}  // namespace

#define WEFT_PACK(E)                                                                       \
  void pack_panel(E* to, const MatrixView<E>& b, std::int64_t first, std::int64_t columns, \
                  std::int64_t k, const Layout& layout) {                                  \
    pack_panel_of(to, b, first, columns, k, layout);                                       \
  }                                                                                        \
  void pack_left(E* to, const MatrixView<E>& a, std::int64_t first, std::int64_t last,     \
                 std::int64_t k, const Layout& layout) {                                   \
    pack_left_of(to, a, first, last, k, layout);                                           \
  }
WEFT_PACK(float)
WEFT_PACK(double)
WEFT_PACK(c10::BFloat16)
#undef WEFT_PACK

}  // namespace weft::model::kernel
