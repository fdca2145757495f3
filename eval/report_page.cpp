#include "eval/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/compare.h"
#include "eval/figures.h"
#include "eval/html.h"
#include "eval/page.h"

namespace weft::eval {
namespace {

/// A stage on a suite, as many evaluations have it.
struct Line {
  std::string suite, stage;
};

std::vector<Line> lines_of(std::span<const Reported> evaluations) {
  std::vector<Line> lines;
  for (const Reported& evaluation : evaluations) {
    for (const StageResult& stage : evaluation.recorded.evaluation.stages) {
      for (const SuiteResult& suite : stage.suites) {
        const bool known = std::ranges::any_of(lines, [&](const Line& line) {
          return line.suite == suite.name && line.stage == stage.name;
        });
        if (!known) lines.push_back({suite.name, stage.name});
      }
    }
  }
  std::ranges::stable_sort(lines, {}, &Line::suite);
  return lines;
}

/// The main figure with its interval, where the evaluation has it.
std::string main_cell(const Recorded& recorded, const Line& line) {
  for (const StageResult& stage : recorded.evaluation.stages) {
    const SuiteResult* suite = stage.name == line.stage ? suite_named(stage, line.suite) : nullptr;
    if (suite == nullptr) continue;
    const std::vector<Measured> figures = measure(*suite, nullptr, recorded.bootstrap);
    const Measured* measured = figure_named(figures, main_figure(*suite));
    if (measured == nullptr || !std::isfinite(measured->figure.value)) break;
    std::string text = fmt::format("{:.4f}", measured->figure.value);
    if (const auto& range = measured->figure.interval)
      text +=
          fmt::format("<br><span class=\"soft\">{:.4f} .. {:.4f}</span>", range->low, range->high);
    return text;
  }
  return "-";
}

std::string side_by_side(std::span<const Reported> evaluations) {
  std::string rows = "<thead><tr><th scope=\"col\">suite</th><th scope=\"col\">stage</th>";
  for (const Reported& evaluation : evaluations)
    rows += fmt::format("<th scope=\"col\" class=\"number\">{}</th>", escaped(evaluation.name));
  rows += "</tr></thead><tbody>\n";
  for (const Line& line : lines_of(evaluations)) {
    rows += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td>", escaped(line.suite),
                        escaped(line.stage));
    for (const Reported& evaluation : evaluations)
      rows += fmt::format("<td class=\"number\">{}</td>", main_cell(evaluation.recorded, line));
    rows += "</tr>\n";
  }
  return "<p class=\"soft\">Accuracy of multiple choice, else bits per byte.</p>\n" +
         wide_table("evaluations side by side", rows + "</tbody>");
}

/// What is not the same any more from the first evaluation to another.
std::string changes_since(const Reported& first, const Reported& other) {
  const Changes changes = compare(first.recorded, other.recorded);
  std::string text =
      fmt::format("<h3>{} since {}</h3>\n<ul>\n", escaped(other.name), escaped(first.name));
  const auto line = [&](const std::string& words) {
    text += fmt::format("<li>{}</li>\n", escaped(words));
  };
  int same = 0;
  for (const SuiteChange& change : changes.suites) {
    switch (verdict(changes, change)) {
      case Verdict::kSame: ++same; break;
      case Verdict::kDrift:
      case Verdict::kRounding:
        line(fmt::format("{}, {}: the same inputs gave other numbers{}, first {} of item {}",
                         change.stage, change.suite,
                         verdict(changes, change) == Verdict::kDrift ? " (drift)" : "",
                         change.first->what, change.first->item));
        break;
      case Verdict::kChanged:
        if (!change.sentence.empty()) line(change.sentence);
        break;
    }
  }
  if (same > 0)
    line(fmt::format("{} of {} results are the same to the bit", same, changes.suites.size()));
  for (const std::string& words : changes.circumstances) line("other circumstances: " + words);
  for (const std::string& words : changes.only_later) line("new: " + words);
  for (const std::string& words : changes.only_earlier) line("no longer measured: " + words);
  return text + "</ul>\n";
}

std::string title_of(const ReportParts& parts) {
  std::string title;
  for (const Reported& evaluation : parts.evaluations)
    title += (title.empty() ? "" : ", ") + evaluation.name;
  for (const TrainingRun& run : parts.runs) {
    if (title.find(run.name) == std::string::npos) title += (title.empty() ? "" : ", ") + run.name;
  }
  return title;
}

}  // namespace

std::string report_page(const ReportParts& parts) {
  const auto& evaluations = parts.evaluations;
  std::string text;
  if (evaluations.size() > 1) {
    text += "<section><h2>Side by side</h2>\n" + side_by_side(evaluations);
    for (std::size_t i = 1; i < evaluations.size(); ++i)
      text += changes_since(evaluations.front(), evaluations[i]);
    text += "</section>\n";
  }
  text += training_section(parts.runs);
  for (const Reported& evaluation : evaluations) {
    const Recorded& recorded = evaluation.recorded;
    const Circumstances& c = recorded.circumstances;
    if (evaluations.size() > 1) text += fmt::format("<h2>{}</h2>\n", escaped(evaluation.name));
    text += fmt::format("<p class=\"soft\">{}, recorded {} by {}, {} threads, {}.</p>\n",
                        escaped(c.name), escaped(c.recorded_at), escaped(c.program), c.threads,
                        escaped(c.machine));
    text += to_sections(recorded.evaluation, recorded.gates,
                        {.examples = parts.examples, .bootstrap = recorded.bootstrap});
  }
  return page(title_of(parts), text);
}

}  // namespace weft::eval
