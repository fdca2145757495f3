#include "eval/report/html_suite.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "eval/report/chart.h"
#include "eval/report/page.h"
#include "eval/report/sentences.h"
#include "eval/report/tables.h"
#include "eval/statistics/languages.h"
#include "eval/statistics/spread.h"

namespace weft::eval {
namespace {

constexpr std::size_t kSourcesShown = 12;
constexpr std::size_t kWeakestShown = 3;

std::string range_text(const std::optional<Interval>& range, int digits) {
  return range ? fmt::format("{:.{}f} .. {:.{}f}", range->low, digits, range->high, digits) : "-";
}

/// A stage's figures on one suite.
struct StageFigures {
  std::string stage;
  const SuiteResult* suite = nullptr;
  const std::vector<Measured>* figures = nullptr;
};

std::vector<StageFigures> stages_of(const Evaluation& evaluation, const Analysis& analysis,
                                    std::string_view name) {
  std::vector<StageFigures> found;
  for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
    const StageResult& stage = evaluation.stages[i];
    for (std::size_t j = 0; j < stage.suites.size(); ++j) {
      if (stage.suites[j].name == name)
        found.push_back({stage.name, &stage.suites[j], &analysis.figures[i][j]});
    }
  }
  return found;
}

std::string main_ladder(const std::vector<StageFigures>& stages, const SuiteResult& first) {
  const std::string_view name = main_figure(first);
  std::vector<Rung> rungs;
  for (const StageFigures& stage : stages) {
    if (const Measured* measured = figure_named(*stage.figures, name))
      rungs.push_back({stage.stage, measured->figure});
  }
  return html_ladder(rungs, *figure_kind(name), first.name);
}

/// The figures that any stage has, in the order in which they are shown.
std::vector<const FigureKind*> columns_of(const std::vector<StageFigures>& stages) {
  std::vector<const FigureKind*> columns;
  for (const FigureKind& kind : figure_kinds()) {
    if (std::ranges::any_of(stages, [&](const StageFigures& stage) {
          return figure_named(*stage.figures, kind.name) != nullptr;
        })) {
      columns.push_back(&kind);
    }
  }
  return columns;
}

std::string head_of(std::string_view first, std::span<const std::string> columns) {
  std::string text = fmt::format("<thead><tr><th scope=\"col\">{}</th>", first);
  for (const std::string& column : columns)
    text += fmt::format("<th scope=\"col\" class=\"number\">{}</th>", escaped(column));
  return text + "</tr></thead><tbody>\n";
}

/// A line per figure, a column per stage: the page is long, not wide. Many stages are several
/// tables.
std::string figures_table(const std::vector<StageFigures>& stages, std::string_view suite) {
  constexpr std::size_t kColumns = 5;
  const std::vector<const FigureKind*> kinds = columns_of(stages);
  std::string tables;
  for (std::size_t begin = 0; begin < stages.size(); begin += kColumns) {
    const auto part = std::span(stages).subspan(begin, std::min(kColumns, stages.size() - begin));
    std::vector<std::string> names;
    for (const StageFigures& stage : part) names.push_back(stage.stage);
    std::string text = head_of("figure", names);
    for (const FigureKind* kind : kinds) {
      text += fmt::format("<tr><th scope=\"row\">{}</th>", escaped(kind->title));
      for (const StageFigures& stage : part) {
        const Measured* measured = figure_named(*stage.figures, kind->name);
        text += table_cell(
            stage.stage,
            measured == nullptr
                ? "-"
                : fmt::format("{:.{}f}<br><span class=\"soft\">{}</span>", measured->figure.value,
                              kind->digits, range_text(measured->figure.interval, kind->digits)));
      }
      text += "</tr>\n";
    }
    tables += wide_table(fmt::format("figures of {}", suite), text + "</tbody>");
  }
  return tables;
}

std::string sentences(const Evaluation& evaluation, const Analysis& analysis,
                      std::string_view suite, const BootstrapOptions& options) {
  std::string text;
  for (const Comparison& comparison : analysis.comparisons) {
    if (comparison.suite == suite && is_worth_telling(evaluation, comparison))
      text += fmt::format("<li>{}</li>\n", escaped(sentence(evaluation, comparison, options)));
  }
  return text.empty() ? text : "<ul class=\"said\">\n" + text + "</ul>\n";
}

/// Of each source document the main figure in every stage; of many, those that changed most.
std::string sources(const std::vector<StageFigures>& stages, const SuiteResult& first) {
  std::vector<std::vector<SourceFigure>> figures;
  std::vector<std::string> names;
  for (const StageFigures& stage : stages) {
    figures.push_back(source_figures(*stage.suite));
    names.push_back(stage.stage);
    if (figures.back().size() != figures.front().size()) return {};
  }
  if (figures.empty() || figures.front().size() < 2) return {};
  std::vector<std::size_t> order(figures.front().size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto change = [&](std::size_t i) {
    return std::abs(figures.back()[i].value - figures.front()[i].value);
  };
  std::ranges::stable_sort(order, std::greater<>{}, change);
  order.resize(std::min(order.size(), kSourcesShown));
  const FigureKind& kind = *figure_kind(main_figure(first));
  std::string text = head_of("document", names);
  for (const std::size_t i : order) {
    text +=
        fmt::format("<tr><th scope=\"row\" dir=\"auto\">{} <span class=\"soft\">({})</span></th>",
                    escaped(figures.front()[i].source), figures.front()[i].items);
    for (std::size_t k = 0; k < figures.size(); ++k)
      text += table_cell(names[k], fmt::format("{:.{}f}", figures[k][i].value, kind.digits));
    text += "</tr>\n";
  }
  return fmt::format(
             "<h3>By source document</h3>\n<p class=\"soft\">{}{}; items in brackets.</p>\n",
             kind.title,
             figures.front().size() > order.size()
                 ? fmt::format(", the {} documents of {} that changed most", order.size(),
                               figures.front().size())
                 : "") +
         wide_table("source documents", text + "</tbody>");
}

/// Empty lines, of which a model that has lost its way writes screenfuls, as their number.
std::string without_empty_lines(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find_first_not_of(" \t\r\n", at), text.size());
    const std::string_view space = text.substr(at, end - at);
    const auto lines = std::ranges::count(space, '\n');
    const bool at_edge = at == 0 || end == text.size();
    if (lines > 2 || (lines > 0 && at_edge && lines + (at == 0 ? 0 : -1) > 0)) {
      result += fmt::format("{}[{} empty lines]{}", at == 0 ? "" : "\n", lines - (at == 0 ? 0 : 1),
                            end == text.size() ? "" : "\n");
    } else {
      result += space;
    }
    const std::size_t next = std::min(text.find_first_of(" \t\r\n", end), text.size());
    result += text.substr(end, next - end);
    at = next;
  }
  return result;
}

