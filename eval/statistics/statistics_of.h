#pragma once

#include <string_view>
#include <vector>

#include "eval/metrics/result.h"
#include "eval/statistics/statistic.h"

namespace weft::eval {

/// A figure of a suite by its sums over items.
struct NamedStatistic {
  std::string_view name;
  Statistic statistic;
  std::vector<std::uint32_t> groups;  ///< Source documents of the items; empty: each its own.
};

/// From this many documents on, documents are what varies independently; below, parts of them are.
inline constexpr std::size_t kEnoughDocuments = 10;

/// Every figure of the suite that is a function of sums, in the order of figure_kinds(): losses of
/// tokens, shares of right choices, scores of answers, distances to the reference stage.
[[nodiscard]] std::vector<NamedStatistic> statistics_of(const SuiteResult& suite);

/// The source document of each item where there are enough to be what varies; otherwise nothing,
/// and the items are.
[[nodiscard]] std::vector<std::uint32_t> groups_of(const SuiteResult& suite);

/// Which choice a rule takes, the first of equals as numpy.argmax: the largest log-probability as
/// it is, per character, per byte, or beyond that of the choice on its own (lm-eval's acc,
/// acc_norm, acc_bytes, acc_mutual_info).
enum class ChoiceRule : std::uint8_t { kPlain, kCharacters, kBytes, kMutualInformation };
[[nodiscard]] std::int32_t choose(const ChoiceResult& question, ChoiceRule rule);

}  // namespace weft::eval
