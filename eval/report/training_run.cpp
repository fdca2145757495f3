#include "eval/report/training_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/file.h"
#include "eval/report/page.h"
#include "eval/statistics/figures.h"

namespace weft::eval {
namespace {

namespace fs = std::filesystem;

void add(ChartSeries& series, const nlohmann::json& entry, const char* key) {
  if (entry.contains(key) && entry[key].is_number())
    series.points.push_back({entry["update"].get<double>(), entry[key].get<double>(), {}});
}

/// A line of `evaluate:`: {"suites": {SUITE: {FIGURE: number}}}.
void add_suites(std::vector<SuiteCurve>& curves, const std::string& run,
                const nlohmann::json& entry) {
  if (!entry.contains("suites") || !entry["suites"].is_object()) return;
  for (const auto& [suite, figures] : entry["suites"].items()) {
    if (!figures.is_object()) continue;
    for (const auto& [figure, value] : figures.items()) {
      if (!value.is_number()) continue;
      auto found = std::ranges::find_if(curves, [&](const SuiteCurve& curve) {
        return curve.figure == figure && curve.suite == suite;
      });
      if (found == curves.end()) {
        curves.push_back({.figure = figure, .suite = suite, .series = {}});
        found = curves.end() - 1;
        found->series.name = fmt::format("{}, {}", run, suite);
        found->series.dots = true;
      }
      found->series.points.push_back({entry["update"].get<double>(), value.get<double>(), {}});
    }
  }
}

void read_curves(const fs::path& file, TrainingRun& run) {
  std::istringstream lines(core::read_text(file));
  std::int64_t number = 0;
  for (std::string line; std::getline(lines, line) && !lines.eof();) {
    ++number;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const nlohmann::json entry = checkpoint::parse_json(line, where);
    if (!entry.is_object() || !entry.contains("update") || !entry["update"].is_number())
      throw InputError("{}: expected an object with a number 'update'", where);
    add(run.loss, entry, "loss");
    add(run.validation, entry, "validation_loss");
    add(run.learning_rate, entry, "learning_rate");
    add_suites(run.suites, run.name, entry);
  }
}

/// At most `count` means of neighbours: losses of single updates jump.
ChartSeries smoothed(const ChartSeries& series, std::size_t count) {
  ChartSeries result{.name = series.name, .points = {}};
  const std::size_t width = (series.points.size() + count - 1) / count;
  for (std::size_t i = 0; i < series.points.size(); i += width) {
    const std::size_t end = std::min(i + width, series.points.size());
    ChartPoint mean{};
    for (std::size_t j = i; j < end; ++j) {
      mean.x += series.points[j].x;
      mean.y += series.points[j].y;
    }
    const auto number = static_cast<double>(end - i);
    result.points.push_back({mean.x / number, mean.y / number, {}});
  }
  return result;
}

/// Enough of a text to be recognised, not cut within a character.
std::string beginning(const std::string& text) {
  constexpr std::size_t kLongest = 600;
  if (text.size() <= kLongest) return text;
  std::size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + " [...]";
}

/// One part of preflight.json, "training" or "validation", as a line.
std::string findings(const nlohmann::json& part) {
  const auto whole = [&](const char* key) {
    return part.contains(key) && part[key].is_number() ? part[key].get<std::int64_t>() : 0;
  };
  std::string text = fmt::format(
      "{} examples of {} rows, {} tokens, {} of them supervised, the longest {}", whole("examples"),
      whole("rows"), whole("tokens"), whole("supervised_tokens"), whole("longest"));
  constexpr std::pair<const char*, const char*> kFindings[] = {
      {"bad_rows", "rows that cannot be used"},
      {"duplicates", "duplicates"},
      {"truncated", "cut"},
      {"dropped", "left out"},
      {"split", "split"},
      {"answerless", "without an answer"},
      {"doubled_bos", "with a doubled BOS"}};
  for (const auto& [key, words] : kFindings) {
    if (whole(key) > 0) text += fmt::format("; {} {}", whole(key), words);
  }
  for (const char* list : {"faults", "violations"}) {
    if (!part.contains(list) || !part[list].is_array()) continue;
    for (const nlohmann::json& entry : part[list]) {
      text += '\n';
      text += entry.is_string()
                  ? entry.get<std::string>()
                  : entry.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    }
  }
  return text;
}

std::string preflight_list(const TrainingRun& run) {
  if (!run.preflight.is_object()) return {};
  std::string text;
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(what), escaped(value));
  };
  for (const char* part : {"training", "validation"}) {
    if (run.preflight.contains(part) && run.preflight[part].is_object())
      line(part, findings(run.preflight[part]));
  }
  const nlohmann::json& training = run.preflight.value("training", nlohmann::json::object());
  if (training.contains("sample") && training["sample"].is_string())
    line("an example", beginning(training["sample"].get<std::string>()));
  if (text.empty()) return {};
  return fmt::format("<h3>{}: before the first update</h3>\n<dl>\n{}</dl>\n", escaped(run.name),
                     text);
}

