#pragma once

#include <cmath>
#include <cstdint>

#include "core/number.h"
#include "lora/fold_engine.h"
#include "model/cuda/block.h"

// Folding an adapter into a matrix: W + D rounded once, and the figures of each row, with the bits
// of the processor's merge (merge/update.h, merge/row_math.h). Nothing is fused, every sum has the
// order of the processor's, and each number is written by one thread.

namespace weft::cuda {

/// One operation in double, rounded for itself: the compilers may not make one of two.
WEFT_BODY double multiplied(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
WEFT_BODY double added(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}
WEFT_BODY double subtracted(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dsub_rn(a, b);
#else
  return a - b;
#endif
}

/// merge/rounding.h's: the float next to `value` on the side where the last bit is odd.
WEFT_BODY float rounded_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  const std::uint32_t bits = to_bits(nearest);
  const bool inexact = back < value || back > value;
  if (!inexact || (bits & 1U) != 0) return nearest;
  return from_bits(fabs(back) > fabs(value) ? bits - 1 : bits + 1);
}

/// The number of a type of 16 bits.
WEFT_BODY float of_half(core::DType type, std::uint16_t bits) {
  return type == core::DType::kF16 ? core::f16_to_float(bits) : core::bf16_to_float(bits);
}
/// Number i of those stored as `type`.
WEFT_BODY float stored_number(core::DType type, const void* numbers, std::int64_t i) {
  if (type == core::DType::kF32) return static_cast<const float*>(numbers)[i];
  return of_half(type, static_cast<const std::uint16_t*>(numbers)[i]);
}

/// A float as the bits of `type`.
WEFT_BODY std::uint32_t bits_as(core::DType type, float value) {
  if (type == core::DType::kF32) return to_bits(value);
  return type == core::DType::kF16 ? core::float_to_f16(value) : core::float_to_bf16(value);
}

/// A block of threads for kRows rows and kChunk columns of a tile, a thread for each column.
struct FoldTile {
  static constexpr int kRows = 4;
  static constexpr int kChunk = 256;  ///< row_math::kChunk: sums begin anew in each.
  static constexpr int kLanes = 8;    ///< row_math::kLanes
  static constexpr int kPanel = 8;    ///< Of lora::ScaledPairs::right
  static constexpr int kDepth = 32;   ///< Of the rank, at a time.
  static constexpr int kThreads = kChunk;
  static constexpr int kRowStride = kChunk + kLanes;  ///< In shared memory: rows in other banks.
  static constexpr int kFigures = 3;                  ///< base, update, kept
  static constexpr int kSharedDoubles =
      kDepth * kRows + kRows * kRowStride + (kFigures + 1) * kRows * kLanes;
  static constexpr int kSharedFloats =
      2 * kSharedDoubles + 2 * kRows * kRowStride + 2 * kRows * kLanes;

  const void* base;        ///< [rows, columns] of `from`
  const float* left;       ///< [rows, rank]
  const float* right;      ///< [ceil(columns / 8), rank, 8]
  const double* scales;    ///< [rank]
  void* out;               ///< [rows, columns] of `to`
  lora::FoldedRow* parts;  ///< [rows, chunks()]: the figures of a row's part in each chunk
  std::int64_t rows, columns, rank;
  core::DType from, to;

  struct Thread {
    double sums[kRows] = {};  ///< D of the thread's column
  };

  [[nodiscard]] WEFT_BODY std::int64_t chunks() const { return (columns + kChunk - 1) / kChunk; }
  [[nodiscard]] WEFT_BODY std::int64_t blocks() const {
    return (rows + kRows - 1) / kRows * chunks();
  }
  [[nodiscard]] WEFT_BODY int slices() const {
    return static_cast<int>((rank + kDepth - 1) / kDepth);
  }
  /// The product, a slice of the rank after the other: fetch, multiply. Then rounding, the lanes'
  /// figures, and those of the rows.
  WEFT_BODY int phases(std::int64_t) const { return 2 * slices() + 3; }

  WEFT_BODY void run(int phase, const Place& at, Thread& t, float* memory) const {
    const Shared shared(memory);
    const Part part{at.block / chunks() * kRows, at.block % chunks() * kChunk, columns};
    const int product_phases = 2 * slices();
    if (phase < product_phases) {
      const std::int64_t first = static_cast<std::int64_t>(phase / 2) * kDepth;
      if (phase % 2 == 0) {
        fetch(part, first, at.thread, shared);
      } else {
        multiply(part, first, at.thread, t, shared);
      }
      return;
    }
    switch (phase - product_phases) {
      case 0: return round(part, at.thread, t, shared);
      case 1: return figures_of_lanes(part, at.thread, shared);
      default: return figures_of_rows(part, at.thread, shared);
    }
  }

