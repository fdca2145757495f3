#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lora/adapter.h"
#include "merge/factor_products.h"
#include "merge/row_deltas.h"

namespace weft::merge {

/// One term of a module's update: weight * scale * B A.
struct Term {
  lora::Factors factors;
  double weight = 1;
};

/// The update of one weight matrix, sum over terms of weight_i * scale_i * B_i A_i, computed a few
/// rows at a time. The terms' factors are set side by side, [s_1 B_1, s_2 B_2, ...] and [A_1; A_2;
/// ...], so a sum of adapters is exact: no cross terms, no re-scaling.
///
/// Products and sums are in double (sums in float change 3 % of the F32 results for an update of 1
/// % and rank 16), in the same order on every machine and for every number of threads.
class Update : public RowDeltas {
 public:
  static_assert(kRowBlock == kFactorRows);
  enum class Layout { kOutIn, kInOut };

  /// All terms have factors of the same module. kInOut gives the update transposed, for weights
  /// stored as [in, out].
  Update(std::vector<Term> terms, Layout layout);

  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t columns() const noexcept { return columns_; }
  /// The sum of the terms' ranks.
  [[nodiscard]] std::int64_t rank() const noexcept override { return rank_; }

  /// Numbers in a row of compute()'s output: columns() rounded up.
  [[nodiscard]] std::int64_t stride() const noexcept override { return panels_ * kFactorPanel; }

  /// Rows [begin, begin + kRowBlock) of the update, row i at out[i * stride()]. Rows beyond rows()
  /// are zero. out.size() == kRowBlock * stride(). Thread-safe.
  void compute(std::int64_t begin, std::span<double> out) const override;
  [[nodiscard]] std::vector<Pairs> pairs() const override {
    return {{0, {rows_, columns_, rank_, right_, left_, left_scales_}}};
  }

 private:
  void pack_right(const std::vector<Term>& terms, Layout layout);
  void pack_left(const std::vector<Term>& terms, Layout layout);

  std::int64_t rows_ = 0;
  std::int64_t columns_ = 0;
  std::int64_t rank_ = 0;
  std::int64_t panels_ = 0;
  std::vector<float> right_;         ///< [panels, rank, kFactorPanel], columns padded with zeros.
  std::vector<float> left_;          ///< [rows, rank], unscaled.
  std::vector<double> left_scales_;  ///< [rank]: weight * scale of the column's term.
  bool exact_ = true;                ///< multiplies_exactly() holds for left_, scaled.
};

}  // namespace weft::merge
