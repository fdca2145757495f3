#include "eval/report/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/report/compare.h"
#include "eval/report/html.h"
#include "eval/report/page.h"
#include "eval/report/run_facts.h"
#include "eval/statistics/figures.h"

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
std::string main_cell(const Reported& reported, const Line& line) {
  const Evaluation& evaluation = reported.recorded.evaluation;
  for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
    const StageResult& stage = evaluation.stages[i];
    const SuiteResult* suite = stage.name == line.stage ? suite_named(stage, line.suite) : nullptr;
    if (suite == nullptr) continue;
    const auto place = static_cast<std::size_t>(suite - stage.suites.data());
    const Measured* measured =
        figure_named(reported.analysis.figures[i][place], main_figure(*suite));
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
      rows += table_cell(evaluation.name, main_cell(evaluation, line));
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

/// The first and the last update of a training run: those between are in its curves.
Reported ends_of(const Reported& reported) {
  const Evaluation& evaluation = reported.recorded.evaluation;
  const std::size_t last = evaluation.stages.size() - 1;
  if (!is_of_training(evaluation) || last < 2) return reported;
  Reported ends = reported;
  ends.recorded.evaluation.stages = {evaluation.stages.front(), evaluation.stages.back()};
  ends.analysis.figures = {reported.analysis.figures.front(), reported.analysis.figures.back()};
  ends.analysis.languages = {reported.analysis.languages.front(),
                             reported.analysis.languages.back()};
  std::erase_if(ends.analysis.comparisons,
                [&](const Comparison& comparison) { return comparison.stage != last; });
  for (Comparison& comparison : ends.analysis.comparisons) comparison.stage = 1;
  return ends;
}

/// The run with the intervals that the ledger has of its suites.
TrainingRun with_intervals(TrainingRun run, std::span<const Reported> evaluations) {
  for (const Reported& reported : evaluations) {
    const Evaluation& evaluation = reported.recorded.evaluation;
    if (reported.recorded.circumstances.run != run.folder.string() || !is_of_training(evaluation))
      continue;
    for (SuiteCurve& curve : run.suites) {
      for (ChartPoint& point : curve.series.points) {
        for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
          const StageResult& stage = evaluation.stages[i];
          const SuiteResult* suite = suite_named(stage, curve.suite);
          if (suite == nullptr || static_cast<double>(*update_of(stage.name)) != point.x) continue;
          const auto place = static_cast<std::size_t>(suite - stage.suites.data());
          const Measured* measured =
              figure_named(reported.analysis.figures[i][place], curve.figure);
          if (measured != nullptr && measured->figure.value == point.y)
            point.interval = measured->figure.interval;
        }
      }
    }
  }
  return run;
}

std::string facts_list(const RunFacts::Lines& lines) {
  std::string text = "<dl>\n";
  for (const auto& [name, value] : lines)
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(name), escaped(value));
  return text + "</dl>\n";
}

/// What the runs were made of.
std::string facts_section(std::span<const TrainingRun> runs) {
  std::string text;
  for (const TrainingRun& run : runs) {
    const RunFacts facts = read_run_facts(run.folder);
    if (!facts.made_of.empty())
      text += fmt::format("<h3>{}: made of</h3>\n", escaped(run.name)) + facts_list(facts.made_of);
    if (!facts.digests.empty())
      text += fmt::format("<h3>{}: SHA-256 and program</h3>\n", escaped(run.name)) +
              facts_list(facts.digests);
  }
  return text.empty() ? text : "<section><h2>The run</h2>\n" + text + "</section>\n";
}

}  // namespace

Reported::Reported(std::string called, Recorded what)
    : name(std::move(called)),
      recorded(std::move(what)),
      analysis(analyse(recorded.evaluation, recorded.bootstrap)) {}

std::string report_page(const ReportParts& parts) {
  const auto& evaluations = parts.evaluations;
  std::vector<TrainingRun> runs;
  for (const TrainingRun& run : parts.runs) runs.push_back(with_intervals(run, evaluations));
  std::string text;
  if (evaluations.size() > 1) {
    text += "<section><h2>Side by side</h2>\n" + side_by_side(evaluations);
    for (std::size_t i = 1; i < evaluations.size(); ++i)
      text += changes_since(evaluations.front(), evaluations[i]);
    text += "</section>\n";
  }
  // One evaluation comes first, with its headline; of several the comparison does.
  if (evaluations.size() != 1) text += training_section(runs);
  for (const Reported& whole : evaluations) {
    const Reported evaluation = ends_of(whole);
    const Recorded& recorded = evaluation.recorded;
    const Circumstances& c = recorded.circumstances;
    if (evaluations.size() > 1) text += fmt::format("<h2>{}</h2>\n", escaped(evaluation.name));
    text += fmt::format("<p class=\"soft\">{}, recorded {} by {}, {} threads, {}.</p>\n",
                        escaped(c.name), escaped(c.recorded_at), escaped(c.program), c.threads,
                        escaped(c.machine));
    if (is_of_training(whole.recorded.evaluation) && whole.recorded.evaluation.stages.size() > 2)
      text +=
          "<p class=\"soft\">The first and the last update; the curves have those between.</p>\n";
    text += to_sections(recorded.evaluation, evaluation.analysis, recorded.gates,
                        {.examples = parts.examples, .bootstrap = recorded.bootstrap});
  }
  if (evaluations.size() == 1) text += training_section(runs);
  text += facts_section(runs);
  return page(title_of(parts), text);
}

}  // namespace weft::eval
