#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/number.h"

// What computes folds in place of the processor: `merge/` asks it, `model/cuda/` is it. It stands
// here since neither of the two includes the other.

namespace weft::lora {

/// A sum of scaled pairs, the change D [rows, columns] of one matrix:
///
///   D[i][j] = sum over k of right[j / 8][k][j % 8] * (scales[k] * left[i][k])
///
/// in double, in the order of k from 0 on, each product rounded before it is added. The numbers
/// stay where they are for as long as they are used.
struct ScaledPairs {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t rank = 0;           ///< The sum of the pairs' ranks.
  std::span<const float> right;    ///< [ceil(columns / 8), rank, 8], columns padded with zeros.
  std::span<const float> left;     ///< [rows, rank]
  std::span<const double> scales;  ///< [rank]: weight * scale of the pair.
};

/// What became of one row. W: the base's numbers, M: those written. The sums have the order of
/// merge/row_math.h: eight lanes in chunks of 256 elements, then the chunks.
struct FoldedRow {
  double base = 0;           ///< sum W^2
  double update = 0;         ///< sum D^2
  double kept = 0;           ///< sum (M - W) D
  double error = 0;          ///< max |M - (W + D)|
  std::int64_t changed = 0;  ///< Numbers that differ from W rounded to M's type.
  /// Not 0: W + D is outside of the type's range somewhere, or no number. The row's bytes and
  /// figures are then not to be used: what becomes of it is the processor's to say.
  std::int64_t odd = 0;
};

/// Computes M = round(W + D) tile by tile: addition in double, one rounding to nearest, ties to
/// even. Bytes and figures are those of the processor (merge/row_kernels.h, merge/update.h), bit
/// for bit. At most kInFlight tiles are under way at a time, so that copies, computing and what the
/// caller does with the results overlap. For use by one thread at a time. IoError with the device's
/// own words.
class FoldEngine {
 public:
  static constexpr std::size_t kInFlight = 2;

  virtual ~FoldEngine() = default;

  /// What computes, for reports: "cuda:0 (NVIDIA H200, 9.0)".
  [[nodiscard]] virtual const std::string& description() const = 0;
  /// The matrix whose tiles come next, stored as `from` and written as `to`. Tiles that were not
  /// collected are given up. `pairs` is read until the next begin().
  virtual void begin(const ScaledPairs& pairs, core::DType from, core::DType to) = 0;
  /// Starts on the rows from `first_row` on whose stored numbers are `base` (whole rows,
  /// little-endian), and returns when `base` is not read any more.
  virtual void submit(std::int64_t first_row, std::span<const std::byte> base) = 0;
  /// Waits for the tile that was submitted first of those under way. out: its bytes; rows: one for
  /// each of its rows.
  virtual void collect(std::span<std::byte> out, std::span<FoldedRow> rows) = 0;
};

}  // namespace weft::lora
