#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "merge/row_deltas.h"

namespace weft::merge {

/// One model's version of a tensor: the numbers of a checkpoint, plus the update of an adapter that
/// is folded on the way (exactly: nothing is rounded before the method's own result is).
/// Rows are those of checkpoint::TensorInfo.
struct TensorInput {
  /// Null: no numbers, only updates. Such inputs can be compared with each other, not read.
  const checkpoint::Checkpoint* model = nullptr;
  const checkpoint::TensorInfo* info = nullptr;
  std::shared_ptr<const RowDeltas> update{};  ///< Null: the checkpoint's numbers as they are.

  /// True when both read the same stored numbers, so that only updates tell them apart.
  [[nodiscard]] bool same_numbers(const TensorInput& other) const noexcept {
    return model == other.model && info == other.info;
  }
  [[nodiscard]] std::int64_t rows() const { return info->rows(); }
  [[nodiscard]] std::int64_t columns() const { return info->row_elements(); }

  /// Rows [begin, end) in double, one after the other. Thread-safe.
  void read(std::int64_t begin, std::int64_t end, std::span<double> out) const;
  /// Pages that were read are not needed soon.
  void release(std::int64_t begin, std::int64_t end) const {
    if (model != nullptr) model->release(*info, begin, end);
  }
};

/// Rows [begin, end) of a - b. Where both have the same checkpoint this is the difference of the
/// updates alone, with nothing lost to cancellation. Thread-safe.
void read_difference(const TensorInput& a, const TensorInput& b, std::int64_t begin,
                     std::int64_t end, std::span<double> out);

/// Calls body(begin, end) for a few rows at a time, in parallel, over all rows of `inputs` (which
/// have one shape), and gives pages back as it goes.
void for_row_blocks(std::span<const TensorInput> inputs,
                    const std::function<void(std::int64_t, std::int64_t)>& body);

/// The sum of values[0], values[1], ... in this order: sums per row are added up with it, so that
/// the number of threads does not change a result.
[[nodiscard]] double sum_in_order(std::span<const double> values);

}  // namespace weft::merge
