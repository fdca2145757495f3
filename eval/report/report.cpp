#include "eval/report/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/terminal.h"
#include "core/version.h"
#include "eval/metrics/answer.h"
#include "eval/report/sentences.h"
#include "eval/report/tables.h"
#include "eval/statistics/figures.h"
#include "eval/statistics/languages.h"
#include "eval/statistics/spread.h"

namespace weft::eval {

namespace {

using Json = nlohmann::ordered_json;

Json items_json(const SuiteResult& suite) {
  Json tokens = Json::array(), bytes = Json::array(), loss = Json::array();
  for (const Item& item : suite.items) {
    tokens.push_back(item.tokens);
    bytes.push_back(item.bytes);
    loss.push_back(json_number(item.loss));
  }
  return {{"tokens", tokens}, {"bytes", bytes}, {"loss", loss}};
}

/// What each score of the answers is, in sacrebleu's words.
Json signatures_json(const SuiteResult& suite) {
  Json all = Json::object();
  for (const AnswerMetric& metric : metrics_of(suite.labels))
    all[std::string(metric.name)] = metric.signature;
  return all;
}

Json generations_json(const SuiteResult& suite) {
  const std::vector<AnswerMetric> metrics = metrics_of(suite.labels);
  Json all = Json::array();
  for (const Generation& generation : suite.generations) {
    all.push_back({{"prompt", generation.prompt},
                   {"reference", generation.reference},
                   {"output", generation.output}});
    if (!generation.more_references.empty())
      all.back()["more_references"] = generation.more_references;
    for (std::size_t i = 0; i < metrics.size(); ++i) {
      // BLEU of one answer is 0 wherever no four words in a row are right.
      if (metrics[i].name == "bleu") continue;
      all.back()[std::string(metrics[i].name)] =
          json_number(metrics[i].of(answer_sums(generation, metrics[i], i)));
    }
  }
  return all;
}

Json suite_json(const SuiteResult& suite, const std::vector<Measured>& figures, bool is_first,
                Detail detail, std::string_view reference) {
  Json json{{"name", suite.name},
            {"kind", word(suite.kind)},
            {"tokens", total(suite, &Item::tokens)},
            {"bytes", total(suite, &Item::bytes)}};
  Json intervals = Json::object(), differences = Json::object();
  for (const Measured& measured : figures) {
    const std::string name(measured.name);
    json[name] = json_number(measured.figure.value);
    intervals[name] = json_bounds(measured.figure.interval);
    if (!measured.difference) continue;
    differences[name] = {{"value", json_number(measured.difference->value)},
                         {"interval", json_bounds(measured.difference->interval)},
                         {"relative", json_number(measured.relative->value)},
                         {"relative_interval", json_bounds(measured.relative->interval)},
                         {"p", measured.p ? Json(*measured.p) : Json(nullptr)}};
  }
  json["unit"] = word(suite.unit);
  json["units"] = suite.items.size();
  json["intervals"] = intervals;
  if (!is_first) json["differences"] = differences;
  if (!suite.generations.empty()) {
    json["generated"] = suite.generations.size();
    json["signatures"] = signatures_json(suite);
  }
  json.update(details_json(suite, reference));
  if (detail == Detail::kItems) {
    json["items"] = items_json(suite);
    if (!suite.generations.empty()) json["generations"] = generations_json(suite);
    if (!suite.choices.empty()) json["choices"] = choices_json(suite);
  }
  return json;
}

std::string percent(double share) { return fmt::format("{:+.1f} %", 100 * share); }

/// The change of a figure: relative for bits per byte, in its own unit for shares.
std::string change_cell(const Measured* measured) {
  if (measured == nullptr || !measured->relative) return "-";
  if (measured->name != "bits_per_byte") {
    const auto& range = measured->difference->interval;
    const std::string value = fmt::format("{:+.4f}", measured->difference->value);
    return range ? fmt::format("{} ({:+.4f} .. {:+.4f})", value, range->low, range->high) : value;
  }
  const std::string value = percent(measured->relative->value);
  const auto& range = measured->relative->interval;
  return range ? fmt::format("{} ({} .. {})", value, percent(range->low), percent(range->high))
               : value;
}

/// The columns of a suite's main table; the main figure is followed by its interval and change.
std::vector<std::string_view> columns_of(const SuiteResult& suite) {
  if (suite.kind == SuiteKind::kChoice)
    return {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "flips", "bits_per_byte"};
  std::vector<std::string_view> columns{"loss", "perplexity", "bits_per_byte"};
  if (!suite.generations.empty()) {
    for (const AnswerMetric& metric : metrics_of(suite.labels)) columns.push_back(metric.name);
  }
  return columns;
}

std::vector<std::string> header_of(const SuiteResult& suite) {
  std::vector<std::string> header{"stage"};
  for (const std::string_view name : columns_of(suite)) {
    const std::string title(figure_kind(name)->title);
    header.push_back(title);
    if (name == main_figure(suite)) header.insert(header.end(), {"interval", "change of " + title});
  }
  return header;
}

std::vector<std::string> table_row(const SuiteResult& suite, const std::string& stage,
                                   const std::vector<Measured>& figures) {
  std::vector<std::string> row{stage};
  for (const std::string_view name : columns_of(suite)) {
    const Measured* measured = figure_named(figures, name);
    row.push_back(measured == nullptr
                      ? "-"
                      : fmt::format("{:.{}f}", measured->figure.value, figure_kind(name)->digits));
    if (name != main_figure(suite)) continue;
    const auto spread = measured == nullptr ? std::nullopt : measured->figure.interval;
    row.push_back(spread ? fmt::format("{:.3f} .. {:.3f}", spread->low, spread->high) : "-");
    row.push_back(change_cell(measured));
  }
  return row;
}

}  // namespace

nlohmann::ordered_json to_json(const Evaluation& evaluation, const Analysis& analysis,
                               Detail detail, const BootstrapOptions& options) {
  Json stages = Json::array();
  for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
    const StageResult& stage = evaluation.stages[i];
    Json suites = Json::array();
    for (std::size_t j = 0; j < stage.suites.size(); ++j) {
      suites.push_back(suite_json(stage.suites[j], analysis.figures[i][j], i == 0, detail,
                                  evaluation.reference));
    }
    Json entry{{"name", stage.name}, {"model", stage.model.string()}};
    if (stage.adapters.size() == 1) {
      entry["adapter"] = stage.adapters.front().string();
    } else if (!stage.adapters.empty()) {
      entry["adapter"] = Json::array();
      for (const auto& adapter : stage.adapters) entry["adapter"].push_back(adapter.string());
    }
    if (!stage.quantise.empty()) entry["quantise"] = stage.quantise;
    entry["seconds"] = json_number(stage.seconds);
    entry["suites"] = suites;
    if (!analysis.languages[i].empty()) entry["languages"] = languages_json(analysis.languages[i]);
    stages.push_back(entry);
  }
  Json settings{{"sequence_len", evaluation.sequence_len},
                {"dtype", evaluation.dtype},
                {"reference", evaluation.reference},
                {"bootstrap",
                 {{"resamples", options.resamples},
                  {"permutations", options.permutations},
                  {"seed", options.seed},
                  {"confidence", options.confidence}}},
                {"weft", core::kVersion}};
  if (evaluation.decoding) {
    settings["generate"] = {{"max_tokens", evaluation.decoding->max_tokens},
                            {"repetition_penalty", evaluation.decoding->repetition_penalty}};
    if (!evaluation.decoding->stop.empty())
      settings["generate"]["stop"] = evaluation.decoding->stop;
  }
  Json json{{"stages", stages}};
  if (!analysis.comparisons.empty())
    json["comparisons"] = comparisons_json(evaluation, analysis, options);
  if (!analysis.notes.empty()) json["notes"] = analysis.notes;
  json["settings"] = settings;
  return json;
}

