#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/terminal.h"
#include "core/version.h"
#include "eval/figures.h"
#include "eval/spread.h"

namespace weft::eval {
namespace {

using Json = nlohmann::ordered_json;

const char* word(SuiteKind kind) { return kind == SuiteKind::kText ? "text" : "instruction"; }

const char* word(Unit unit) {
  switch (unit) {
    case Unit::kDocument: return "document";
    case Unit::kWindow: return "window";
    case Unit::kExample: return "example";
  }
  return "";
}

// JSON has no NaN and no infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json bounds(const std::optional<Interval>& interval) {
  return interval ? Json{number(interval->low), number(interval->high)} : Json(nullptr);
}

const SuiteResult* suite_named(const StageResult& stage, const std::string& name) {
  for (const SuiteResult& suite : stage.suites) {
    if (suite.name == name) return &suite;
  }
  return nullptr;
}

std::int64_t total(const SuiteResult& suite, std::int64_t Item::*member) {
  std::int64_t sum = 0;
  for (const Item& item : suite.items) sum += item.*member;
  return sum;
}

Json items_json(const SuiteResult& suite) {
  Json tokens = Json::array(), bytes = Json::array(), loss = Json::array();
  for (const Item& item : suite.items) {
    tokens.push_back(item.tokens);
    bytes.push_back(item.bytes);
    loss.push_back(number(item.loss));
  }
  return {{"tokens", tokens}, {"bytes", bytes}, {"loss", loss}};
}

Json generations_json(const SuiteResult& suite) {
  Json all = Json::array();
  for (const Generation& generation : suite.generations) {
    all.push_back({{"prompt", generation.prompt},
                   {"reference", generation.reference},
                   {"output", generation.output},
                   {"chrf", number(chrf_score(generation.chrf, kChrf))},
                   {"chrf++", number(chrf_score(generation.chrf_plus_plus, kChrfPlusPlus))}});
  }
  return all;
}

Json suite_json(const SuiteResult& suite, const SuiteResult* first, Detail detail,
                const BootstrapOptions& options) {
  Json json{{"name", suite.name},
            {"kind", word(suite.kind)},
            {"tokens", total(suite, &Item::tokens)},
            {"bytes", total(suite, &Item::bytes)}};
  Json intervals = Json::object(), differences = Json::object();
  for (const Measured& measured : measure(suite, first, options)) {
    const std::string name(measured.name);
    json[name] = number(measured.figure.value);
    intervals[name] = bounds(measured.figure.interval);
    if (!measured.difference) continue;
    differences[name] = {{"value", number(measured.difference->value)},
                         {"interval", bounds(measured.difference->interval)},
                         {"relative", number(measured.relative->value)},
                         {"relative_interval", bounds(measured.relative->interval)}};
  }
  json["unit"] = word(suite.unit);
  json["units"] = suite.items.size();
  json["intervals"] = intervals;
  if (first != nullptr) json["differences"] = differences;
  if (!suite.generations.empty()) json["generated"] = suite.generations.size();
  if (detail == Detail::kItems) {
    json["items"] = items_json(suite);
    if (!suite.generations.empty()) json["generations"] = generations_json(suite);
  }
  return json;
}

// Control characters would break the layout, or the terminal.
std::string one_line(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  return line;
}

std::string percent(double share) { return fmt::format("{:+.1f} %", 100 * share); }

std::vector<std::string> table_row(const StageResult& stage, const std::vector<Measured>& figures) {
  std::vector<std::string> row{stage.name};
  for (const Measured& measured : figures) {
    const double value = measured.figure.value;
    if (measured.name == "loss") row.push_back(fmt::format("{:.4f}", value));
    if (measured.name == "perplexity") row.push_back(fmt::format("{:.2f}", value));
    if (measured.name == "chrf" || measured.name == "chrf++") {
      row.push_back(fmt::format("{:.2f}", value));
    }
    if (measured.name != "bits_per_byte") continue;
    row.push_back(fmt::format("{:.4f}", value));
    const auto& spread = measured.figure.interval;
    row.push_back(spread ? fmt::format("{:.3f} .. {:.3f}", spread->low, spread->high) : "-");
    if (!measured.relative) {
      row.emplace_back("-");
    } else if (const auto& range = measured.relative->interval) {
      row.push_back(fmt::format("{} ({} .. {})", percent(measured.relative->value),
                                percent(range->low), percent(range->high)));
    } else {
      row.push_back(percent(measured.relative->value));
    }
  }
  return row;
}

std::string heading(const SuiteResult& suite, const BootstrapOptions& options) {
  const std::size_t units = suite.items.size();
  std::string line =
      fmt::format("{}: {} {}{}, {} tokens, {} bytes", suite.name, units, word(suite.unit),
                  units == 1 ? "" : "s", total(suite, &Item::tokens), total(suite, &Item::bytes));
  if (units > 1) {
    line += fmt::format("; {:g} % intervals by bootstrap over {}s", 100 * options.confidence,
                        word(suite.unit));
  }
  if (!suite.generations.empty()) {
    line += fmt::format("; chrF of {} generated answers", suite.generations.size());
  }
  return line;
}

}  // namespace

