#include "eval/run/gate_figures.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "eval/metrics/answer_metric.h"
#include "eval/report/compare.h"
#include "eval/statistics/gates.h"
#include "eval/statistics/statistics_of.h"

namespace weft::eval {
namespace {

/// Items, or their source documents where there are enough (groups_of()).
std::int64_t units_of(const SuiteInput& suite) {
  const std::size_t items = suite.text   ? suite.text->items.size()
                            : suite.data ? suite.data->items.size()
                                         : suite.choices->items.size();
  const std::size_t documents = suite.labels.source_names.size();
  const bool clustered = documents >= kEnoughDocuments && suite.labels.sources.size() == items;
  return static_cast<std::int64_t>(clustered ? documents : items);
}

const SuiteInput* suite_of(const GateTerm& term, std::span<const SuiteInput> suites) {
  if (term.suite.empty()) return suites.empty() ? nullptr : &suites.front();
  const auto found = std::ranges::find(suites, term.suite, &SuiteInput::name);
  return found == suites.end() ? nullptr : &*found;
}

[[noreturn]] void fail(const Gate& gate, const GateTerm& term, std::string_view why) {
  throw ConfigError("gate '{}': {} will not be measured in stage '{}': {}", gate.text, term.figure,
                    term.stage, why);
}

std::string known_text(std::span<const ComingFigure> figures) {
  std::vector<std::string_view> names;
  for (const ComingFigure& figure : figures) names.push_back(figure.name);
  return fmt::format("the suite has {}", fmt::join(names, ", "));
}

/// What would have to be asked for to have the figure.
std::string advice(const std::string& figure, std::span<const ComingFigure> figures) {
  std::string text = known_text(figures);
  if (is_answer_score(figure))
    text += "; scores of answers need instruction data, and generate with the score in its metrics";
  if (figure.starts_with("kl") || figure == "same_top" || figure == "perplexity_ratio" ||
      figure == "delta_p_rms")
    text += "; distances need distribution, and a stage that is not the reference";
  if (figure.starts_with("acc")) text += "; accuracy needs a suite with choices";
  return text;
}

void require_units(const Gate& gate, std::string_view suite, std::int64_t units) {
  if (units >= kFewestUnitsForGates) return;
  throw ConfigError(
      "gate '{}': with gate_confidence a figure needs at least {} units to be drawn from, and "
      "suite "
      "'{}' has {}; leave gate_confidence out, or give more items",
      gate.text, kFewestUnitsForGates, suite, units);
}

void require_earlier(const Gate& gate, const GateTerm& term, const Evaluation& earlier,
                     std::span<const SuiteInput> inputs, bool confident) {
  const SuiteInput* input = suite_of(term, inputs);
  const auto stage = std::ranges::find_if(earlier.stages, [&](const StageResult& candidate) {
    return is_stage(term.stage, against_name(candidate.name));
  });
  if (input == nullptr || stage == earlier.stages.end()) return;  // require_names() has told.
  const SuiteResult* suite = suite_named(*stage, input->name);
  if (suite == nullptr)
    fail(gate, term, fmt::format("the earlier evaluation has no suite '{}'", input->name));
  if (suite->digest.empty() || suite->digest != input->digest)
    fail(gate, term, fmt::format("suite '{}' had other items then", input->name));
  if (is_answer_score(term.figure) && suite->asked_digest != input->asked_digest) {
    fail(gate, term,
         fmt::format("suite '{}' was asked or answered otherwise then (generate)", input->name));
  }
  const auto sampled = sampled_figure(*suite, term.figure);
  if (!sampled) fail(gate, term, "the earlier evaluation has no such figure");
  if (confident) require_units(gate, input->name, sampled->items);
}

void require_term(const Gate& gate, const GateTerm& term, const EvalConfig& config,
                  std::span<const ComingStage> stages, std::span<const SuiteInput> inputs,
                  const Evaluation* earlier) {
  const bool confident = config.gate_confidence.has_value();
  const auto stage = std::ranges::find_if(
      stages, [&](const ComingStage& candidate) { return is_stage(term.stage, candidate.name); });
  if (stage == stages.end()) {
    if (earlier != nullptr) require_earlier(gate, term, *earlier, inputs, confident);
    return;
  }
  const SuiteInput* suite = suite_of(term, stage->suites);
  if (suite == nullptr)
    fail(gate, term, "it has another tokenizer, so that only plain text is measured");
  const std::vector<ComingFigure> figures = coming_figures(*suite, *stage, config);
  const auto found = std::ranges::find(figures, term.figure, &ComingFigure::name);
  if (found == figures.end()) fail(gate, term, advice(term.figure, figures));
  if (confident) require_units(gate, suite->name, found->units);
}

}  // namespace

std::vector<ComingFigure> coming_figures(const SuiteInput& suite, const ComingStage& stage,
                                         const EvalConfig& config) {
  const std::int64_t units = units_of(suite);
  if (stage.other_tokenizer) return {{"bits_per_byte", units}};
  std::vector<ComingFigure> figures{
      {"loss", units}, {"perplexity", units}, {"bits_per_byte", units}};
  if (suite.choices) {
    for (const std::string_view name : {"acc", "acc_norm", "acc_bytes", "acc_mutual_info"})
      figures.push_back({name, units});
    if (!stage.is_reference) figures.push_back({"flips", units});
  }
  if (suite.data && config.generate) {
    const auto asked = static_cast<std::int64_t>(suite.data->questions.size());
    for (const std::string& metric :
         suite.labels.metrics.empty() ? default_answer_metrics() : suite.labels.metrics)
      figures.push_back({answer_metric(metric).name, asked});
  }
  if (suite.distribution && !stage.is_reference) {
    for (const std::string_view name : {"kl", "kl_median", "kl_p90", "kl_p95", "kl_p99", "kl_p999",
                                        "kl_max", "same_top", "perplexity_ratio", "delta_p_rms"})
      figures.push_back({name, units});
  }
  return figures;
}

void require_gate_figures(const EvalConfig& config, std::span<const ComingStage> stages,
                          std::span<const SuiteInput> inputs, const Evaluation* earlier) {
  for (const std::string& text : config.gates) {
    const Gate gate = parse_gate(text);
    for (const GateTerm& term : gate.terms) {
      if (!term.figure.empty()) require_term(gate, term, config, stages, inputs, earlier);
    }
  }
}

}  // namespace weft::eval
