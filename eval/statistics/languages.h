#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/statistics/analysis.h"

namespace weft::eval {

/// A suite's main figure in a stage with its resamples.
struct MainDraws {
  double value = 0;
  std::int64_t units = 0;     ///< 0: not measured.
  std::vector<double> draws;  ///< Empty where a suite has a single unit.
};

/// Analysis::languages; `main`: [stage][suite].
[[nodiscard]] std::vector<std::vector<LanguageFigure>> language_figures(
    const Evaluation& evaluation, const std::vector<std::vector<MainDraws>>& main,
    const BootstrapOptions& options);

/// What a source document has in a stage.
struct SourceFigure {
  std::string source;
  std::size_t items = 0;
  std::string_view name;  ///< The suite's main figure.
  double value = 0;
};
/// The suite's main figure of each source document, in their order; empty without sources.
[[nodiscard]] std::vector<SourceFigure> source_figures(const SuiteResult& suite);

}  // namespace weft::eval
