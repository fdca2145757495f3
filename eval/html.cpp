#include "eval/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/version.h"
#include "eval/figures.h"
#include "eval/page.h"
#include "eval/spread.h"

namespace weft::eval {
namespace {

const Measured* named(const std::vector<Measured>& all, std::string_view name) {
  return figure_named(all, name);
}

std::string range_text(const std::optional<Interval>& range, int digits) {
  return range ? fmt::format("{:.{}f} .. {:.{}f}", range->low, digits, range->high, digits) : "-";
}

/// A stage's figures on one suite.
struct Rung {
  std::string stage;
  std::vector<Measured> figures;
};

std::vector<Rung> rungs_of(const Evaluation& evaluation, const SuiteResult& first,
                           const BootstrapOptions& options) {
  std::vector<Rung> rungs;
  for (const StageResult& stage : evaluation.stages) {
    const SuiteResult* suite = suite_named(stage, first.name);
    if (suite == nullptr) continue;
    rungs.push_back({stage.name, measure(*suite, suite == &first ? nullptr : &first, options)});
  }
  return rungs;
}

/// Bits per byte of each stage as a dash within its interval, on one scale.
std::string ladder(const std::vector<Rung>& rungs, std::string_view suite) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const Rung& rung : rungs) {
    const Estimate& bits = named(rung.figures, "bits_per_byte")->figure;
    if (!std::isfinite(bits.value)) return {};
    low = std::min(low, bits.interval ? bits.interval->low : bits.value);
    high = std::max(high, bits.interval ? bits.interval->high : bits.value);
  }
  const double room = std::max((high - low) * 0.05, 1e-6);
  low -= room;
  high += room;
  const auto x = [&](double value) { return 100 * (value - low) / (high - low); };
  std::string text = fmt::format(
      "<figure><figcaption class=\"soft\">Bits per byte from {:.3f} to {:.3f}, less is better; the "
      "thick line is the interval.</figcaption>\n",
      low, high);
  for (const Rung& rung : rungs) {
    const Estimate& bits = named(rung.figures, "bits_per_byte")->figure;
    const Interval range = bits.interval.value_or(Interval{bits.value, bits.value});
    text += fmt::format(
        "<div class=\"rung\"><span>{}</span><svg viewBox=\"0 0 100 10\" "
        "preserveAspectRatio=\"none\" "
        "role=\"img\" aria-label=\"{} on {}: {:.4f} bits per byte, interval {}\">"
        "<line class=\"track\" x1=\"0\" x2=\"100\" y1=\"5\" y2=\"5\"/>"
        "<line class=\"range\" x1=\"{:.3f}\" x2=\"{:.3f}\" y1=\"5\" y2=\"5\"/>"
        "<line class=\"value\" x1=\"{:.3f}\" x2=\"{:.3f}\" y1=\"1\" y2=\"9\"/></svg>"
        "<b>{:.4f}</b></div>\n",
        escaped(rung.stage), escaped(rung.stage), escaped(suite), bits.value,
        range_text(bits.interval, 4), x(range.low), x(range.high), x(bits.value), x(bits.value),
        bits.value);
  }
  return text + "</figure>\n";
}

/// The figures that any stage has, in the order in which they are shown.
std::vector<const FigureKind*> columns_of(const std::vector<Rung>& rungs) {
  std::vector<const FigureKind*> columns;
  for (const FigureKind& kind : figure_kinds()) {
    if (std::ranges::any_of(rungs,
                            [&](const Rung& r) { return named(r.figures, kind.name) != nullptr; }))
      columns.push_back(&kind);
  }
  return columns;
}

