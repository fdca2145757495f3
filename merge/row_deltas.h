#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lora/fold_engine.h"

namespace weft::merge {

/// What a merge adds to one tensor of the model it starts from, a few rows at a time: the product
/// of an adapter's factors (Update), or what a method makes of several models (merge/method.h).
/// Const methods are thread-safe.
class RowDeltas {
 public:
  virtual ~RowDeltas() = default;

  /// Rows that compute() does at a time.
  static constexpr std::int64_t kRowBlock = 4;

  /// The rank of what is added, where it has a known one; 0 elsewhere.
  [[nodiscard]] virtual std::int64_t rank() const noexcept { return 0; }
  /// Numbers in a row of compute()'s output; at least the tensor's row.
  [[nodiscard]] virtual std::int64_t stride() const noexcept = 0;
  /// Rows [begin, begin + kRowBlock), row i at out[i * stride()]; rows beyond the tensor's last
  /// hold anything. out.size() == kRowBlock * stride().
  virtual void compute(std::int64_t begin, std::span<double> out) const = 0;
  /// Where a row is replaced, not changed: the numbers that take its place, which adding their
  /// difference may miss by a bit. True when `out` (a row) was filled.
  virtual bool exact(std::int64_t /*row*/, std::span<float> /*out*/) const { return false; }

  /// What is added to the rows from `first_row` on.
  struct Pairs {
    std::int64_t first_row = 0;
    lora::ScaledPairs pairs;
  };
  /// The same as sums of scaled pairs, one for each part of the tensor's rows and in their order,
  /// for what computes such sums elsewhere (lora/fold_engine.h); empty where it is anything else.
  /// Valid as long as this is.
  [[nodiscard]] virtual std::vector<Pairs> pairs() const { return {}; }
};

}  // namespace weft::merge
