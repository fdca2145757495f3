#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/bootstrap.h"
#include "eval/result.h"
#include "eval/statistic.h"

namespace weft::eval {

/// Sum of losses / tokens, in nats per token.
[[nodiscard]] double mean_loss(std::span<const Item> items);
/// exp(mean_loss). Depends on the tokenizer: compare only models that share it.
[[nodiscard]] double perplexity(std::span<const Item> items);
/// Sum of losses / (bytes ln 2). Comparable between tokenizers.
[[nodiscard]] double bits_per_byte(std::span<const Item> items);

/// What is known of a figure before it is measured.
struct FigureKind {
  std::string_view name;   ///< In JSON and gates: "bits_per_byte"
  std::string_view title;  ///< Above a column: "bits/byte"
  int digits = 4;
  int better = 0;  ///< 1: more is better, -1: less, 0: neither
};
/// Every figure that weft eval knows, in the order in which they are shown.
[[nodiscard]] std::span<const FigureKind> figure_kinds();
/// Null for a name that is none.
[[nodiscard]] const FigureKind* figure_kind(std::string_view name);

/// A figure and how sure it is.
struct Estimate {
  double value = 0;
  std::optional<Interval> interval;
};

/// A figure of a suite beside the same figure of the first stage.
struct Measured {
  std::string_view name;  ///< Of figure_kinds().
  Estimate figure;
  std::optional<Estimate> difference;  ///< This stage minus the first, paired by item.
  std::optional<Estimate> relative;    ///< This stage / the first - 1, paired by item.
  std::optional<double> p;             ///< Of the difference: permutation_test().
  std::optional<double> p_holm;        ///< The same, corrected, of Comparisons.
};

/// A figure of a suite as the bootstrap takes it. May refer to the suite.
struct Sampled {
  std::int64_t items = 0;
  Figure figure;
};
/// By the names of figure_kinds(); nothing for one that the suite has not.
[[nodiscard]] std::optional<Sampled> sampled_figure(const SuiteResult& suite,
                                                    std::string_view name);

/// A suite's figures, as many as were measured. `first`: the same suite in the stage to compare
/// with, or null. Differences get an interval and a p only where both stages were measured on the
/// same items (tokens may differ, bytes may not); across tokenizers bits per byte is all there is.
/// Units are the items, or their source documents where there are at least kEnoughDocuments.
[[nodiscard]] std::vector<Measured> measure(const SuiteResult& suite, const SuiteResult* first,
                                            const BootstrapOptions& options = {});

/// The figure that a suite is judged by: "acc" of multiple choice, else "bits_per_byte".
[[nodiscard]] std::string_view main_figure(const SuiteResult& suite);

/// A difference that is told in a sentence.
struct Comparison {
  std::size_t stage = 0;  ///< Place in Evaluation::stages.
  std::size_t other = 0;  ///< The stage that it is compared with.
  std::string suite;
  Measured measured;  ///< Of `stage`, with the difference from `other`.
};

/// All figures of an evaluation.
struct Analysis {
  /// measure() of every suite of every stage against the first stage: [stage][suite].
  std::vector<std::vector<std::vector<Measured>>> figures;
  /// The main figure, and chrf where answers were written, of each later stage against the first
  /// and against the stage before it. Their p are corrected together by Holm's method.
  std::vector<Comparison> comparisons;
};
[[nodiscard]] Analysis analyse(const Evaluation& evaluation, const BootstrapOptions& options = {});

/// Whether two stages were measured on the same items (tokens may differ, bytes may not).
[[nodiscard]] bool same_items(const SuiteResult& a, const SuiteResult& b);
/// Null when the stage was not measured on it.
[[nodiscard]] const SuiteResult* suite_named(const StageResult& stage, std::string_view name);
[[nodiscard]] const Measured* figure_named(std::span<const Measured> all, std::string_view name);

}  // namespace weft::eval
