#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics/result.h"
#include "eval/statistics/bootstrap.h"
#include "eval/statistics/statistics_of.h"

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

/// What the figures of one suite in one stage are made of, with their resamples.
struct FigureDraws {
  const SuiteResult* suite = nullptr;
  std::vector<NamedStatistic> statistics{};
  std::vector<std::vector<double>> draws{};  ///< Of each statistic; empty below two units.
  std::vector<Measured> percentiles{};       ///< Of the tokens' KL.
};
/// One suite in several stages, whose resamples are drawn once for all of them.
[[nodiscard]] std::vector<FigureDraws> draw_figures(std::span<const SuiteResult* const> suites,
                                                    const BootstrapOptions& options);

/// Which figures: all, or those that sentences are told of.
enum class Which : std::uint8_t { kAll, kTold };

/// A suite's figures, as many as were measured. `first`: the same suite in the stage to compare
/// with, or null. Differences get an interval and a p only where both stages were measured on the
/// same items (tokens may differ, bytes may not); across tokenizers bits per byte is all there is.
/// Units are the items, or their source documents where there are at least kEnoughDocuments; below
/// kFewestUnits of them there are no intervals. Draws are those of the suite's name (stream_of).
[[nodiscard]] std::vector<Measured> measure(const FigureDraws& here, const FigureDraws* first,
                                            const BootstrapOptions& options,
                                            Which which = Which::kAll);
/// The same, drawn for this alone.
[[nodiscard]] std::vector<Measured> measure(const SuiteResult& suite, const SuiteResult* first,
                                            const BootstrapOptions& options = {});

/// The figure that a suite is judged by: "acc" of multiple choice, else "bits_per_byte".
[[nodiscard]] std::string_view main_figure(const SuiteResult& suite);

/// Whether sentences tell of the figure: the main one, and every score of answers.
[[nodiscard]] bool is_told(const SuiteResult& suite, std::string_view name);
/// Whether it is a score of generated answers.
[[nodiscard]] bool is_answer_score(std::string_view name);

/// Whether two stages were measured on the same items (tokens may differ, bytes may not).
[[nodiscard]] bool same_items(const SuiteResult& a, const SuiteResult& b);
/// Whether two stages answered the same questions.
[[nodiscard]] bool same_generations(const SuiteResult& a, const SuiteResult& b);
/// Null when the stage was not measured on it.
[[nodiscard]] const SuiteResult* suite_named(const StageResult& stage, std::string_view name);
[[nodiscard]] const Measured* figure_named(std::span<const Measured> all, std::string_view name);

}  // namespace weft::eval
