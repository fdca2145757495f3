#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "eval/ledger/ledger.h"

// What `evaluate:` of weft train measures: one evaluation a run, whose stages are its updates.

namespace weft::eval {

/// The newest evaluation of the run in `folder` whose stages are updates. Those that older programs
/// recorded, one for each update, are put together from the newest back to update 0.
[[nodiscard]] std::optional<Recorded> read_training_evaluation(Ledger& ledger,
                                                               const std::string& folder);

/// The number of the newest such evaluation that the run, resumed before `update`, goes on with: it
/// has measured the same items, and its first update is an earlier one.
[[nodiscard]] std::optional<std::int64_t> training_evaluation_to_go_on(Ledger& ledger,
                                                                       const std::string& folder,
                                                                       const StageResult& next);

}  // namespace weft::eval