std::string table(const std::vector<Rung>& rungs) {
  const std::vector<const FigureKind*> columns = columns_of(rungs);
  std::string text = "<thead><tr><th scope=\"col\">stage</th>";
  for (const FigureKind* kind : columns)
    text += fmt::format("<th scope=\"col\" class=\"number\">{}</th>", kind->name);
  text += "</tr></thead><tbody>\n";
  for (const Rung& rung : rungs) {
    text += fmt::format("<tr><th scope=\"row\">{}</th>", escaped(rung.stage));
    for (const FigureKind* kind : columns) {
      const Measured* measured = named(rung.figures, kind->name);
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
  return wide_table("figures", text + "</tbody>");
}

/// What each stage changed: against the first, and from the third on against the one before it.
std::string sentences(const Evaluation& evaluation, const SuiteResult& first,
                      const BootstrapOptions& options) {
  std::string text;
  const SuiteResult* before = nullptr;
  std::string before_name;
  for (const StageResult& stage : evaluation.stages) {
    const SuiteResult* suite = suite_named(stage, first.name);
    if (suite == nullptr) continue;
    const auto add = [&](const SuiteResult& other, const std::string& other_name) {
      const std::vector<Measured> figures = measure(*suite, &other, options);
      const Estimate& change = *named(figures, "bits_per_byte")->difference;
      text += fmt::format(
          "<p>{}</p>\n",
          escaped(difference_sentence(stage.name, other_name, change.value, change.interval)));
    };
    if (suite != &first) add(first, evaluation.stages.front().name);
    if (before != nullptr && before != &first) add(*before, before_name);
    before = suite;
    before_name = stage.name;
  }
  return text;
}

std::string marked(std::string_view output, std::string_view reference) {
  std::string text;
  for (const DiffPart& part : character_diff(output, reference)) {
    text += part.common ? escaped(part.text) : "<mark>" + escaped(part.text) + "</mark>";
  }
  return text;
}

std::string examples(const Evaluation& evaluation, const SuiteResult& first, std::int64_t count) {
  if (first.generations.empty() || count < 1) return {};
  std::string text =
      "<h3>Answers</h3>\n<p class=\"soft\">Marked: characters that the reference does not have in "
      "this order.</p>\n";
  const auto line = [&](std::string_view who, std::string_view html) {
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(who), html);
  };
  for (const std::size_t index : spread(first.generations.size(), count)) {
    const Generation& sample = first.generations[index];
    text += "<dl>\n";
    line("prompt", escaped(sample.prompt));
    line("reference", escaped(sample.reference));
    for (const StageResult& stage : evaluation.stages) {
      const SuiteResult* suite = suite_named(stage, first.name);
      if (suite == nullptr || index >= suite->generations.size()) continue;
      const Generation& written = suite->generations[index];
      line(fmt::format("{} (chrF {:.0f})", stage.name, chrf_score(written.chrf, kChrf)),
           marked(written.output, sample.reference));
    }
    text += "</dl>\n";
  }
  return text;
}

std::string suite_section(const Evaluation& evaluation, const SuiteResult& first,
                          const PageOptions& options) {
  const std::vector<Rung> rungs = rungs_of(evaluation, first, options.bootstrap);
  std::string text = fmt::format("<section><h2>{}</h2>\n", escaped(first.name));
  text += sentences(evaluation, first, options.bootstrap);
  text += ladder(rungs, first.name) + table(rungs);
  return text + examples(evaluation, first, options.examples) + "</section>\n";
}

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

std::string difference_sentence(std::string_view stage, std::string_view first, double difference,
                                const std::optional<Interval>& interval) {
  if (!std::isfinite(difference)) return fmt::format("{} and {} cannot be compared.", stage, first);
  const std::string size = fmt::format("{:.4f} bits per byte {} than {}", std::abs(difference),
                                       difference < 0 ? "less" : "more", first);
  if (!interval) return fmt::format("{} needs {}; one item shows no interval.", stage, size);
  const std::string range = fmt::format("({:+.4f} .. {:+.4f})", interval->low, interval->high);
  if (interval->low <= 0 && interval->high >= 0) {
    return fmt::format("{}: no measurable difference from {}, {:+.4f} bits per byte {}.", stage,
                       first, difference, range);
  }
  return fmt::format("{} needs {} {}: {}.", stage, size, range,
                     difference < 0 ? "better" : "worse");
}

std::string to_html(const Evaluation& evaluation, std::span<const GateResult> gates,
                    const PageOptions& options) {
  return page(options.title, to_sections(evaluation, gates, options));
}

std::string to_sections(const Evaluation& evaluation, std::span<const GateResult> gates,
                        const PageOptions& options) {
  std::string text = gates_section(gates);
  if (!evaluation.stages.empty()) {
    for (const SuiteResult& suite : evaluation.stages.front().suites)
      text += suite_section(evaluation, suite, options);
  }
  return text + provenance(evaluation, options.bootstrap);
}

}  // namespace weft::eval