std::string to_table(const Evaluation& evaluation, const Analysis& analysis,
                     const BootstrapOptions& options) {
  if (evaluation.stages.empty()) return {};
  std::string text;
  const auto add_suite = [&](const SuiteResult& first) {
    core::Table table(header_of(first));
    for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
      const StageResult& stage = evaluation.stages[i];
      for (std::size_t j = 0; j < stage.suites.size(); ++j) {
        if (stage.suites[j].name == first.name)
          table.add(table_row(first, stage.name, analysis.figures[i][j]));
      }
    }
    if (!text.empty()) text += '\n';
    text += suite_heading(first, options) + '\n' + table.text();
    for (const Comparison& comparison : analysis.comparisons) {
      if (comparison.suite == first.name && is_worth_telling(evaluation, comparison))
        text += "  " + sentence(evaluation, comparison, options) + '\n';
    }
    const std::string distances = distribution_table(evaluation, analysis, first.name);
    if (!distances.empty())
      text +=
          fmt::format("distance from {} in nats per token\n{}", evaluation.reference, distances);
  };
  // What must be kept is shown apart, after what was to be learned.
  for (const bool must_keep : {false, true}) {
    for (const SuiteResult& first : evaluation.stages.front().suites) {
      if (first.labels.must_keep == must_keep) add_suite(first);
    }
  }
  const std::string languages = languages_table(evaluation, analysis);
  if (!languages.empty()) text += "\nby language (mean of its suites)\n" + languages;
  if (!analysis.notes.empty()) text += '\n';
  for (const std::string& note : analysis.notes) text += "note: " + note + '\n';
  return text;
}

std::string to_samples(const Evaluation& evaluation, std::int64_t count) {
  if (evaluation.stages.empty()) return {};
  std::size_t width = std::string_view("reference").size();
  for (const StageResult& stage : evaluation.stages) width = std::max(width, stage.name.size());
  std::string text;
  const auto line = [&](std::string_view who, std::string_view what) {
    text += fmt::format("  {:<{}}  {}\n", who, width, core::one_line(what));
  };
  for (const SuiteResult& first : evaluation.stages.front().suites) {
    for (const std::size_t index : spread(first.generations.size(), count)) {
      const Generation& sample = first.generations[index];
      if (!text.empty()) text += '\n';
      line("prompt", sample.prompt);
      for (const std::string& reference : references_of(sample)) line("reference", reference);
      for (const StageResult& stage : evaluation.stages) {
        const SuiteResult* suite = suite_named(stage, first.name);
        if (suite == nullptr || index >= suite->generations.size()) continue;
        line(stage.name, suite->generations[index].output);
      }
    }
  }
  return text;
}

}  // namespace weft::eval
