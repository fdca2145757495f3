#pragma once

#include <span>
#include <string>
#include <string_view>

#include "eval/metrics/result.h"
#include "eval/report/html.h"
#include "eval/statistics/analysis.h"

// One suite of an evaluation as HTML (eval/report/html.h).

namespace weft::eval {

/// A stage's figure in a ladder.
struct Rung {
  std::string stage;
  Estimate figure;
};

/// One figure of each stage as a dash within its interval, on one scale. `of`: what was measured,
/// for screen readers. Empty where a figure is not finite.
[[nodiscard]] std::string html_ladder(std::span<const Rung> rungs, const FigureKind& kind,
                                      std::string_view of);

/// Everything about the suite `first` of the first stage. `analysis` is of the evaluation.
[[nodiscard]] std::string suite_section(const Evaluation& evaluation, const Analysis& analysis,
                                        const SuiteResult& first, const PageOptions& options);

}  // namespace weft::eval
