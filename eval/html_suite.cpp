#include "eval/html_suite.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "eval/languages.h"
#include "eval/page.h"
#include "eval/sentences.h"
#include "eval/spread.h"
#include "eval/tables.h"

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

std::string figures_table(const std::vector<StageFigures>& stages, std::string_view suite) {
  const std::vector<const FigureKind*> columns = columns_of(stages);
  std::vector<std::string> titles;
  for (const FigureKind* kind : columns) titles.emplace_back(kind->title);
  std::string text = head_of("stage", titles);
  for (const StageFigures& stage : stages) {
    text += fmt::format("<tr><th scope=\"row\">{}</th>", escaped(stage.stage));
    for (const FigureKind* kind : columns) {
      const Measured* measured = figure_named(*stage.figures, kind->name);
      if (measured == nullptr) {
        text += "<td class=\"number\">-</td>";
        continue;
      }
      text += fmt::format("<td class=\"number\">{:.{}f}<br><span class=\"soft\">{}</span></td>",
                          measured->figure.value, kind->digits,
                          range_text(measured->figure.interval, kind->digits));
    }
    text += "</tr>\n";
  }
  return wide_table(fmt::format("figures of {}", escaped(suite)), text + "</tbody>");
}

std::string sentences(const Evaluation& evaluation, const Analysis& analysis,
                      std::string_view suite, const BootstrapOptions& options) {
  std::string text;
  for (const Comparison& comparison : analysis.comparisons) {
    if (comparison.suite == suite)
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
    for (const auto& stage : figures)
      text += fmt::format("<td class=\"number\">{:.{}f}</td>", stage[i].value, kind.digits);
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

std::string marked(std::string_view output, std::string_view reference) {
  std::string text;
  for (const DiffPart& part : character_diff(output, reference)) {
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
  line("prompt", escaped(sample.prompt));
  line("reference", escaped(sample.reference));
  for (const StageFigures& stage : stages) {
    if (index >= stage.suite->generations.size()) continue;
    const Generation& written = stage.suite->generations[index];
    line(fmt::format("{} (chrF {:.0f})", stage.stage, chrf_score(written.chrf, kChrf)),
         marked(written.output, sample.reference));
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
      "<h3>Answers</h3>\n<p class=\"soft\">Marked: characters that the reference does not have in "
      "this order.</p>\n";
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
    low = std::min(low, figure.interval ? figure.interval->low : figure.value);
    high = std::max(high, figure.interval ? figure.interval->high : figure.value);
  }
  if (rungs.empty()) return {};
  const double room = std::max((high - low) * 0.05, 1e-6);
  low -= room;
  high += room;
  const auto x = [&](double value) { return 100 * (value - low) / (high - low); };
  std::string text = fmt::format(
      "<figure><figcaption class=\"soft\">{} from {:.3f} to {:.3f}{}; the thick line is the "
      "interval.</figcaption>\n",
      kind.title, low, high,
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
  return text + "</figure>\n";
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
