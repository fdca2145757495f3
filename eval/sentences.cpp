#include "eval/sentences.h"

#include <fmt/format.h>

#include <cmath>

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

}  // namespace

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
    return fmt::format(
        "{}: {} from {} on {}; {} shows no interval.", stage.name,
        amount(measured.name, difference), other, on,
        suite != nullptr && suite->other_tokenizer ? "another tokenizer" : "one item");
  }
  const Interval& interval = *measured.difference->interval;
  std::string how_sure = range(measured.name, interval, options.confidence);
  if (measured.p_holm) how_sure += ", corrected " + probability(*measured.p_holm);
  const bool holds_zero = interval.low <= 0 && interval.high >= 0;
  const bool by_chance = measured.p_holm && *measured.p_holm > 1 - options.confidence;
  if (by_chance && !holds_zero) {
    return fmt::format("{}: {} from {} on {} ({}): not certain among this many comparisons.",
                       stage.name, amount(measured.name, difference), other, on, how_sure);
  }
  if (holds_zero) {
    return fmt::format("{}: no measurable difference from {} on {}, {} ({}){}", stage.name, other,
                       on, amount(measured.name, difference), how_sure,
                       must_keep ? ": nothing forgotten that this suite can show." : ".");
  }
  const FigureKind* kind = figure_kind(measured.name);
  const bool better = kind != nullptr && difference * kind->better > 0;
  return fmt::format("{}: {} {} than {} on {} ({}): {}.", stage.name,
                     amount(measured.name, std::abs(difference)).substr(1),
                     difference < 0 ? "less" : "more", other, on, how_sure,
                     verdict(better, must_keep));
}

}  // namespace weft::eval
