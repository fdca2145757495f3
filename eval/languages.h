#pragma once

#include <string>
#include <vector>

#include "eval/figures.h"

namespace weft::eval {

/// A figure of one language in one stage: the mean over the suites of that language.
struct LanguageFigure {
  std::string language;  ///< "all": every suite.
  std::size_t suites = 0;
  std::string_view name;  ///< bits_per_byte or acc
  Measured measured;      ///< Against the first stage.
};

/// For each stage, the languages in the order in which they first occur, then "all" where there is
/// more than one. Suites are strata: each is resampled by itself, with the same resamples in every
/// stage, and the means of the resamples give the intervals. A language counts in a stage only
/// with all of its suites. Suites without a language are not in a language but in "all".
[[nodiscard]] std::vector<std::vector<LanguageFigure>> language_figures(
    const Evaluation& evaluation, const BootstrapOptions& options = {});

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
