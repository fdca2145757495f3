#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/ledger/ledger.h"
#include "eval/report/training_run.h"

namespace weft::eval {

/// An evaluation in a report, and what the report calls it: "v1.2".
struct Reported {
  std::string name;
  Recorded recorded;
  Analysis analysis;  ///< Of `recorded`.

  /// Analyses it.
  Reported(std::string name, Recorded recorded);
};

/// What a report is about: any number of each.
struct ReportParts {
  std::vector<TrainingRun> runs{};
  std::vector<Reported> evaluations{};
  std::int64_t examples = 12;  ///< Answers shown per suite.
};

/// One page without scripts or anything from elsewhere (eval/report/page.h): with several
/// evaluations a table of their main figures side by side and what changed from the first to each;
/// training curves and what was found in the data; then every evaluation as to_html() shows it.
[[nodiscard]] std::string report_page(const ReportParts& parts);

}  // namespace weft::eval
