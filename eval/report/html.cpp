#include "eval/report/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "core/version.h"
#include "eval/report/headline.h"
#include "eval/report/html_suite.h"
#include "eval/report/page.h"
#include "eval/statistics/figures.h"

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
    text +=
        fmt::format("<tr><td class=\"{}\">{}</td><td>{}</td>{}{}{}</tr>\n",
                    gate.passed ? "good" : "bad", gate.passed ? "passed" : "failed",
                    escaped(gate.text), table_cell("measured", fmt::format("{:.6g}", gate.left)),
                    table_cell("bound", gate.bound ? fmt::format("{:.6g}", *gate.bound) : "-"),
                    table_cell("limit", fmt::format("{:.6g}", gate.limit)));
  }
  return "<section><h2>Gates</h2>\n" + wide_table("gates", text + "</tbody>") + "</section>\n";
}

/// The mean of each language's suites in every stage, where there is more than one language: a
/// ladder for each figure, since bits per byte and accuracy have no scale in common.
std::string languages_section(const Evaluation& evaluation, const Analysis& analysis) {
  struct Ladder {
    std::string language;
    std::string_view figure;
    std::vector<Rung> rungs;
  };
  std::vector<Ladder> ladders;
  std::set<std::string> languages;
  for (std::size_t i = 0; i < analysis.languages.size(); ++i) {
    for (const LanguageFigure& figure : analysis.languages[i]) {
      auto found = std::ranges::find_if(ladders, [&](const Ladder& ladder) {
        return ladder.language == figure.language && ladder.figure == figure.name;
      });
      if (found == ladders.end())
        found = ladders.insert(ladders.end(), {figure.language, figure.name, {}});
      found->rungs.push_back({evaluation.stages[i].name, figure.measured.figure});
      languages.insert(figure.language);
    }
  }
  if (languages.size() < 2) return {};
  std::string text =
      "<section><h2>By language</h2>\n<p class=\"soft\">The mean of each language's suites.</p>\n";
  for (const Ladder& ladder : ladders) {
    const FigureKind& kind = *figure_kind(ladder.figure);
    const std::string name = fmt::format(
        "{}: {}", ladder.language == "all" ? "all suites" : ladder.language, kind.title);
    text += fmt::format("<h3>{}</h3>\n", escaped(name)) + html_ladder(ladder.rungs, kind, name);
  }
  return text + "</section>\n";
}

/// What was learned, what was lost, whether it is fit to ship.
std::string headline_section(const Evaluation& evaluation, const Analysis& analysis,
                             std::span<const GateResult> gates, const BootstrapOptions& options) {
  const Headline said = headline(evaluation, analysis, gates, options);
  if (said.verdict.empty()) return {};
  const auto list = [](std::string_view title, const std::vector<std::string>& sentences) {
    if (sentences.empty()) return std::string();
    std::string text = fmt::format("<h3>{}</h3>\n<ul class=\"said\">\n", title);
    for (const std::string& sentence : sentences)
      text += fmt::format("<li>{}</li>\n", escaped(sentence));
    return text + "</ul>\n";
  };
  const char* tone = said.answer == Headline::Answer::kYes  ? " good"
                     : said.answer == Headline::Answer::kNo ? " bad"
                                                            : "";
  return fmt::format(
             "<section class=\"headline\"><h2>In short</h2>\n<p class=\"verdict{}\">{}</p>\n", tone,
             escaped(said.verdict)) +
         list("What was learned", said.learned) + list("What had to be kept", said.kept) +
         "</section>\n";
}

/// What a reader has to know before believing the intervals.
std::string notes_section(const Analysis& analysis) {
  if (analysis.notes.empty()) return {};
  std::string text;
  for (const std::string& note : analysis.notes)
    text += fmt::format("<li>{}</li>\n", escaped(note));
  return "<section><h2>How sure it is</h2>\n<ul class=\"said\">\n" + text + "</ul></section>\n";
}

std::string provenance(const Evaluation& evaluation, const BootstrapOptions& options) {
  std::string text = "<section><h2>How it was measured</h2>\n<dl>\n";
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(what), escaped(value));
  };
  for (const StageResult& stage : evaluation.stages) {
    std::string made_of = stage.model.string();
    if (!stage.model_digest.empty()) made_of += "\nSHA-256 " + stage.model_digest.substr(0, 16);
    for (std::size_t i = 0; i < stage.adapters.size(); ++i) {
      made_of += "\nwith " + stage.adapters[i].string();
      if (i < stage.adapter_digests.size() && !stage.adapter_digests[i].empty())
        made_of += "\nSHA-256 " + stage.adapter_digests[i].substr(0, 16);
    }
    if (!stage.quantise.empty()) made_of += "\nrounded as " + stage.quantise;
    line(stage.name, made_of);
  }
  line("precision", evaluation.dtype);
  line("tokens at once", std::to_string(evaluation.sequence_len));
  line("intervals",
       fmt::format(
           "{:g} %, percentile bootstrap over items, expanded for few, {} resamples, seed {}; "
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

std::string to_html(const Evaluation& evaluation, const Analysis& analysis,
                    std::span<const GateResult> gates, const PageOptions& options) {
  return page(options.title, to_sections(evaluation, analysis, gates, options));
}

std::string to_sections(const Evaluation& evaluation, const Analysis& analysis,
                        std::span<const GateResult> gates, const PageOptions& options) {
  std::string text = headline_section(evaluation, analysis, gates, options.bootstrap) +
                     gates_section(gates) + notes_section(analysis);
  if (!evaluation.stages.empty()) {
    text += languages_section(evaluation, analysis);
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
