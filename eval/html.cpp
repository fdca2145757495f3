#include "eval/html.h"

#include <fmt/format.h>

#include <map>
#include <string_view>

#include "core/version.h"
#include "eval/figures.h"
#include "eval/html_suite.h"
#include "eval/languages.h"
#include "eval/page.h"

namespace weft::eval {
namespace {

std::string gates_section(std::span<const GateResult> gates) {
  if (gates.empty()) return {};
  std::string text =
      "<thead><tr><th scope=\"col\">result</th><th "
      "scope=\"col\">gate</th><th scope=\"col\" class=\"number\">measured</th><th scope=\"col\" "
      "class=\"number\">bound</th><th scope=\"col\" class=\"number\">limit</th></tr></thead>"
      "<tbody>\n";
  for (const GateResult& gate : gates) {
    text += fmt::format(
        "<tr><td class=\"{}\">{}</td><td>{}</td><td class=\"number\">{:.6g}</td><td "
        "class=\"number\">{}</td><td class=\"number\">{:.6g}</td></tr>\n",
        gate.passed ? "good" : "bad", gate.passed ? "passed" : "failed", escaped(gate.text),
        gate.left, gate.bound ? fmt::format("{:.6g}", *gate.bound) : "-", gate.limit);
  }
  return "<section><h2>Gates</h2>\n" + wide_table("gates", text + "</tbody>") + "</section>\n";
}

/// The mean of each language's suites in every stage, where there is more than one language.
std::string languages_section(const Evaluation& evaluation, const BootstrapOptions& options) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<Rung>> rungs;
  std::map<std::string, std::string_view> figures;
  const auto all = language_figures(evaluation, options);
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (const LanguageFigure& figure : all[i]) {
      std::vector<Rung>& place = rungs[figure.language];
      if (place.empty()) order.push_back(figure.language);
      place.push_back({evaluation.stages[i].name, figure.measured.figure});
      figures[figure.language] = figure.name;
    }
  }
  if (order.size() < 2) return {};
  std::string text =
      "<section><h2>By language</h2>\n<p class=\"soft\">The mean of each language's suites.</p>\n";
  for (const std::string& language : order) {
    const std::string name = language == "all" ? "all suites" : language;
    text += fmt::format("<h3>{}</h3>\n", escaped(name)) +
            html_ladder(rungs[language], *figure_kind(figures[language]), name);
  }
  return text + "</section>\n";
}

std::string provenance(const Evaluation& evaluation, const BootstrapOptions& options) {
  std::string text = "<section><h2>How it was measured</h2>\n<dl>\n";
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(what), escaped(value));
  };
  for (const StageResult& stage : evaluation.stages) {
    std::string made_of = stage.model.string();
    for (const auto& adapter : stage.adapters) made_of += "\nwith " + adapter.string();
    line(stage.name, made_of);
  }
  line("precision", evaluation.dtype);
  line("tokens at once", std::to_string(evaluation.sequence_len));
  line("intervals", fmt::format("{:g} %, percentile bootstrap over items, {} resamples, seed {}; "
                                "differences on the same resamples",
                                100 * options.confidence, options.resamples, options.seed));
  if (evaluation.decoding) {
    line("answers",
         fmt::format("greedy, at most {} tokens, repetition penalty {:g}",
                     evaluation.decoding->max_tokens, evaluation.decoding->repetition_penalty));
  }
  line("program", fmt::format("weft {}", core::kVersion));
  return text + "</dl></section>\n";
}

}  // namespace

std::string to_html(const Evaluation& evaluation, std::span<const GateResult> gates,
                    const PageOptions& options) {
  return page(options.title, to_sections(evaluation, gates, options));
}

std::string to_sections(const Evaluation& evaluation, std::span<const GateResult> gates,
                        const PageOptions& options) {
  std::string text = gates_section(gates);
  if (!evaluation.stages.empty()) {
    const Analysis analysis = analyse(evaluation, options.bootstrap);
    text += languages_section(evaluation, options.bootstrap);
    // What must be kept is shown apart, after what was to be learned.
    for (const bool must_keep : {false, true}) {
      for (const SuiteResult& suite : evaluation.stages.front().suites) {
        if (suite.labels.must_keep == must_keep)
          text += suite_section(evaluation, analysis, suite, options);
      }
    }
  }
  return text + provenance(evaluation, options.bootstrap);
}

}  // namespace weft::eval