 private:
  /// Where the block's part of the tile begins.
  struct Part {
    std::int64_t row, column, columns;
    /// Of the chunk.
    [[nodiscard]] WEFT_BODY int width() const {
      return columns - column < kChunk ? static_cast<int>(columns - column) : kChunk;
    }
    /// The columns that fill the lanes.
    [[nodiscard]] WEFT_BODY int whole() const { return width() / kLanes * kLanes; }
  };

  /// The shared memory of a block. Rows are kRowStride apart.
  struct Shared {
    double* left;     ///< [kDepth, kRows]: scale times the left factor
    double* update;   ///< [kRows]: D
    double* figures;  ///< [kFigures, kRows, kLanes]
    double* error;    ///< [kRows, kLanes]
    float* before;    ///< [kRows]: W
    float* after;     ///< [kRows]: M
    float* changed;   ///< [kRows, kLanes]: a count, which fp32 holds exactly
    float* odd;       ///< Likewise
    WEFT_BODY explicit Shared(float* memory)
        : left(reinterpret_cast<double*>(memory)),
          update(left + kDepth * kRows),
          figures(update + kRows * kRowStride),
          error(figures + kFigures * kRows * kLanes),
          before(memory + 2 * kSharedDoubles),
          after(before + kRows * kRowStride),
          changed(after + kRows * kRowStride),
          odd(changed + kRows * kLanes) {}
  };

  /// The slice of the left factor from `first` on, scaled: one number for each of some threads.
  WEFT_BODY void fetch(const Part& part, std::int64_t first, int thread,
                       const Shared& shared) const {
    if (thread >= kDepth * kRows) return;
    const std::int64_t row = part.row + thread / kDepth;
    const std::int64_t k = first + thread % kDepth;
    double value = 0;
    if (row < rows && k < rank)
      value = multiplied(scales[k], static_cast<double>(left[row * rank + k]));
    shared.left[thread % kDepth * kRows + thread / kDepth] = value;
  }

  WEFT_BODY void multiply(const Part& part, std::int64_t first, int thread, Thread& t,
                          const Shared& shared) const {
    const std::int64_t column = part.column + thread;
    if (column >= columns) return;
    const float* const panel = right + (column / kPanel * rank + first) * kPanel + column % kPanel;
    const int depth = rank - first < kDepth ? static_cast<int>(rank - first) : kDepth;
    for (int k = 0; k < depth; ++k) {
      const auto a = static_cast<double>(panel[k * kPanel]);
      WEFT_UNROLL for (int row = 0; row < kRows; ++row) {
        t.sums[row] = added(t.sums[row], multiplied(a, shared.left[k * kRows + row]));
      }
    }
  }

  /// M = round(W + D), into the output and the shared memory.
  WEFT_BODY void round(const Part& part, int thread, const Thread& t, const Shared& shared) const {
    const std::int64_t column = part.column + thread;
    WEFT_UNROLL for (int row = 0; row < kRows; ++row) {
      if (part.row + row >= rows || column >= columns) continue;
      const std::int64_t i = (part.row + row) * columns + column;
      const float before = stored_number(from, base, i);
      const double exact = added(static_cast<double>(before), t.sums[row]);
      float after = 0;
      if (to == core::DType::kF32) {
        after = static_cast<float>(exact);
        static_cast<float*>(out)[i] = after;
      } else {
        const auto bits = static_cast<std::uint16_t>(bits_as(to, rounded_to_odd(exact)));
        static_cast<std::uint16_t*>(out)[i] = bits;
        after = of_half(to, bits);
      }
      shared.before[row * kRowStride + thread] = before;
      shared.after[row * kRowStride + thread] = after;
      shared.update[row * kRowStride + thread] = t.sums[row];
    }
  }

  /// What element i of the shared memory adds to figure 0 (base), 1 (update) or 2 (kept).
  WEFT_BODY static double term(int figure, int i, const Shared& shared) {
    const auto before = static_cast<double>(shared.before[i]);
    if (figure == 0) return multiplied(before, before);
    const double update = shared.update[i];
    if (figure == 1) return multiplied(update, update);
    return multiplied(subtracted(static_cast<double>(shared.after[i]), before), update);
  }

