#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/communicator.h"
#include "data/row.h"

namespace weft::eval {

/// What the model reads at once and what it has to predict at each place: equally long, targets
/// as in data::Row (data::kNoTarget: nothing). Unlike there, the last place may have a target.
struct Pass {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> targets;
};

/// Cross-entropy (nats) at each place that has a target, in order: model::Decoder::token_losses.
using TokenLosses = std::function<std::vector<float>(const data::Row&)>;

/// Told after each row whose the targets of that row were, in the order of their losses: places in
/// the passes.
using TargetOwners = std::function<void(std::span<const std::uint32_t> owners)>;

/// What one pass cost.
struct PassLoss {
  std::int64_t tokens = 0;  ///< Places with a target.
  double loss = 0;          ///< Sum in nats.
};

/// Scores passes; results are in their order. Several share a row of at most max_tokens tokens as
/// segments, packed as in training (data/pack.h): what they begin with alike, up to the first place
/// with a target, is computed once. A pass longer than max_tokens has a row of its own. `done(n)`
/// is told after each row how many passes are finished; it may throw to stop. Throws NumericError
/// when a loss is not finite.
[[nodiscard]] std::vector<PassLoss> score(std::span<const Pass> passes, std::int64_t max_tokens,
                                          const TokenLosses& losses,
                                          const std::function<void(std::int64_t)>& done = {},
                                          const TargetOwners& owners = {});

/// The same as one of several ranks, which all call it with the same passes: each computes some of
/// the rows, and all get all results, with the bits of one process. `done` is told of the passes
/// of this rank. What is thrown in one rank is thrown in all (core/ranks.h).
[[nodiscard]] std::vector<PassLoss> score_together(
    std::span<const Pass> passes, std::int64_t max_tokens, const TokenLosses& losses,
    core::Communicator& ranks, const std::function<void(std::int64_t)>& done = {});

}  // namespace weft::eval