nlohmann::ordered_json to_json(const Evaluation& evaluation, Detail detail,
                               const BootstrapOptions& options) {
  Json stages = Json::array();
  for (const StageResult& stage : evaluation.stages) {
    const bool is_first = &stage == &evaluation.stages.front();
    Json suites = Json::array();
    for (const SuiteResult& suite : stage.suites) {
      const SuiteResult* first =
          is_first ? nullptr : suite_named(evaluation.stages.front(), suite.name);
      suites.push_back(suite_json(suite, first, detail, options));
    }
    Json entry{{"name", stage.name}, {"model", stage.model.string()}};
    if (stage.adapters.size() == 1) {
      entry["adapter"] = stage.adapters.front().string();
    } else if (!stage.adapters.empty()) {
      entry["adapter"] = Json::array();
      for (const auto& adapter : stage.adapters) entry["adapter"].push_back(adapter.string());
    }
    entry["seconds"] = number(stage.seconds);
    entry["suites"] = suites;
    stages.push_back(entry);
  }
  Json settings{{"sequence_len", evaluation.sequence_len},
                {"dtype", evaluation.dtype},
                {"bootstrap",
                 {{"resamples", options.resamples},
                  {"seed", options.seed},
                  {"confidence", options.confidence}}},
                {"chrf", "nc:6 nw:0 (chrf) or nw:2 (chrf++), beta:2, mixed case, effective order"},
                {"weft", core::kVersion}};
  if (evaluation.decoding) {
    settings["generate"] = {{"max_tokens", evaluation.decoding->max_tokens},
                            {"repetition_penalty", evaluation.decoding->repetition_penalty}};
  }
  return {{"stages", stages}, {"settings", settings}};
}

std::string to_table(const Evaluation& evaluation, const BootstrapOptions& options) {
  std::string text;
  if (evaluation.stages.empty()) return text;
  const StageResult& first_stage = evaluation.stages.front();
  for (const SuiteResult& first : first_stage.suites) {
    std::vector<std::string> header{"stage",     "loss",     "perplexity",
                                    "bits/byte", "interval", "change of bits/byte"};
    if (!first.generations.empty()) header.insert(header.end(), {"chrF", "chrF++"});
    core::Table table(header);
    for (const StageResult& stage : evaluation.stages) {
      const SuiteResult* suite = suite_named(stage, first.name);
      if (suite == nullptr) continue;
      table.add(
          table_row(stage, measure(*suite, &stage == &first_stage ? nullptr : &first, options)));
    }
    if (!text.empty()) text += '\n';
    text += heading(first, options) + '\n' + table.text();
  }
  return text;
}

std::string to_samples(const Evaluation& evaluation, std::int64_t count) {
  if (evaluation.stages.empty()) return {};
  std::size_t width = std::string_view("reference").size();
  for (const StageResult& stage : evaluation.stages) width = std::max(width, stage.name.size());
  std::string text;
  const auto line = [&](std::string_view who, std::string_view what) {
    text += fmt::format("  {:<{}}  {}\n", who, width, one_line(what));
  };
  for (const SuiteResult& first : evaluation.stages.front().suites) {
    for (const std::size_t index : spread(first.generations.size(), count)) {
      const Generation& sample = first.generations[index];
      if (!text.empty()) text += '\n';
      line("prompt", sample.prompt);
      line("reference", sample.reference);
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
