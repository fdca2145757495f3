#include "eval/report/card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/utf8.h"
#include "eval/report/sentences.h"
#include "eval/statistics/figures.h"
#include "schema/value.h"

namespace weft::eval {
namespace {

using Json = nlohmann::ordered_json;

/// Text within a line or a cell of a table.
std::string escaped_markdown(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (std::string_view("\\`*_{}[]<>|#").find(c) != std::string_view::npos) result += '\\';
    result += c == '\n' || c == '\r' ? ' ' : c;
  }
  return result;
}

std::string cell(const Measured& measured) {
  const FigureKind* kind = figure_kind(measured.name);
  const int digits = kind == nullptr ? 4 : kind->digits;
  if (!std::isfinite(measured.figure.value)) return "-";
  std::string text = fmt::format("{:.{}f}", measured.figure.value, digits);
  if (const auto& range = measured.figure.interval)
    text += fmt::format(" ({:.{}f} .. {:.{}f})", range->low, digits, range->high, digits);
  return text;
}

/// Of the distances from the reference stage a card has the mean and the worst hundredth.
bool is_on_card(std::string_view name) {
  return name != "kl_median" && name != "kl_p90" && name != "kl_p95" && name != "kl_p999" &&
         name != "kl_max" && name != "delta_p_rms";
}

/// The figures that any stage has on the suite, in the order of figure_kinds().
std::vector<const FigureKind*> columns_of(const Analysis& analysis, const Evaluation& evaluation,
                                          const std::string& suite) {
  std::vector<const FigureKind*> columns;
  for (const FigureKind& kind : figure_kinds()) {
    if (!is_on_card(kind.name)) continue;
    bool found = false;
    for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
      const auto& suites = evaluation.stages[i].suites;
      for (std::size_t j = 0; j < suites.size(); ++j) {
        found |=
            suites[j].name == suite && figure_named(analysis.figures[i][j], kind.name) != nullptr;
      }
    }
    if (found) columns.push_back(&kind);
  }
  return columns;
}

std::string suite_table(const Evaluation& evaluation, const Analysis& analysis,
                        const std::string& suite) {
  const auto columns = columns_of(analysis, evaluation, suite);
  std::string text = "| stage |", rule = "|---|";
  for (const FigureKind* kind : columns) {
    // Percentiles stand beside their mean elsewhere.
    const bool is_percentile = kind->name.starts_with("kl_p");
    text += fmt::format(" {}{} |", is_percentile ? "KL " : "", escaped_markdown(kind->title));
    rule += "---:|";
  }
  text += "\n" + rule + "\n";
  for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
    const StageResult& stage = evaluation.stages[i];
    for (std::size_t j = 0; j < stage.suites.size(); ++j) {
      if (stage.suites[j].name != suite) continue;
      text += fmt::format("| {} |", escaped_markdown(stage.name));
      for (const FigureKind* kind : columns) {
        const Measured* measured = figure_named(analysis.figures[i][j], kind->name);
        text += fmt::format(" {} |", measured == nullptr ? "-" : cell(*measured));
      }
      text += "\n";
    }
  }
  return text + "\n";
}

std::string sentences_of(const Recorded& recorded, const Analysis& analysis,
                         const std::string& suite) {
  std::string text;
  for (const Comparison& comparison : analysis.comparisons) {
    if (comparison.suite != suite || !is_worth_telling(recorded.evaluation, comparison)) continue;
    text += fmt::format(
        "- {}\n", escaped_markdown(sentence(recorded.evaluation, comparison, recorded.bootstrap)));
  }
  return text.empty() ? text : text + "\n";
}

std::string how(const Recorded& recorded) {
  const Evaluation& evaluation = recorded.evaluation;
  const Circumstances& c = recorded.circumstances;
  std::string text = fmt::format(
      "Measured {} by {} in {}, at most {} tokens at once, {} threads, {}. In brackets: {:g} % "
      "intervals by bootstrap ({} resamples, seed {}); differences are paired, their p by "
      "permutation ({}), corrected by Holm's method.",
      c.recorded_at, c.program, evaluation.dtype, evaluation.sequence_len, c.threads,
      escaped_markdown(c.machine), 100 * recorded.bootstrap.confidence,
      recorded.bootstrap.resamples, recorded.bootstrap.seed, recorded.bootstrap.permutations);
  if (const auto& decoding = evaluation.decoding)
    text += fmt::format(" Answers: greedy, at most {} tokens, repetition penalty {:g}.",
                        decoding->max_tokens, decoding->repetition_penalty);
  text += "\n\n| stage | SHA-256 of its files | adapters | quantisation |\n|---|---|---|---|\n";
  for (const StageResult& stage : evaluation.stages) {
    std::string adapters;
    for (const std::string& digest : stage.adapter_digests)
      adapters += (adapters.empty() ? "" : ", ") + digest.substr(0, 16);
    text += fmt::format("| {} | {} | {} | {} |\n", escaped_markdown(stage.name),
                        stage.model_digest.empty() ? "-" : stage.model_digest.substr(0, 16),
                        adapters.empty() ? "-" : adapters,
                        stage.quantise.empty() ? "-" : escaped_markdown(stage.quantise));
  }
  return text;
}