std::string marked(std::string_view output, std::string_view reference) {
  if (output.empty()) return "<span class=\"soft\">[empty]</span>";
  std::string text;
  for (const DiffPart& part : answer_diff(output, reference)) {
    text += part.common ? escaped(part.text) : "<mark>" + escaped(part.text) + "</mark>";
  }
  return text;
}

std::string answer(const std::vector<StageFigures>& stages, std::size_t index) {
  std::string text = "<dl>\n";
  const auto line = [&](std::string_view who, std::string_view html) {
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(who), html);
  };
  const Generation& sample = stages.front().suite->generations[index];
  line("prompt", escaped(without_empty_lines(sample.prompt)));
  const std::string reference = without_empty_lines(sample.reference);
  line("reference", escaped(reference));
  for (const std::string& more : sample.more_references)
    line("or", escaped(without_empty_lines(more)));
  for (const StageFigures& stage : stages) {
    if (index >= stage.suite->generations.size()) continue;
    const Generation& written = stage.suite->generations[index];
    line(fmt::format("{} (chrF {:.0f})", stage.stage, chrf_score(written.chrf, kChrf)),
         marked(without_empty_lines(written.output), reference));
  }
  return text + "</dl>\n";
}

/// The answers of the last stage with the lowest chrF, of those that are not shown already.
std::vector<std::size_t> weakest(const std::vector<StageFigures>& stages,
                                 std::span<const std::size_t> shown) {
  const std::vector<Generation>& last = stages.back().suite->generations;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < last.size(); ++i) {
    if (std::ranges::find(shown, i) == shown.end()) order.push_back(i);
  }
  std::ranges::stable_sort(order, {},
                           [&](std::size_t i) { return chrf_score(last[i].chrf, kChrf); });
  order.resize(std::min(order.size(), kWeakestShown));
  return order;
}

