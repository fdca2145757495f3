#include "eval/report/sentences.h"

#include <fmt/format.h>

#include <cmath>

#include "eval/statistics/statistics_of.h"

namespace weft::eval {
namespace {

/// How a figure's differences are told.
struct Words {
  double factor = 1;
  int digits = 4;
  std::string_view unit;
};

Words words_of(std::string_view figure) {
  if (figure == "acc") return {100, 2, "percentage points of right answers"};
  if (figure == "chrf") return {1, 2, "points of chrF"};
  if (figure == "chrf++") return {1, 2, "points of chrF++"};
  if (figure == "chrf++_unicode") return {1, 2, "points of chrF++ Unicode"};
  if (figure == "bleu") return {1, 2, "points of BLEU"};
  if (figure == "ter") return {1, 2, "points of TER"};
  if (figure == "exact_match") return {100, 2, "percentage points of exact answers"};
  if (figure == "f1") return {100, 2, "percentage points of F1"};
  return {1, 4, "bits per byte"};
}

/// "+0.0312"; what would be written as zero and is not: "+3e-08".
std::string number(double value, int digits) {
  const bool vanishes = value != 0 && std::abs(value) < 0.5 * std::pow(10, -digits);
  return vanishes ? fmt::format("{:+.0e}", value) : fmt::format("{:+.{}f}", value, digits);
}

/// "+0.0312 bits per byte"
std::string amount(std::string_view figure, double value) {
  const Words words = words_of(figure);
  return fmt::format("{} {}", number(words.factor * value, words.digits), words.unit);
}

std::string range(std::string_view figure, const Interval& interval, double confidence) {
  const Words words = words_of(figure);
  return fmt::format("{:g} % interval {} .. {}", 100 * confidence,
                     number(words.factor * interval.low, words.digits),
                     number(words.factor * interval.high, words.digits));
}

std::string probability(double p) { return p < 0.001 ? "p < 0.001" : fmt::format("p = {:.2g}", p); }

/// "better", or for what must be kept "forgotten".
std::string_view verdict(bool better, bool must_keep) {
  if (must_keep) return better ? "kept, and better" : "forgotten in part";
  return better ? "better" : "worse";
}

/// Why a difference has no interval.
std::string without_interval(const SuiteResult* suite, const SuiteResult* other,
                             std::string_view figure) {
  if (suite == nullptr || other == nullptr) return "the suite was not measured in both";
  if (suite->other_tokenizer != other->other_tokenizer) return "the tokenizers differ";
  const bool answers = is_answer_score(figure);
  const std::size_t here = answers ? suite->generations.size() : suite->items.size();
  const std::size_t there = answers ? other->generations.size() : other->items.size();
  const std::string_view what = answers ? "answer" : word(suite->unit);
  if (here != there)
    return fmt::format("the items differ ({} here, {} there), and what differs cannot be paired",
                       here, there);
  if (answers ? !same_generations(*suite, *other) : !same_items(*suite, *other))
    return "the items differ, and what differs cannot be paired";
  const std::vector<std::uint32_t> groups =
      answers ? std::vector<std::uint32_t>{} : groups_of(*suite);
  const std::size_t units = groups.empty() ? here : suite->labels.source_names.size();
  if (static_cast<std::int64_t>(units) >= kFewestUnits) return "some resamples have no such figure";
  return fmt::format("an interval needs at least {} {}s, and there {} {}", kFewestUnits, what,
                     units == 1 ? "is" : "are", units);
}

}  // namespace

Finding finding_of(const Comparison& comparison, const BootstrapOptions& options) {
  const Measured& measured = comparison.measured;
  if (!measured.difference || !measured.difference->interval ||
      !std::isfinite(measured.difference->value))
    return Finding::kUnknown;
  const Interval& interval = *measured.difference->interval;
  if (interval.low <= 0 && interval.high >= 0) return Finding::kNone;
  if (measured.p_holm && *measured.p_holm > 1 - options.confidence) return Finding::kUncertain;
  const FigureKind* kind = figure_kind(measured.name);
  return kind != nullptr && measured.difference->value * kind->better > 0 ? Finding::kBetter
                                                                          : Finding::kWorse;
}

std::string sentence(const Evaluation& evaluation, const Comparison& comparison,
                     const BootstrapOptions& options) {
  const StageResult& stage = evaluation.stages[comparison.stage];
  const std::string& other = evaluation.stages[comparison.other].name;
  const SuiteResult* suite = suite_named(stage, comparison.suite);
  const bool must_keep = suite != nullptr && suite->labels.must_keep;
  const Measured& measured = comparison.measured;
  const double difference = measured.difference->value;
  const std::string& on = comparison.suite;
  if (!std::isfinite(difference))
    return fmt::format("{} and {} cannot be compared on {}.", stage.name, other, on);
  if (!measured.difference->interval) {
    return fmt::format("{}: {} from {} on {}, without an interval: {}.", stage.name,
                       amount(measured.name, difference), other, on,
                       without_interval(suite, suite_named(evaluation.stages[comparison.other], on),
                                        measured.name));
  }
  const Interval& interval = *measured.difference->interval;
  std::string how_sure = range(measured.name, interval, options.confidence);
  if (measured.p_holm) how_sure += ", corrected " + probability(*measured.p_holm);
  const Finding finding = finding_of(comparison, options);
  if (finding == Finding::kUncertain) {
    return fmt::format("{}: {} from {} on {} ({}): not certain among this many comparisons.",
                       stage.name, amount(measured.name, difference), other, on, how_sure);
  }
  if (finding == Finding::kNone) {
    return fmt::format("{}: no measurable difference from {} on {}, {} ({}){}", stage.name, other,
                       on, amount(measured.name, difference), how_sure,
                       must_keep ? ": nothing forgotten that this suite can show." : ".");
  }
  return fmt::format("{}: {} {} than {} on {} ({}): {}.", stage.name,
                     amount(measured.name, std::abs(difference)).substr(1),
                     difference < 0 ? "less" : "more", other, on, how_sure,
                     verdict(finding == Finding::kBetter, must_keep));
}

}  // namespace weft::eval
