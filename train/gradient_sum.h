#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "model/exchange.h"

namespace weft::train {

/// Node of the tree over the rows of an update: the sum of rows [index 2^level, (index + 1)
/// 2^level).
struct RowNode {
  int level = 0;
  std::int64_t index = 0;
  bool operator==(const RowNode&) const = default;

  /// Whether `right` is the other half of the node above.
  [[nodiscard]] bool is_left_of(const RowNode& right) const {
    return level == right.level && index % 2 == 0 && index + 1 == right.index;
  }
  [[nodiscard]] RowNode parent() const { return {level + 1, index / 2}; }
};

/// What the rows [begin, end) leave when halves are added as soon as both are there, in the order
/// of the rows: at most 2 log2(end - begin) + 1 nodes.
[[nodiscard]] std::vector<RowNode> nodes_of(std::int64_t begin, std::int64_t end);

/// Sums of gradients that one process holds at most beside the gradient that it works on, for an
/// update of `rows` rows: floor(log2(rows)).
[[nodiscard]] int sums_held(std::int64_t rows);

/// Gradients that a rank holds at most beside that which it works on, of an update of `rows` rows
/// of about the same cost: its own sums, and its slice of those of all ranks. With one rank,
/// sums_held().
[[nodiscard]] double gradients_held(std::int64_t rows, int ranks);

/// Where a list of rows with these costs is cut into `ranks` neighbouring ranges of about the same
/// cost: rank r has rows [cut[r], cut[r + 1]). A range may be empty.
[[nodiscard]] std::vector<std::int64_t> balanced_cut(std::span<const std::int64_t> costs,
                                                     int ranks);

/// The gradient of an update as a sum over its rows with a fixed shape: a binary tree over the
/// indices of the rows, whose incomplete right edge is added from the right. The sum is a function
/// of the rows and of their number alone, however they are cut into ranges for ranks.
///
/// For every row: begin_row(), then the gradients are zeroed and filled, then end_row(). After the
/// rows of this rank, finish(). The memory of the sums is free again after it.
class GradientSum {
 public:
  /// `gradients` [n] fp32 (model::Trainables, as long in every rank) may be overwritten in all
  /// calls. `first_row` is the index in the update of the first row here.
  GradientSum(at::Tensor gradients, std::int64_t first_row);

  /// Takes the sum in the gradients out of the way of the next row.
  void begin_row();
  /// The gradients hold those of the next row.
  void end_row();
  /// Puts the sum over all rows of the update into the gradients. Rank r has ended the rows
  /// [cut[r], cut[r + 1]). The additions are those of one process wherever the gradients are: the
  /// exchange only copies. Throws what it throws.
  void finish(model::TensorExchange& exchange, std::span<const std::int64_t> cut);

 private:
  struct Sum {
    RowNode node;
    at::Tensor values;  ///< [n], where the gradients are
  };

  void add_last();
  void share(model::TensorExchange& exchange, std::span<const std::int64_t> cut);

  at::Tensor gradients_;
  std::int64_t next_row_;
  std::vector<Sum> sums_;  ///< In the order of their rows
  bool holds_ = false;     ///< The gradients hold `held_`, which is right of all sums_.
  RowNode held_;
};

}  // namespace weft::train