std::string answers(const std::vector<StageFigures>& stages, std::int64_t count) {
  const std::size_t made = stages.front().suite->generations.size();
  if (made == 0 || count < 1) return {};
  std::string text =
      "<h3>Answers</h3>\n<p class=\"soft\">Marked: what the reference does not have in this order, "
      "by "
      "characters where the texts are alike, else by words.</p>\n";
  const std::vector<std::size_t> shown = spread(made, count);
  for (const std::size_t index : shown) text += answer(stages, index);
  const std::vector<std::size_t> worst = weakest(stages, shown);
  if (!worst.empty()) text += "<h3>Weakest other answers of the last stage</h3>\n";
  for (const std::size_t index : worst) text += answer(stages, index);
  return text;
}

}  // namespace

std::string html_ladder(std::span<const Rung> rungs, const FigureKind& kind, std::string_view of) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const auto& [stage, figure] : rungs) {
    if (!std::isfinite(figure.value)) return {};
    const Interval range = figure.interval.value_or(Interval{figure.value, figure.value});
    low = std::min({low, figure.value, range.low});
    high = std::max({high, figure.value, range.high});
  }
  if (rungs.empty()) return {};
  const Axis axis{axis_ticks(low, high, 5)};
  const auto x = [&](double value) { return 100 * axis.place(value); };
  std::string text = fmt::format(
      "<figure><figcaption class=\"soft\">{}{}; the thick line is the interval.</figcaption>\n",
      kind.title,
      kind.better == 0  ? ""
      : kind.better > 0 ? ", more is better"
                        : ", less is better");
  for (const auto& [stage, figure] : rungs) {
    const Interval range = figure.interval.value_or(Interval{figure.value, figure.value});
    text += fmt::format(
        "<div class=\"rung\"><span>{0}</span><svg viewBox=\"0 0 100 10\" "
        "preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{0} on {1}: {2:.{3}f} {4}, "
        "interval "
        "{5}\"><line class=\"track\" x1=\"0\" x2=\"100\" y1=\"5\" y2=\"5\"/>"
        "<line class=\"range\" x1=\"{6:.3f}\" x2=\"{7:.3f}\" y1=\"5\" y2=\"5\"/>"
        "<line class=\"value\" x1=\"{8:.3f}\" x2=\"{8:.3f}\" y1=\"1\" y2=\"9\"/></svg>"
        "<b>{2:.{3}f}</b></div>\n",
        escaped(stage), escaped(of), figure.value, kind.digits, kind.title,
        range_text(figure.interval, kind.digits), x(range.low), x(range.high), x(figure.value));
  }
  text += "<div class=\"rung\" aria-hidden=\"true\"><div class=\"ticks\">";
  for (const double tick : axis.ticks)
    text += fmt::format("<span style=\"left:{:.2f}%\">{}</span>", x(tick), axis.label(tick));
  return text + "</div></div></figure>\n";
}

std::string suite_section(const Evaluation& evaluation, const Analysis& analysis,
                          const SuiteResult& first, const PageOptions& options) {
  const std::vector<StageFigures> stages = stages_of(evaluation, analysis, first.name);
  const std::string heading = suite_heading(first, options.bootstrap);
  return fmt::format("<section><h2>{}{}</h2>\n<p class=\"soft lines\">{}</p>\n",
                     escaped(first.name), first.labels.must_keep ? " (must be kept)" : "",
                     escaped(heading.substr(first.name.size() + 2))) +
         sentences(evaluation, analysis, first.name, options.bootstrap) +
         main_ladder(stages, first) + figures_table(stages, first.name) + sources(stages, first) +
         answers(stages, options.examples) + "</section>\n";
}

}  // namespace weft::eval
