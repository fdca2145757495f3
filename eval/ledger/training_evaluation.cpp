#include "eval/ledger/training_evaluation.h"

#include <algorithm>
#include <map>

namespace weft::eval {
namespace {

/// The numbers of the run's evaluations whose stages are updates, the newest first.
std::vector<std::int64_t> evaluations_of(Ledger& ledger, const std::string& folder) {
  std::vector<std::int64_t> ids;
  for (const LedgerEntry& entry : ledger.entries()) {
    const bool updates =
        !entry.stages.empty() && std::ranges::all_of(entry.stages, [](const std::string& stage) {
          return update_of(stage).has_value();
        });
    if (updates && entry.circumstances.run == folder) ids.push_back(entry.id);
  }
  std::ranges::reverse(ids);
  return ids;
}

/// Whether both were measured on the same items, as far as is known.
bool same_suites(const StageResult& a, const StageResult& b) {
  return std::ranges::equal(a.suites, b.suites, [](const SuiteResult& x, const SuiteResult& y) {
    return x.name == y.name && x.digest == y.digest && x.asked_digest == y.asked_digest;
  });
}

}  // namespace

std::optional<Recorded> read_training_evaluation(Ledger& ledger, const std::string& folder) {
  std::optional<Recorded> newest;
  std::map<std::int64_t, StageResult> updates;
  for (const std::int64_t id : evaluations_of(ledger, folder)) {
    Recorded recorded = ledger.read(id);
    std::vector<StageResult>& stages = recorded.evaluation.stages;
    // What is before a run of other suites, or behind what is known, is of an earlier run.
    if (!updates.empty() && (!same_suites(stages.front(), updates.begin()->second) ||
                             *update_of(stages.front().name) >= updates.begin()->first))
      break;
    for (StageResult& stage : stages) updates.try_emplace(*update_of(stage.name), std::move(stage));
    if (!newest) newest = std::move(recorded);
    if (updates.begin()->first == 0) break;
  }
  if (!newest) return newest;
  std::vector<StageResult>& stages = newest->evaluation.stages;
  stages.clear();
  for (auto& [update, stage] : updates) stages.push_back(std::move(stage));
  newest->evaluation.reference = stages.front().name;
  return newest;
}

std::optional<std::int64_t> training_evaluation_to_go_on(Ledger& ledger, const std::string& folder,
                                                         const StageResult& next) {
  for (const std::int64_t id : evaluations_of(ledger, folder)) {
    const Recorded recorded = ledger.read(id);
    const StageResult& first = recorded.evaluation.stages.front();
    const bool earlier = *update_of(first.name) < update_of(next.name).value_or(0);
    return earlier && same_suites(first, next) ? std::optional(id) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace weft::eval