/// Lower-case letters, digits and '-' alone, as names of metrics and data sets are on the Hub.
std::string slug(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    result += std::isalnum(byte) != 0 || c == '_' ? static_cast<char>(std::tolower(byte)) : '-';
  }
  return result;
}

const char* task_of(SuiteKind kind) {
  return kind == SuiteKind::kChoice ? "multiple-choice" : "text-generation";
}

/// The same as YAML.
schema::ConfigNode yaml_of(const Json& value) {
  using schema::ConfigNode;
  if (value.is_object()) {
    ConfigNode map = ConfigNode::map();
    for (const auto& [key, entry] : value.items()) map.add(key, yaml_of(entry));
    return map;
  }
  if (value.is_array()) {
    ConfigNode list = ConfigNode::list({});
    for (const Json& item : value) list.items.push_back(yaml_of(item));
    return list;
  }
  if (value.is_number_float()) return schema::write_value(value.get<double>());
  if (!value.is_string()) return ConfigNode::scalar(value.dump());
  return ConfigNode::string(core::replace_invalid_utf8(value.get_ref<const std::string&>()));
}

Json metrics_of(const std::vector<Measured>& figures, double confidence) {
  Json metrics = Json::array();
  for (const Measured& measured : figures) {
    if (!std::isfinite(measured.figure.value)) continue;
    const FigureKind* kind = figure_kind(measured.name);
    Json metric{{"type", std::string(measured.name)},
                {"value", measured.figure.value},
                {"name", std::string(kind == nullptr ? measured.name : kind->title)}};
    if (const auto& range = measured.figure.interval)
      metric["args"] = {{"interval", {range->low, range->high}}, {"confidence", confidence}};
    metrics.push_back(std::move(metric));
  }
  return metrics;
}

}  // namespace

std::string to_markdown(const Recorded& recorded, const Analysis& analysis) {
  const Evaluation& evaluation = recorded.evaluation;
  std::string text = "## Evaluation\n\n";
  if (evaluation.stages.empty()) return text;
  for (const SuiteResult& suite : evaluation.stages.front().suites) {
    text += fmt::format("### {}{}{}\n\n", escaped_markdown(suite.name),
                        suite.labels.language.empty()
                            ? ""
                            : fmt::format(" ({})", escaped_markdown(suite.labels.language)),
                        suite.labels.must_keep ? ": what must be kept" : "");
    text += suite_table(evaluation, analysis, suite.name);
    text += sentences_of(recorded, analysis, suite.name);
  }
  if (!recorded.gates.empty()) {
    text += "### Gates\n\n| gate | measured | limit | result |\n|---|---:|---:|---|\n";
    for (const GateResult& gate : recorded.gates) {
      text += fmt::format("| {} | {:.6g} | {:.6g} | {} |\n", escaped_markdown(gate.text),
                          gate.bound.value_or(gate.left), gate.limit,
                          gate.passed ? "passed" : "**failed**");
    }
    text += "\n";
  }
  if (!analysis.notes.empty()) text += "### How sure it is\n\n";
  for (const std::string& note : analysis.notes) text += "- " + escaped_markdown(note) + "\n";
  if (!analysis.notes.empty()) text += "\n";
  return text + "### How it was measured\n\n" + how(recorded);
}

std::string to_model_index(const Recorded& recorded, const std::string& model_name,
                           const std::string& stage_name) {
  const Evaluation& evaluation = recorded.evaluation;
  const auto stage = std::ranges::find(evaluation.stages, stage_name, &StageResult::name);
  if (stage == evaluation.stages.end()) {
    std::string names;
    for (const StageResult& known : evaluation.stages)
      names += (names.empty() ? "" : ", ") + known.name;
    throw ConfigError("no stage '{}' was measured; there is {}", stage_name, names);
  }
  Json results = Json::array();
  for (const SuiteResult& suite : stage->suites) {
    Json dataset{{"type", slug(suite.name)}, {"name", suite.name}};
    if (!suite.labels.language.empty()) dataset["config"] = suite.labels.language;
    if (!suite.digest.empty()) dataset["args"] = {{"items_sha256", suite.digest}};
    results.push_back({{"task", {{"type", task_of(suite.kind)}}},
                       {"dataset", std::move(dataset)},
                       {"metrics", metrics_of(measure(suite, nullptr, recorded.bootstrap),
                                              recorded.bootstrap.confidence)}});
  }
  const Json index = Json::array({Json{{"name", model_name}, {"results", std::move(results)}}});
  return "---\nmodel-index:\n" + schema::emit_yaml(yaml_of(index)) + "---\n";
}

}  // namespace weft::eval
