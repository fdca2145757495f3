#include "eval/report/headline.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "eval/report/sentences.h"

namespace weft::eval {
namespace {

/// Names of suites by what was found on their main figure.
struct Found {
  std::vector<std::string> better, worse, forgotten, kept, open;
};

Found sort(const Evaluation& evaluation, const Analysis& analysis,
           const BootstrapOptions& options) {
  Found found;
  const StageResult& last = evaluation.stages.back();
  for (const Comparison& comparison : analysis.comparisons) {
    const SuiteResult* suite = suite_named(last, comparison.suite);
    if (suite == nullptr || comparison.other != 0 ||
        comparison.stage + 1 != evaluation.stages.size() ||
        comparison.measured.name != main_figure(*suite))
      continue;
    const bool must_keep = suite->labels.must_keep;
    switch (finding_of(comparison, options)) {
      case Finding::kBetter:
        (must_keep ? found.kept : found.better).push_back(comparison.suite);
        break;
      case Finding::kWorse:
        (must_keep ? found.forgotten : found.worse).push_back(comparison.suite);
        break;
      default: (must_keep ? found.kept : found.open).push_back(comparison.suite);
    }
  }
  return found;
}

std::string list(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

void judge(const Found& found, const std::string& stage, std::span<const GateResult> gates,
           Headline& headline) {
  const auto failed = std::ranges::count(gates, false, &GateResult::passed);
  std::vector<std::string> against;
  if (failed > 0) against.push_back(fmt::format("{} of {} gates failed", failed, gates.size()));
  if (!found.forgotten.empty())
    against.push_back("what must be kept was forgotten in part on " + list(found.forgotten));
  if (!found.worse.empty()) against.push_back("it is worse on " + list(found.worse));
  if (!against.empty()) {
    headline.answer = Headline::Answer::kNo;
    headline.verdict = fmt::format("{} is not fit to ship: {}.", stage, fmt::join(against, "; "));
    return;
  }
  if (found.better.empty()) {
    headline.verdict = fmt::format("Nothing shows that {} is better: no measurable gain{}.", stage,
                                   found.open.empty() ? "" : " on " + list(found.open));
    return;
  }
  const std::string passed =
      gates.empty() ? "" : fmt::format(", and all {} gates passed", gates.size());
  if (found.kept.empty()) {
    headline.verdict = fmt::format(
        "{} is better on {}{}. What it forgot was not measured: a suite with must_keep would tell.",
        stage, list(found.better), passed);
    return;
  }
  headline.answer = Headline::Answer::kYes;
  headline.verdict = fmt::format(
      "{} is fit to ship by what was measured: better on {}, nothing measurably lost on {}{}.",
      stage, list(found.better), list(found.kept), passed);
}

}  // namespace

Headline headline(const Evaluation& evaluation, const Analysis& analysis,
                  std::span<const GateResult> gates, const BootstrapOptions& options) {
  Headline headline;
  if (evaluation.stages.size() < 2) return headline;
  const StageResult& last = evaluation.stages.back();
  for (const Comparison& comparison : analysis.comparisons) {
    const SuiteResult* suite = suite_named(last, comparison.suite);
    if (suite == nullptr || comparison.other != 0 ||
        comparison.stage + 1 != evaluation.stages.size())
      continue;
    (suite->labels.must_keep ? headline.kept : headline.learned)
        .push_back(sentence(evaluation, comparison, options));
  }
  judge(sort(evaluation, analysis, options), last.name, gates, headline);
  return headline;
}

}  // namespace weft::eval
