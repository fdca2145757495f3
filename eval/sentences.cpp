#include "eval/sentences.h"

#include <fmt/format.h>

#include <cmath>

namespace weft::eval {
namespace {

/// "0.0312 bits per byte"
std::string amount(std::string_view name, double value, bool sign) {
  const char* const form = sign ? "{:+.{}f} {}" : "{:.{}f} {}";
  if (name == "acc")
    return fmt::format(fmt::runtime(form), 100 * value, 2, "percentage points of right answers");
  if (name == "chrf") return fmt::format(fmt::runtime(form), value, 2, "points of chrF");
  return fmt::format(fmt::runtime(form), value, 4, "bits per byte");
}

std::string range(std::string_view name, const Interval& interval, double confidence) {
  const double factor = name == "acc" ? 100 : 1;
  const int digits = name == "bits_per_byte" ? 4 : 2;
  return fmt::format("{:g} % interval {:+.{}f} .. {:+.{}f}", 100 * confidence,
                     factor * interval.low, digits, factor * interval.high, digits);
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
        amount(measured.name, difference, true), other, on,
        suite != nullptr && suite->other_tokenizer ? "another tokenizer" : "one item");
  }
  const Interval& interval = *measured.difference->interval;
  std::string how_sure = range(measured.name, interval, options.confidence);
  if (measured.p_holm) how_sure += ", corrected " + probability(*measured.p_holm);
  const bool holds_zero = interval.low <= 0 && interval.high >= 0;
  const bool by_chance = measured.p_holm && *measured.p_holm > 1 - options.confidence;
  if (by_chance && !holds_zero) {
    return fmt::format("{}: {} from {} on {} ({}): not certain among this many comparisons.",
                       stage.name, amount(measured.name, difference, true), other, on, how_sure);
  }
  if (holds_zero) {
    return fmt::format("{}: no measurable difference from {} on {}, {} ({}){}", stage.name, other,
                       on, amount(measured.name, difference, true), how_sure,
                       must_keep ? ": nothing forgotten that this suite can show." : ".");
  }
  const FigureKind* kind = figure_kind(measured.name);
  const bool better = kind != nullptr && difference * kind->better > 0;
  return fmt::format("{}: {} {} than {} on {} ({}): {}.", stage.name,
                     amount(measured.name, std::abs(difference), false),
                     difference < 0 ? "less" : "more", other, on, how_sure,
                     verdict(better, must_keep));
}

}  // namespace weft::eval
