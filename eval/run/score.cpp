#include "eval/run/score.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "core/error.h"
#include "core/ranks.h"
#include "data/pack.h"
#include "data/prefix.h"

namespace weft::eval {
namespace {

/// Positions [0, shareable) predict nothing, so that others may use them, too.
data::Prefix prefix_of(const Pass& pass) {
  const auto first = std::ranges::find_if(
      pass.targets, [](std::int32_t target) { return target != data::kNoTarget; });
  const std::int64_t shareable =
      std::min(first - pass.targets.begin(), std::ssize(pass.tokens) - 1);
  return {pass.tokens, shareable};
}

/// Passes that share a row, and at most how many tokens it has.
struct SharedRow {
  std::vector<std::uint32_t> members;
  std::int64_t tokens = 0;
};

std::vector<SharedRow> plan_rows(std::span<const Pass> passes, std::int64_t max_tokens) {
  std::vector<SharedRow> rows;
  std::vector<data::Prefix> prefixes;
  std::vector<std::uint32_t> places;
  for (std::uint32_t i = 0; i < passes.size(); ++i) {
    if (std::ssize(passes[i].tokens) > max_tokens) {
      rows.push_back({{i}, std::ssize(passes[i].tokens)});
    } else {
      prefixes.push_back(prefix_of(passes[i]));
      places.push_back(i);
    }
  }
  if (places.empty()) return rows;
  const data::RowStreamOptions options{
      .sequence_len = max_tokens, .share_prefixes = true, .shuffle = false};
  for (data::PlannedRow& row : data::plan_epoch(prefixes, options, 0)) {
    for (std::uint32_t& place : row.examples) place = places[place];
    rows.push_back({std::move(row.examples), row.tokens});
  }
  return rows;
}

/// A row and whose its targets are.
struct ScoredRow {
  data::Row row;
  std::vector<std::uint32_t> owner;  ///< Of each target, in order: the place in `passes`
};

ScoredRow make_row(std::span<const Pass> passes, std::span<const std::uint32_t> members) {
  std::vector<data::Prefix> prefixes;
  for (const std::uint32_t member : members) prefixes.push_back(prefix_of(passes[member]));
  ScoredRow result;
  data::Row& row = result.row;
  for (const data::PrefixNode& node : data::prefix_forest(prefixes)) {
    const std::uint32_t owner = members[node.members.front()];
    const Pass& pass = passes[owner];
    const auto begin = static_cast<std::int32_t>(row.tokens.size());
    row.tokens.insert(row.tokens.end(), pass.tokens.begin() + node.begin,
                      pass.tokens.begin() + node.end);
    for (std::int64_t p = node.begin; p < node.end; ++p) {
      const std::int32_t target = pass.targets[static_cast<std::size_t>(p)];
      row.positions.push_back(static_cast<std::int32_t>(p));
      row.targets.push_back(target);
      if (target != data::kNoTarget) result.owner.push_back(owner);
    }
    row.segments.push_back({begin, static_cast<std::int32_t>(row.tokens.size()), node.parent});
  }
  return result;
}

void score_row(std::span<const Pass> passes, std::span<const std::uint32_t> members,
               const TokenLosses& losses, const TargetOwners& owners,
               std::vector<PassLoss>& results) {
  const ScoredRow scored = make_row(passes, members);
  const std::vector<float> values = losses(scored.row);
  if (values.size() != scored.owner.size())
    throw std::logic_error("the model returned another number of losses than there are targets");
  if (owners) owners(scored.owner);
  for (std::size_t i = 0; i < values.size(); ++i) {
    PassLoss& result = results[scored.owner[i]];
    result.loss += values[i];
    ++result.tokens;
  }
  for (const std::uint32_t member : members) {
    if (std::isfinite(results[member].loss)) continue;
    throw NumericError(
        "the loss of text {} is {}: the model's numbers left the range in which they mean "
        "something; try --dtype f32, or check the weights",
        member + 1, results[member].loss);
  }
}

}  // namespace

std::vector<PassLoss> score(std::span<const Pass> passes, std::int64_t max_tokens,
                            const TokenLosses& losses,
                            const std::function<void(std::int64_t)>& done,
                            const TargetOwners& owners) {
  std::vector<PassLoss> results(passes.size());
  std::int64_t finished = 0;
  for (const SharedRow& row : plan_rows(passes, max_tokens)) {
    score_row(passes, row.members, losses, owners, results);
    finished += std::ssize(row.members);
    if (done) done(finished);
  }
  return results;
}

std::vector<PassLoss> score_together(std::span<const Pass> passes, std::int64_t max_tokens,
                                     const TokenLosses& losses, core::Communicator& ranks,
                                     const std::function<void(std::int64_t)>& done) {
  std::vector<PassLoss> results(passes.size());
  std::vector<int> rank_of(passes.size());
  core::together(ranks, [&] {
    core::Dealer dealer(ranks);
    std::int64_t finished = 0;
    for (const SharedRow& row : plan_rows(passes, max_tokens)) {
      const int rank = dealer.deal(row.tokens);
      for (const std::uint32_t member : row.members) rank_of[member] = rank;
      if (rank != ranks.rank()) continue;
      score_row(passes, row.members, losses, {}, results);
      finished += std::ssize(row.members);
      if (done) done(finished);
    }
  });
  core::gather_dealt(ranks, std::span(results), rank_of);
  return results;
}

}  // namespace weft::eval