  /// From this magnitude on numbers round to infinity (row_math's kLimit).
  [[nodiscard]] WEFT_BODY double limit() const {
    return to == core::DType::kF32 ? 0x1.ffffffp127 : to == core::DType::kF16 ? 65520 : 0x1.ffp127;
  }

  /// A warp of threads for each figure, and one for what has no order: in it one for each row and
  /// lane, which takes every kLanes-th element.
  WEFT_BODY void figures_of_lanes(const Part& part, int thread, const Shared& shared) const {
    constexpr int kEach = kRows * kLanes;
    if (thread >= (kFigures + 1) * kEach) return;
    const int figure = thread / kEach;
    const int row = thread % kEach / kLanes;
    const int lane = thread % kLanes;
    if (part.row + row >= rows) return;
    const int begin = row * kRowStride;
    if (figure < kFigures) {
      double total = 0;
      for (int j = lane; j < part.whole(); j += kLanes)
        total = added(total, term(figure, begin + j, shared));
      shared.figures[thread] = total;
      return;
    }
    double most = 0;
    float changed = 0;
    float odd = 0;
    for (int j = lane; j < part.width(); j += kLanes) {
      const int i = begin + j;
      const double exact = added(static_cast<double>(shared.before[i]), shared.update[i]);
      const double error = fabs(subtracted(static_cast<double>(shared.after[i]), exact));
      if (error > most) most = error;
      if (bits_as(to, shared.after[i]) != bits_as(to, shared.before[i])) changed += 1;
      if (!(fabs(exact) < limit())) odd = 1;
    }
    shared.error[row * kLanes + lane] = most;
    shared.changed[row * kLanes + lane] = changed;
    shared.odd[row * kLanes + lane] = odd;
  }

  /// The lanes' sums and then the elements that are left over after them.
  WEFT_BODY void figures_of_rows(const Part& part, int thread, const Shared& shared) const {
    if (thread >= (kFigures + 1) * kRows) return;
    const int figure = thread / kRows;
    const int row = thread % kRows;
    if (part.row + row >= rows) return;
    lora::FoldedRow& to_part = parts[(part.row + row) * chunks() + part.column / kChunk];
    if (figure == kFigures) return unordered(row, shared, to_part);
    const double* const s = shared.figures + (figure * kRows + row) * kLanes;
    double total = added(added(added(s[0], s[1]), added(s[2], s[3])),
                         added(added(s[4], s[5]), added(s[6], s[7])));
    for (int j = part.whole(); j < part.width(); ++j)
      total = added(total, term(figure, row * kRowStride + j, shared));
    if (figure == 0) {
      to_part.base = total;
    } else if (figure == 1) {
      to_part.update = total;
    } else {
      to_part.kept = total;
    }
  }

  WEFT_BODY static void unordered(int row, const Shared& shared, lora::FoldedRow& to_part) {
    double most = 0;
    float changed = 0;
    float odd = 0;
    for (int i = row * kLanes; i < (row + 1) * kLanes; ++i) {
      if (shared.error[i] > most) most = shared.error[i];
      changed += shared.changed[i];
      odd += shared.odd[i];
    }
    to_part.error = most;
    to_part.changed = static_cast<std::int64_t>(changed);
    to_part.odd = static_cast<std::int64_t>(odd);
  }
};

/// The figures of whole rows: a thread adds those of one row's chunks, in their order.
struct FoldRows {
  const lora::FoldedRow* parts;  ///< [count, chunks]
  lora::FoldedRow* rows;         ///< [count]
  std::int64_t count, chunks;

  struct Thread {};
  WEFT_BODY int phases(std::int64_t) const { return 1; }
  WEFT_BODY void run(int, const Place& at, Thread&, float*) const {
    const std::int64_t row = at.block * at.threads + at.thread;
    if (row >= count) return;
    lora::FoldedRow total;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const lora::FoldedRow& part = parts[row * chunks + chunk];
      total.base = added(total.base, part.base);
      total.update = added(total.update, part.update);
      total.kept = added(total.kept, part.kept);
      if (part.error > total.error) total.error = part.error;
      total.changed += part.changed;
      total.odd += part.odd;
    }
    rows[row] = total;
  }
};

}  // namespace weft::cuda
