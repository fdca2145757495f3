#pragma once

#include <cstddef>
#include <vector>

#include "data/row.h"
#include "eval/metrics/result.h"
#include "model/decoder.h"

namespace weft::eval {

/// What the reference stage predicted on one suite, to compare other stages with. Kept are the
/// states that its head reads, and its head, from which the logits of a few rows at a time are
/// computed again, bit for bit: D numbers for each scored token and the head's V x D once (which
/// all suites share), instead of V numbers for each token. Nothing is written to disk, nothing is
/// rounded.
class ReferenceStates {
 public:
  explicit ReferenceStates(model::Head head) : head_(std::move(head)) {}

  /// Scores a row as model::Decoder::token_losses() does, and keeps its states.
  [[nodiscard]] std::vector<float> record(model::Decoder& decoder, const data::Row& row);

  /// Scores the next row (the same rows in the same order) with another model and compares: appends
  /// one entry per target to `distances`, whose item the caller knows.
  [[nodiscard]] std::vector<float> compare(model::Decoder& decoder, const data::Row& row,
                                           std::size_t number,
                                           std::vector<TokenDistance>& distances);

 private:
  model::Head head_;
  std::vector<at::Tensor> states_;  ///< Of each row [S, D], on the host.
};

}  // namespace weft::eval
