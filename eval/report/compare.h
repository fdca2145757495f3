#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/ledger/ledger.h"
#include "eval/statistics/figures.h"

namespace weft::eval {

/// The first place at which two results of the same items are not the same bits; `answers`: of the
/// generated answers, too.
struct FirstDifference {
  /// "loss", "tokens", "answer", "log_p", "log_p_alone", "flip", "distance", "number of items", ...
  std::string what;
  std::size_t item = 0;  ///< From 0; of "answer" the place among the questions.
  std::string earlier, later;
};
[[nodiscard]] std::optional<FirstDifference> first_difference(const SuiteResult& earlier,
                                                              const SuiteResult& later,
                                                              bool answers = true);

/// A suite of a stage in two evaluations.
struct SuiteChange {
  std::string stage, suite;
  /// Inputs that are not the same: "model", "adapter", "quantise", "items", "dtype", "reference";
  /// one whose contents were not recorded counts. Where there are none, the bits have to agree.
  std::vector<std::string> inputs{};
  std::optional<FirstDifference> first{};
  /// Whether other questions were asked, or answered otherwise (max_tokens, ...): the answers are
  /// then not held against each other, and everything else is.
  bool asked_otherwise = false;
  std::vector<Measured> earlier{};  ///< As it was.
  std::vector<Measured> later{};    ///< As it is, with the difference from earlier.
  std::string sentence{};           ///< On the main figure.
};

enum class Verdict {
  kSame,      ///< The same inputs gave the same bits.
  kRounding,  ///< Other circumstances, and a difference within kRoundingTolerance.
  kDrift,     ///< The same inputs gave other figures: something is wrong.
  kChanged    ///< Other inputs: what came of them is in the figures.
};

/// What two evaluations have in common and in what they differ.
struct Changes {
  /// What may round otherwise, where it is not the same: "4 threads, were 2". Where there is
  /// nothing, equal inputs have to give equal bits.
  std::vector<std::string> circumstances;
  std::vector<SuiteChange> suites;                    ///< By stages and suites of the later one.
  std::vector<std::string> only_earlier, only_later;  ///< "STAGE" or "STAGE, SUITE"
};
/// Stages and suites are matched by name; two evaluations of one run with a single update each are
/// matched all the same. Intervals are made with the later evaluation's options.
[[nodiscard]] Changes compare(const Recorded& earlier, const Recorded& later);

/// The same from an evaluation's first stage to its last, as from one evaluation to another: what a
/// run has learned and forgotten. Throws ConfigError for one of a single stage.
[[nodiscard]] Changes compare_ends(const Recorded& recorded);

/// The largest relative difference of bits per byte that other circumstances may make. Of choices
/// too: one close question that is answered otherwise is no drift.
inline constexpr double kRoundingTolerance = 1e-3;
[[nodiscard]] Verdict verdict(const Changes& changes, const SuiteChange& change);
/// Whether any verdict is kDrift.
[[nodiscard]] bool has_drifted(const Changes& changes);

/// For people: a line per stage and suite, then what has drifted and where first, and sentences on
/// what has changed. `earlier`: what the other evaluation is called.
[[nodiscard]] std::string to_text(const Changes& changes, std::string_view earlier);

/// {"circumstances", "drift", "results": [{"stage", "suite", "verdict", "changed_inputs",
/// "asked_otherwise", "first_difference": {"what", "item", "earlier", "later"}, "figures": {NAME:
/// {"earlier", "later", "difference", "interval", "p"}}}], "only_earlier", "only_later"}
[[nodiscard]] nlohmann::ordered_json to_json(const Changes& changes);

/// The later evaluation with the earlier one's stages behind its own, as "NAME@against", with those
/// suites that were measured on the same items: for gates on what changed since.
[[nodiscard]] Evaluation with_earlier(const Evaluation& later, const Evaluation& earlier);
/// The names that with_earlier() gives an earlier stage.
[[nodiscard]] std::string against_name(std::string_view stage);

}  // namespace weft::eval