/// A chart for each figure that a reader judges by, with every suite of every run in it.
std::string suite_charts(std::span<const TrainingRun> runs) {
  std::string charts;
  for (const FigureKind& kind : figure_kinds()) {
    if (kind.name == "loss" || kind.name == "perplexity") continue;  // bits per byte says the same
    std::vector<ChartSeries> series;
    for (const TrainingRun& run : runs) {
      for (const SuiteCurve& curve : run.suites) {
        if (curve.figure == kind.name) series.push_back(curve.series);
      }
    }
    if (series.empty()) continue;
    charts += html_chart(series, {.title = fmt::format("Suites: {}", kind.title),
                                  .x_label = "updates",
                                  .note = kind.better > 0 ? "more is better" : "less is better"});
  }
  return charts;
}

}  // namespace

bool is_training_run(const fs::path& folder) {
  std::error_code ignored;
  return fs::is_regular_file(folder / "metrics.jsonl", ignored);
}

TrainingRun read_training_run(const fs::path& folder, const std::string& name) {
  if (!is_training_run(folder)) {
    throw InputError("'{}' is no folder of a training run: it has no metrics.jsonl",
                     folder.string());
  }
  TrainingRun run;
  run.folder = fs::weakly_canonical(folder);
  run.name = name.empty() ? run.folder.filename().string() : name;
  run.loss.name = fmt::format("{}, training", run.name);
  run.validation.name = fmt::format("{}, validation", run.name);
  run.validation.dots = true;
  run.learning_rate.name = run.name;
  read_curves(folder / "metrics.jsonl", run);
  std::error_code ignored;
  if (fs::exists(folder / "preflight.json", ignored))
    run.preflight = checkpoint::read_json_object(folder / "preflight.json");
  return run;
}

std::string training_section(std::span<const TrainingRun> runs) {
  constexpr std::size_t kPoints = 200;
  std::vector<ChartSeries> losses, rates;
  std::string lists;
  for (const TrainingRun& run : runs) {
    if (!run.loss.points.empty()) losses.push_back(smoothed(run.loss, kPoints));
    if (!run.validation.points.empty()) losses.push_back(run.validation);
    if (!run.learning_rate.points.empty()) rates.push_back(smoothed(run.learning_rate, kPoints));
    lists += preflight_list(run);
  }
  const std::string curves =
      html_chart(losses, {.title = "Loss",
                          .x_label = "updates",
                          .note = "nats per supervised token, less is better"}) +
      suite_charts(runs) + html_chart(rates, {.title = "Learning rate", .x_label = "updates"});
  if (curves.empty() && lists.empty()) return {};
  return "<section><h2>Training</h2>\n" + curves + lists + "</section>\n";
}

}  // namespace weft::eval
