#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/statistics/figures.h"

// Everything that is computed of an evaluation, once: the ledger, tables, JSON and pages show it.

namespace weft::eval {

/// A difference that is told in a sentence.
struct Comparison {
  std::size_t stage = 0;  ///< Place in Evaluation::stages.
  std::size_t other = 0;  ///< The stage that it is compared with.
  std::string suite;
  Measured measured;  ///< Of `stage`, with the difference from `other`.
};

/// A figure of one language in one stage: the mean over the suites of that language.
struct LanguageFigure {
  std::string language;  ///< "all": every suite.
  std::size_t suites = 0;
  std::string_view name;  ///< bits_per_byte or acc
  Measured measured;      ///< Against the first stage.
};

/// All figures of an evaluation.
struct Analysis {
  /// measure() of every suite of every stage against the first stage: [stage][suite].
  std::vector<std::vector<std::vector<Measured>>> figures;
  /// The figures of is_told() of each later stage against the first and, but for the updates of a
  /// training run, against the stage before it. Their p are corrected together by Holm's method.
  std::vector<Comparison> comparisons;
  /// For each stage, the languages in the order in which they first occur, then "all" where there
  /// is more than one: the mean over their suites. Suites are strata: each has its own resamples,
  /// those of its figures, and the means of the resamples give the intervals. A language counts in
  /// a stage only with all of its suites. Suites without a language are not in a language but in
  /// "all".
  std::vector<std::vector<LanguageFigure>> languages;
  /// What a reader has to know before believing the intervals and p: whole sentences.
  std::vector<std::string> notes;
};
[[nodiscard]] Analysis analyse(const Evaluation& evaluation, const BootstrapOptions& options = {});

/// Whether people are told of the comparison in words: of a training run's updates the last alone.
[[nodiscard]] bool is_worth_telling(const Evaluation& evaluation, const Comparison& comparison);

/// 30 of "update 30", what a training run calls its stages.
[[nodiscard]] std::optional<std::int64_t> update_of(std::string_view stage);
/// Whether all stages are updates of a training run.
[[nodiscard]] bool is_of_training(const Evaluation& evaluation);

}  // namespace weft::eval
